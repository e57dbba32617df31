"""A sample of the ids of each table of a cluster: those that are asked for, and those whose rows exist."""

from __future__ import annotations

import numpy as np

from ...client.hottest import merged
from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from ...proto.security.credentials import Credentials
from ...proto.spec import TableEntry
from ..operate.reader import Reader
from ..operate.skew import HOT, Seen, WeighedIds

ROWS = 4096  # of each shard and table, whose ids are read
PLACES = (
    128  # of each table, on all of its shards together, that they are read at, where calls are left for it
)
MOST_CALLS = 2000  # that a plan makes; clusters with more shards and tables show their busiest tables only


def sample(
    address: str, credentials: Credentials, status: pb.StatusReply
) -> tuple[dict[str, Seen], dict[str, str]]:
    """What the shards have seen of each table: (by table; and in words, why not).

    Args:
        address: of the coordinator.
        credentials: what it and the shards are shown.
        status: of the cluster.

    Raises:
        RowloomError: the coordinator does not answer.
    """
    found: dict[str, Seen] = {}
    unknown: dict[str, str] = {}
    with Reader(address, credentials) as reader:
        by_load = sorted(reader.tables.values(), key=lambda entry: -_looked_at(status, entry.number))
        may = max(1, MOST_CALLS // (2 * max(reader.layout.n, 1)))
        pieces = pieces_of(reader.layout.n, min(may, len(by_load)))
        for entry in by_load[:may]:
            try:
                found[entry.spec.name] = _seen(reader, entry, status, pieces)
            except RowloomError as e:
                unknown[entry.spec.name] = str(e)
        unknown |= {entry.spec.name: "others are asked for more" for entry in by_load[may:]}
    return found, unknown


def pieces_of(shards: int, tables: int) -> int:
    """In how many pieces the ids of a shard's rows are read: all tables together stay within the calls of a plan."""
    left = MOST_CALLS // max(shards * tables, 1) - 1
    return max(1, min(left, -(-PLACES // max(shards, 1))))


def places(count: int, pieces: int, shard: int) -> list[tuple[int, int]]:
    """Where the ids of a shard's rows are read: (the first row, how many), in order.

    After a move rows lie one old owner after the other, so those that lie together say nothing of the others. At
    places that are equally far apart every other owner could be left out, so chance puts each somewhere in its part.

    Args:
        count: rows that the shard has.
        pieces: that they are read in, if they are more than ROWS.
        shard: its index.
    """
    if count <= ROWS:
        return [(0, ROWS)]
    some = ROWS // pieces
    part = count / pieces
    chance = np.random.default_rng(shard).random(pieces)
    return [(int((k + chance[k]) * part - chance[k] * some), some) for k in range(pieces)]


def _looked_at(status: pb.StatusReply, table: int) -> int:
    return sum(t.sampled_ids for s in status.shards for t in s.statistics.tables if t.table == table)


def _seen(reader: Reader, entry: TableEntry, status: pb.StatusReply, pieces: int) -> Seen:
    replies = reader.hottest(entry, HOT, recent=True)
    asked = [(np.frombuffer(r.recent, "<i8").astype(np.int64), float(r.sampled_ids)) for r in replies]
    rows: list[tuple[np.ndarray, float]] = []
    held = {
        s.shard.index: t.rows for s in status.shards for t in s.statistics.tables if t.table == entry.number
    }
    for shard in reader.layout.shards:
        count = held.get(shard.index, 0)
        if count:
            read = places(count, pieces, shard.index)
            ids = [reader.some_ids(entry, shard, begin, some) for begin, some in read]
            rows.append((np.concatenate(ids), float(count)))
    return Seen(WeighedIds.of(asked), WeighedIds.of(rows), merged(replies, HOT))
