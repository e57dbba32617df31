"""Where a shard server keeps what it acknowledges, as options of its command."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import time
from typing import TYPE_CHECKING

from ..config.config import DeployConfig

if TYPE_CHECKING:
    from ...server.durable.shard_log import ShardLogs


REMOVE_S = 5.0  # that logs are removed again
AGAIN_S = 0.05


def keeping(config: DeployConfig) -> list[str]:
    """Options of `rowloom.server.serve` for logs and snapshots; none without storage."""
    if config.storage is None:
        return []
    options = ["--snapshots", snapshots_of(config.storage)]
    if config.durability != "memory":
        options += ["--durability", config.durability, "--log-folder", _logs(config.storage)]
    return options


def logs_of(config: DeployConfig) -> ShardLogs | None:
    """The same for a server of this process; None: nothing is kept."""
    if config.storage is None or config.durability == "memory":
        return None
    from ...server.durable.log import Mode  # with the kernels, which commands that only look do not wait for
    from ...server.durable.shard_log import ShardLogs

    return ShardLogs(_logs(config.storage), Mode(config.durability))


def has_logs(storage: str | None, cluster_id: str) -> bool:
    """Whether there are logs of a cluster."""
    return storage is not None and os.path.isdir(logs_at(storage, cluster_id))


def any_logs(storage: str | None) -> bool:
    """Whether there are logs of any cluster."""
    return storage is not None and os.path.isdir(_logs(storage))


def logs_at(storage: str, cluster_id: str) -> str:
    """The folder with the logs of a cluster."""
    return os.path.join(_logs(storage), cluster_id)


def lost_logs(storage: str, cluster_id: str) -> set[str]:
    """The folders of those logs of a cluster whose loss was accepted, that are there."""
    return set(
        glob.glob(os.path.join(glob.escape(logs_at(storage, cluster_id)), "epoch-*", "shard-*.lost-*"))
    )


def size_of_logs(storage: str, cluster_id: str) -> int:
    """Bytes of the logs of a cluster. Raises OSError: they cannot be looked at."""
    files = [
        os.path.join(at, name) for at, _, names in os.walk(logs_at(storage, cluster_id)) for name in names
    ]
    return sum(os.stat(file).st_size for file in files)


def drop_logs(storage: str | None, cluster_id: str) -> None:
    """Remove the logs of a cluster that is down, if there are any. Raises OSError.

    A server that was killed may make one file more while they are removed: then it is done again.
    """
    until = time.monotonic() + REMOVE_S
    while storage is not None and has_logs(storage, cluster_id):
        try:
            shutil.rmtree(logs_at(storage, cluster_id))
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.ENOENT) or time.monotonic() >= until:
                raise
            time.sleep(AGAIN_S)
    if storage is not None:
        with contextlib.suppress(OSError):  # those of another cluster are there
            os.rmdir(_logs(storage))


def _logs(storage: str) -> str:
    return f"{storage.removeprefix('file://').rstrip('/')}/logs"


def snapshots_of(storage: str) -> str:
    """The folder of a cluster's snapshots."""
    return f"{storage.rstrip('/')}/snapshots"


def logs_beside(snapshot: str) -> str | None:
    """Where the logs are of the cluster that took a snapshot, if that is where it was put; None: it is elsewhere.

    snapshot: its folder.
    """
    above, _, _ = snapshot.rstrip("/").rpartition("/")
    storage, _, name = above.rpartition("/")
    return _logs(storage) if storage and name == "snapshots" and "://" not in storage else None
