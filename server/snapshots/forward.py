"""A snapshot rolled forward: what a shard was at a later point, from a snapshot and its log, written as an increment.

Why it is so. The result is a snapshot like any other, so whatever reads one - a restore into other shards, `verify`,
`diff` - needs to know nothing of logs. Rejected: new shards that read logs themselves. A push is done again on the
shard that had it, with that shard's rows, ledger and steps; on other shards its rows lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from ...proto.snapshots.snapshot import StoredSnapshot
from ...proto.snapshots.stored import StoredShard
from ...proto.spec import TableEntry
from ..durable.counting import ShardPart
from ..durable.history import ShardHistory
from ..durable.point import Point
from ..durable.records import Head, LogCorrupt, LoggedRecord
from ..durable.replay import Replay
from ..shard import Shard
from ..taking import Taking
from .loading import load_shard
from .writing import write_cut


def rolled_shard(
    snapshot: StoredSnapshot, history: ShardHistory, point: Point, part: ShardPart
) -> tuple[Shard, int]:
    """A shard as it would be with those records of its log that count. Returns it, and how many there were.

    What a record leaves is compared with what it left then, up to the first one that is left out.

    Raises:
        LogCorrupt, SnapshotCorrupt, Unavailable, OSError: something cannot be read, or comes out otherwise.
    """
    shard = Shard(snapshot.layout, history.owner.shard, ())
    load_shard(snapshot, shard)
    replay = Replay(shard)
    compare, count = True, 0
    for record in history.until(point):
        if record.head.lsn in part.left_out:
            compare = False
            continue
        replay.redo(record, compare=compare)
        count += 1
    if history.end != part.end:
        raise LogCorrupt(
            f"the log of {history.owner} ended with record {part.end} before, and now with {history.end}: it changes"
        )
    for kind, payload in part.missed:
        head = Head(kind, len(payload), part.end, 0, 0)
        replay.redo(LoggedRecord(head, memoryview(payload)), compare=False)
    return shard, count


def write_increment(
    snapshot: StoredSnapshot, shard: Shard, id: str, url: str, lsn: int
) -> tuple[StoredShard, Sequence[TableEntry]]:
    """A shard's part of an increment upon the snapshot that it was read from.

    Args:
        snapshot: that one.
        shard: what `rolled_shard` returned.
        id: of the increment.
        url: its folder.
        lsn: of the last record of the shard's log that is in it.

    Returns:
        What was written, durable, and the tables, by number.

    Raises:
        OSError: the disk or the store failed.
    """
    cut = shard.cut(id=id, parent=snapshot.id)
    stored = StoredShard.from_json(write_cut(Taking(id, url, shard.index, lsn, 0, cut), nullcontext))
    return stored, sorted(shard.entries(), key=lambda entry: entry.number)
