"""A running cluster against itself: do its shards agree with the coordinator, and does every row lie on its owner.

Why it is so. A count that is taken while trainers push is never exact, and nothing is stopped for a check. So each
shard is asked how many rows it has before its ids are read and after: what was read must lie between. When layout or
tables change meanwhile, what was read says nothing, and all is read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import Rerouted, RowloomError, TableNotFound, Unauthorized, Unavailable, cause
from ...proto.layout import Layout, ShardAddress, owner
from ...proto.security.credentials import NOTHING, Credentials
from ...proto.spec import TableEntry
from ..config.words import counted

ASK_S = 30.0
AT_ONCE = 8  # shards that are read at the same time
TRIES = 3
PIECE_BYTES = 4 << 20  # of ids, in one reply


@dataclass(frozen=True)
class Discrepancy:
    """One thing that is not as it must be.

    Attributes:
        kind: "no answer", "layout", "epoch", "tables", "rate", "rows", "owner" or "range".
        shard: of which shard.
        table: of which table; empty: of none.
        what: in words.
    """

    kind: str
    shard: int
    table: str
    what: str

    def __str__(self) -> str:
        table = f", table {self.table!r}" if self.table else ""
        return f"shard {self.shard}{table}: {self.kind}: {self.what}"


@dataclass(frozen=True)
class VerifiedCluster:
    """What was looked at.

    Attributes:
        epoch: of the layout.
        shards, tables: how many there are.
        rows: that were found, by table.
        faults: what is wrong; empty: nothing.
    """

    epoch: int
    shards: int
    tables: int
    rows: Mapping[str, int]
    faults: tuple[Discrepancy, ...]

    def to_json(self) -> dict[str, Any]:
        """As `rowloom verify --json` prints it."""
        return asdict(self) | {"rows": dict(self.rows), "faults": [asdict(f) for f in self.faults]}


def verify_cluster(coordinator: str, credentials: Credentials = NOTHING) -> VerifiedCluster:
    """Compare a cluster with itself, while it works.

    Args:
        coordinator: host:port.
        credentials: what the servers are shown.

    Raises:
        Unavailable: the coordinator does not answer, or the cluster changes each time that it is looked at.
    """
    with Channels(credentials) as channels:
        ask = partial(_ask, channels, coordinator, methods.DESCRIBE_LAYOUT, pb.DescribeLayoutReply)
        before = ask()
        for _ in range(TRIES):
            found = _looked_at(channels, before)
            after = ask()
            if after == before:
                return found
            before = after
    raise Unavailable(
        f"the cluster at {coordinator} changes while it is verified: its layout, its tables or a learning rate. Try "
        "again when that is done"
    )


def _looked_at(channels: Channels, wanted: pb.DescribeLayoutReply) -> VerifiedCluster:
    layout = Layout.from_message(wanted.layout)
    entries = {m.number: TableEntry.from_message(m) for m in wanted.tables}
    look = partial(_shard, channels, wanted, layout, entries)
    with ThreadPoolExecutor(min(AT_ONCE, layout.n), thread_name_prefix="rowloom-verify") as pool:
        looks = list(pool.map(look, layout.shards))
    rows = {e.spec.name: sum(counts.get(number, 0) for counts, _ in looks) for number, e in entries.items()}
    faults = tuple(fault for _, faults in looks for fault in faults)
    return VerifiedCluster(layout.epoch, layout.n, len(entries), rows, faults)


def _shard(
    channels: Channels,
    wanted: pb.DescribeLayoutReply,
    layout: Layout,
    entries: Mapping[int, TableEntry],
    shard: ShardAddress,
) -> tuple[dict[int, int], list[Discrepancy]]:
    """How many rows a shard has of each table, and what is wrong with it."""
    ask = partial(_ask, channels, shard.address)
    rows: dict[int, int] = {}
    try:
        health = ask(methods.HEALTH, pb.HealthReply)
        described = ask(methods.DESCRIBE_LAYOUT, pb.DescribeLayoutReply)
        faults = [
            *_of_layout(wanted.layout, described.layout, health, shard),
            *_of_tables(wanted, described, shard),
        ]
        if any(fault.kind == "epoch" for fault in faults):
            return rows, faults  # it answers nobody of this layout
        before = _counts(ask(methods.STATISTICS, pb.StatisticsReply))
        for number, entry in entries.items():
            if number in before:
                rows[number], more = _rows(channels, layout, shard, entry)
                faults += more
        after = _counts(ask(methods.STATISTICS, pb.StatisticsReply))
    except (Rerouted, TableNotFound) as e:  # a change meanwhile, or it never took one
        return rows, [Discrepancy("layout", shard.index, "", f"at {shard.address}: {e}")]
    except Unauthorized:  # nothing is wrong with the shard
        raise
    except RowloomError as e:
        return rows, [Discrepancy("no answer", shard.index, "", f"at {shard.address}: {cause(e)}")]
    for number, count in rows.items():
        faults += _of_count(entries[number], shard.index, count, before[number], after.get(number, 0))
    return rows, faults


def _counts(statistics: pb.StatisticsReply) -> dict[int, int]:
    return {t.table: t.rows for t in statistics.tables}


def _rows(
    channels: Channels, layout: Layout, shard: ShardAddress, entry: TableEntry
) -> tuple[int, list[Discrepancy]]:
    """How many rows a shard has of a table; and those that are not its own. Raises RowloomError."""
    count, faults = 0, dict[str, Discrepancy]()
    cursor = 0
    while True:
        request = pb.ReadRowsRequest(
            header=layout.header(shard.index),
            table=entry.number,
            cursor=cursor,
            limit_bytes=PIECE_BYTES,
            ids_only=True,
        )
        data = channels.call(shard.address, methods.READ_ROWS, request.SerializeToString(), ASK_S)
        reply = pb.ReadRowsReply.FromString(data)
        ids = np.frombuffer(reply.ids, "<i8").astype(np.int64)
        count += len(ids)
        for fault in strangers_in(entry, ids, shard.index, layout.n):
            faults.setdefault(fault.kind, fault)
        cursor = reply.next
        if not cursor:
            return count, list(faults.values())


def strangers_in(entry: TableEntry, ids: np.ndarray, shard: int, n: int) -> Iterator[Discrepancy]:
    """Rows that are not a shard's own. ids: [N] int64, those that it has; n: how many shards there are."""
    name, limit = entry.spec.name, entry.spec.id_limit
    outside = ids[(ids < 0) | (ids >= limit)]
    if len(outside):
        what = f"{counted(len(outside), 'row')} of ids that the table does not have, such as {outside[0]}: they are in "
        yield Discrepancy("range", shard, name, f"{what}[0, {limit})")
    ids = ids[(ids >= 0) & (ids < limit)]
    owners = owner(entry.spec, ids, n)
    wrong = np.flatnonzero(owners != shard)
    if len(wrong):
        first = wrong[0]
        what = (
            f"{counted(len(wrong), 'row')} of other shards, such as id {ids[first]} of shard {owners[first]}"
        )
        yield Discrepancy("owner", shard, name, what)


def _of_count(entry: TableEntry, shard: int, count: int, before: int, after: int) -> Iterator[Discrepancy]:
    """Rows that come into being meanwhile are among those that were read, or not."""
    if not min(before, after) <= count <= max(before, after):
        said = f"{before:,}" if before == after else f"{before:,} before and {after:,} after"
        yield Discrepancy(
            "rows", shard, entry.spec.name, f"{count:,} rows were read, and it says that it has {said}"
        )


def _of_layout(
    wanted: pb.Layout, found: pb.Layout, health: pb.HealthReply, shard: ShardAddress
) -> Iterator[Discrepancy]:
    at = f"at {shard.address}"
    if health.cluster_id != wanted.cluster_id or health.index != shard.index:
        what = f"shard {health.index} of cluster {health.cluster_id or 'none'!r} answers {at}"
        yield Discrepancy(
            "epoch", shard.index, "", f"{what}, not shard {shard.index} of {wanted.cluster_id!r}"
        )
    elif health.epoch != wanted.epoch:
        yield Discrepancy(
            "epoch", shard.index, "", f"{at}: it is of epoch {health.epoch}, not {wanted.epoch}"
        )
    elif health.incarnation != shard.incarnation:
        what = (
            f"{at}: its process has started since as {health.incarnation:016x}, not {shard.incarnation:016x}"
        )
        yield Discrepancy("layout", shard.index, "", what)
    elif found != wanted:
        yield Discrepancy("layout", shard.index, "", f"{at}: it knows {_words(found)}, not {_words(wanted)}")


def _words(layout: pb.Layout) -> str:
    shards = ", ".join(s.address for s in layout.shards)
    return f"epoch {layout.epoch} of {shards or 'no shard'}, coordinator {layout.coordinator or 'none'}"


def _of_tables(
    wanted: pb.DescribeLayoutReply, found: pb.DescribeLayoutReply, shard: ShardAddress
) -> Iterator[Discrepancy]:
    mine, theirs = {t.number: t for t in wanted.tables}, {t.number: t for t in found.tables}
    for number in mine.keys() - theirs.keys():
        yield Discrepancy("tables", shard.index, mine[number].spec.name, "it is not there")
    for number in theirs.keys() - mine.keys():
        yield Discrepancy("tables", shard.index, theirs[number].spec.name, "the cluster has no such table")
    for number in sorted(mine.keys() & theirs.keys()):
        a, b = mine[number], theirs[number]
        if a.spec != b.spec:
            yield Discrepancy(
                "tables", shard.index, a.spec.name, "its spec is another one than the coordinator's"
            )
        elif (a.lr, a.lr_version) != (b.lr, b.lr_version):
            what = f"it is {_rate(b)}, and {_rate(a)} with the coordinator"
            yield Discrepancy("rate", shard.index, a.spec.name, what)


def _rate(entry: pb.TableEntry) -> str:
    return f"{entry.lr:g} (change {entry.lr_version})" if entry.HasField("lr") else "the optimizer's own"


def _ask(channels: Channels, address: str, method: str, reply: type[Any]) -> Any:
    """A call without arguments. Raises RowloomError."""
    return reply.FromString(channels.call(address, method, b"", ASK_S))
