"""Where a shard server keeps what it acknowledges, as options of its command."""

from __future__ import annotations

import os
import shutil

from ..config.config import DeployConfig


def keeping(config: DeployConfig) -> list[str]:
    """Options of `rowloom.server.serve` for logs and snapshots; none without storage."""
    if config.storage is None:
        return []
    options = ["--snapshots", snapshots_of(config.storage)]
    if config.durability != "memory":
        options += ["--durability", config.durability, "--log-folder", _logs(config.storage)]
    return options


def has_logs(storage: str | None, cluster_id: str) -> bool:
    """Whether there are logs of a cluster."""
    return storage is not None and os.path.isdir(os.path.join(_logs(storage), cluster_id))


def drop_logs(storage: str | None, cluster_id: str) -> None:
    """Remove the logs of a cluster that is down, if there are any. Raises OSError."""
    if storage is not None and has_logs(storage, cluster_id):
        shutil.rmtree(os.path.join(_logs(storage), cluster_id))


def _logs(storage: str) -> str:
    return f"{storage.removeprefix('file://').rstrip('/')}/logs"


def snapshots_of(storage: str) -> str:
    """The folder of a cluster's snapshots."""
    return f"{storage.rstrip('/')}/snapshots"
