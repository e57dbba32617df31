"""Clusters that end as their machine does: every process of theirs at once."""

import os
import signal

from waiting import until

from rowloom.deploy.launch.processes import is_running, marked
from rowloom.deploy.operate.directory import ClusterDirectory


def kill_all(directory: ClusterDirectory, name: str) -> None:
    """The coordinator first, so that it starts no shard again. Returns when all are gone."""
    record = directory.get(name)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not is_running(record.pid, record.started))
    mark = str((directory.home / "clusters" / name).absolute())
    ended = marked(mark)
    for pid, _ in ended:
        os.kill(pid, signal.SIGKILL)
    # One that is about to be gone has no mark any more.
    until(lambda: not marked(mark) and not any(is_running(*one) for one in ended))
