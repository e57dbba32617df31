"""The last step of a snapshot: what the shards have written becomes one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ...proto.errors import InvalidRequest, SnapshotCorrupt
from ...proto.framing import Buffer
from ...proto.layout import Layout
from ...proto.snapshots.checksums import BlockSums
from ...proto.snapshots.extra import MAX_EXTRA_BYTES
from ...proto.snapshots.manifest import EXTRA, TABLES, Manifest, SnapshotName
from ...proto.snapshots.stored import StoredFile, StoredShard
from ...proto.snapshots.tables_file import tables_json
from ...proto.spec import TableEntry
from .target import SnapshotTarget


def commit_snapshot(
    target: SnapshotTarget,
    *,
    id: str,
    cluster_name: str,
    created_s: float,
    layout: Layout,
    shards: Sequence[StoredShard],
    tables: Sequence[TableEntry],
    parent: SnapshotName | None = None,
    extra: bytes = b"",
) -> Manifest:
    """Write what belongs to no shard, and then the manifest.

    Args:
        target: the snapshot's folder; each shard has finished its part of it.
        id: the folder's name.
        cluster_name: for people.
        created_s: the time of the cut, in seconds since 1970, UTC.
        layout: that of the cut.
        shards: what each shard's `finish` returned, in order.
        tables: by number.
        parent: what it is made upon; None: every shard wrote all of its rows.
        extra: what the user keeps with it, as `encode_extra`.

    Returns:
        What is in it, durable now.

    Raises:
        InvalidRequest: `extra` is too long, or the parts do not belong together; nothing was committed.
        OSError: the disk or the store failed. Whoever opens the snapshot sees whether it was committed.
    """
    if len(extra) > MAX_EXTRA_BYTES:
        raise InvalidRequest(f"extra has {len(extra)} bytes, at most {MAX_EXTRA_BYTES} are kept")
    steps = [
        max((s.step for shard in shards for s in shard.tables if s.number == t.number), default=0)
        for t in tables
    ]
    specs = tables_json(tables, steps)
    try:
        manifest = Manifest(
            id=id,
            cluster_id=layout.cluster_id,
            cluster_name=cluster_name,
            created_s=float(created_s),
            layout=layout,
            shards=tuple(shards),
            tables=_stored(TABLES, specs),
            parent=parent,
            extra=_stored(EXTRA, extra) if extra else None,
            extra_sha256=hashlib.sha256(extra).hexdigest() if extra else "",
        )
    except SnapshotCorrupt as e:
        raise InvalidRequest(f"these parts make no snapshot: {e}") from e
    for shard in shards:
        if [table.number for table in shard.tables] != [table.number for table in tables]:
            raise InvalidRequest(
                f"shard {shard.index} did not write the tables {[table.number for table in tables]}"
            )
    target.put(TABLES, [specs])
    if extra:
        target.put(EXTRA, [extra])
    target.commit(manifest.to_bytes())
    return manifest


def _stored(name: str, data: Buffer) -> StoredFile:
    sums = BlockSums()
    sums.add(data)
    return StoredFile(name, sums.bytes, sums.text())
