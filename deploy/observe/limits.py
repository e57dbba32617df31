"""What a cluster may take and is meant to do, as its config says: memory of shards, snapshots by themselves."""

from __future__ import annotations

from typing import Any

from ...proto import rowloom_pb2 as pb
from ..config.changes import running_config
from ..config.memory import memory


def limits(status: pb.StatusReply) -> dict[str, Any]:
    """Plain values; None: there is no such bound, or it is not known.

    Returns:
        `process_bytes` that the launcher gives each shard's process; `rows_bytes` that a shard's rows take with every
        id pushed, as `plan` computes it; `extra_bytes` that rows may take of all shards together while they move;
        `snapshot_every_s`, of snapshots that are taken by themselves; `storage`, whether there is a place for any.
    """
    if not status.config:
        names = ("process_bytes", "rows_bytes", "extra_bytes", "snapshot_every_s")
        return {**dict.fromkeys(names), "storage": False}
    config = running_config(status)
    planned = memory(config, status)
    return {
        "process_bytes": planned.limit_bytes if config.launcher == "ray" else None,
        "rows_bytes": planned.bound_bytes if planned.tables else None,
        "extra_bytes": config.limits.max_extra_memory,
        "snapshot_every_s": config.snapshots.every,
        "storage": config.storage is not None,
    }
