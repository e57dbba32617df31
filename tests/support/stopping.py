"""Processes that are stopped, as if their machine hung."""

import contextlib
import os
import signal
from pathlib import Path

from waiting import until


def stop(pid: int) -> None:
    """SIGSTOP. Returns when the process stands still."""
    os.kill(pid, signal.SIGSTOP)
    until_stopped(pid)


def until_stopped(pid: int) -> None:
    """A signal takes a moment to reach every thread of a process."""

    def stands_still() -> bool:
        states: list[str] = []
        for task in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                states.append(task.read_text().rpartition(")")[2].split()[0])
        return bool(states) and all(state == "T" for state in states)

    until(stands_still)
