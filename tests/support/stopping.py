"""Processes that are stopped, as if their machine hung."""

import time
from pathlib import Path


def until_stopped(pid: int) -> None:
    """A signal takes a moment to reach every thread of a process."""

    def running() -> bool:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        return any(task.read_text().rpartition(")")[2].split()[0] != "T" for task in tasks)

    while running():
        time.sleep(0.001)
