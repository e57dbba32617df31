"""Where a shard server keeps what it acknowledges, as options of its command."""

from __future__ import annotations

from ..config.config import DeployConfig


def keeping(config: DeployConfig) -> list[str]:
    """Options of `rowloom.server.serve` for logs and snapshots; none without storage."""
    if config.storage is None:
        return []
    options = ["--snapshots", snapshots_of(config.storage)]
    if config.durability != "memory":
        folder = config.storage.removeprefix("file://").rstrip("/")
        options += ["--durability", config.durability, "--log-folder", f"{folder}/logs"]
    return options


def snapshots_of(storage: str) -> str:
    """The folder of a cluster's snapshots."""
    return f"{storage.rstrip('/')}/snapshots"
