"""Signals that ask a command to end: it ends as at Ctrl-C, so that what it has begun is removed.

The command `rowloom` begins here, before anything is imported that takes a while: Ctrl-C ends that too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Generator

from .terminal import at_once

SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # of a supervisor, and of a terminal that is closed
SLOW = {
    "up",
    "restore",
    "demo",
    "bench",
}  # commands that import so much that people ask themselves what goes on
INTERRUPTED = 130  # how a command ends at Ctrl-C: 128 and the number of SIGINT, as shells have it


def main() -> None:
    """As `cli.main`; at Ctrl-C while it is imported, one line and the exit code of an interrupted command."""
    ignored = (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    )  # by who started us: it stays so
    if not ignored:
        signal.signal(signal.SIGINT, _end)
    with at_once("rowloom: one moment", quiet=not SLOW & set(sys.argv[1:2])):
        from .cli import main as run

    if not ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(*_: object) -> None:
    """Nothing was begun. A KeyboardInterrupt would be taken for a failed import by some of what is imported."""
    os.write(2, b"rowloom: interrupted\n")
    os._exit(INTERRUPTED)


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
