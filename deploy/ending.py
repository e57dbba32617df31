"""Signals that ask a command to end: it ends as at Ctrl-C, so that what it has begun is removed."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Generator

SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # of a supervisor, and of a terminal that is closed
INTERRUPTED = 130  # how a command ends at Ctrl-C: 128 and the number of SIGINT, as shells have it


@contextlib.contextmanager
def as_interrupts() -> Generator[None]:
    """The first of these signals is a KeyboardInterrupt here; the exit code then says which one it was.

    A signal that who started us wants to be ignored (nohup) stays ignored. Does nothing beside the main thread, which
    alone hears signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def end(number: int, _: object) -> None:
        # Only once: `timeout` sends it to a command and then to its group, and the second would end the clearing up.
        if not came:
            came.append(number)
            raise KeyboardInterrupt

    heeded = [one for one in SIGNALS if signal.getsignal(one) is signal.SIG_DFL]
    for one in heeded:
        signal.signal(one, end)
    try:
        yield
    except SystemExit as e:
        if e.code == INTERRUPTED and came:
            sys.exit(128 + came[0])
        raise
    finally:
        for one in heeded:
            signal.signal(one, signal.SIG_DFL)
