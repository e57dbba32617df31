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
        options += ["--durability", config.durability, "--log-folder", _logs(config)]
    return options


def drop_logs(config: DeployConfig, cluster_id: str) -> None:
    """Remove the logs of a cluster that is down. Raises OSError."""
    folder = os.path.join(_logs(config), cluster_id)
    if os.path.isdir(folder):
        shutil.rmtree(folder)


def _logs(config: DeployConfig) -> str:
    assert config.storage is not None  # which a config with logs has
    return f"{config.storage.removeprefix('file://').rstrip('/')}/logs"


def snapshots_of(storage: str) -> str:
    """The folder of a cluster's snapshots."""
    return f"{storage.rstrip('/')}/snapshots"
