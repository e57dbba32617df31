"""A snapshot that is to be restored, looked at before anything is started: what is in it, and whether there is room."""

from __future__ import annotations

import os
import shutil

from ...proto.errors import Unavailable
from ...proto.snapshots.extra import encode_extra
from ...proto.snapshots.snapshot import StoredSnapshot, open_snapshot
from ...server.rows.limits import available
from ..config.config import DeployConfig
from ..config.memory import in_bytes, row_bytes
from ..config.storage_url import storage_folder
from ..control.restoring import RestoreSource
from ..control.state import RestoredSnapshot


def restorable(url: str | os.PathLike[str], config: DeployConfig) -> RestoreSource:
    """A snapshot, for a cluster of that config. Only its manifests and specs are read, not its rows.

    Raises:
        SnapshotCorrupt: it is not there, was never finished, or is damaged; or one that it was made upon.
        InvalidRequest: nothing here can read such a URL.
        Unavailable: the store does not answer, or there is no room for its rows.
    """
    snapshot = open_snapshot(url)
    check_room(snapshot, config)
    manifest = snapshot.manifest
    about = RestoredSnapshot(
        id=snapshot.id,
        url=snapshot.url,
        rows=manifest.rows,
        bytes=manifest.bytes,
        parent=manifest.parent.id if manifest.parent else "",
        extra=encode_extra(snapshot.extra),
    )
    return RestoreSource(about, snapshot.layout, list(snapshot.tables.values()))


def check_room(snapshot: StoredSnapshot, config: DeployConfig) -> None:
    """Raise Unavailable if the rows of a snapshot surely find no room, as far as that can be known from here."""
    need = sum(snapshot.rows(name) * row_bytes(entry.spec) for name, entry in snapshot.tables.items())
    limit = config.ray.memory_per_shard
    if config.launcher == "ray":
        if limit is not None and need > limit * config.shards:
            raise _no_room(
                need, f"{config.shards} shards of {in_bytes(limit)} (ray.memory_per_shard)", "memory"
            )
        return
    memory = available()
    if need > memory.bytes:
        raise _no_room(need, f"{memory.what}, {in_bytes(memory.bytes)}", "memory")
    folder = storage_folder(config.storage)
    if config.durability != "memory" and folder is not None:
        while folder and not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        free = shutil.disk_usage(folder or "/").free
        if need > free:
            raise _no_room(need, f"the disk of {config.storage}, which has {in_bytes(free)} left", "logs")


def _no_room(need: int, where: str, what: str) -> Unavailable:
    return Unavailable(
        f"nothing was started: the rows of the snapshot take {in_bytes(need)} of {what}, and do not fit into {where}"
    )
