"""How much room the disk of a storage has for what makes logs short again."""

from __future__ import annotations

import shutil

from ...server.durable.segments import ROOM_FOR_EACH, SEGMENT_BYTES
from ..config.storage_url import storage_folder


def little_room(storage: str | None, snapshot_bytes: int, shards: int) -> bool:
    """Whether logs that grow may fill a disk before one more snapshot is on it. Where nobody can say: no.

    Args:
        storage: of the cluster, with its logs and snapshots.
        snapshot_bytes: of a snapshot.
        shards: each of which has a log.
    """
    folder = storage_folder(storage)
    try:
        free = shutil.disk_usage(folder).free if folder is not None else None
    except OSError:
        return False
    return free is not None and free < snapshot_bytes + shards * ROOM_FOR_EACH * SEGMENT_BYTES


def to_go_on(snapshot_bytes: int, shards: int, *, snapshots: int = 1) -> int:
    """About how many bytes logs that failed need to go on for good.

    Two snapshots are kept and a third one is written beside them, and then logs are cut, which may be as long as one.
    Of a log there are beside that: what the last one left, the file that is written, the next one, and one more
    meanwhile.

    Args:
        snapshot_bytes: of one snapshot of all rows.
        shards: each of which has a log.
        snapshots: that are not there yet, of the two that are kept.
    """
    return (snapshots + 2) * snapshot_bytes + 4 * shards * SEGMENT_BYTES
