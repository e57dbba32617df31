"""What a shard server asks of the process that it is: its memory, and when to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..shard import Shard


def resident_bytes_here() -> int:
    """Memory of this process; 0 where that is not known."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # no /proc on this system
        return 0


def stop_at_sigterm(stop: Callable[[float], object], grace_s: float) -> None:
    """In a thread that hears of the signal by a pipe.

    A handler of Python runs in the main thread, which does not wake up where the system gives the signal to another
    one, as it does when a process that was stopped goes on.
    """
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells)
    signal.signal(signal.SIGTERM, lambda *_: None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]

    def wait() -> None:
        os.read(hears, 1)
        stop(grace_s)

    threading.Thread(target=wait, name="rowloom-signal", daemon=True).start()


def stop_at_end_of_stdin(stop: Callable[[float], object], grace_s: float) -> None:
    """In a thread, when whoever started this process is gone or done with it."""

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while sys.stdin.buffer.read(4096):
                pass
        stop(grace_s)

    threading.Thread(target=wait, daemon=True).start()


def give_back(shards: list[Shard]) -> None:
    """The memory of shards that nobody uses any more: in pieces, because pushes wait for a gigabyte at once."""
    while shards:
        for table in shards.pop().tables.values():
            for _ in table.release():
                time.sleep(0.001)
