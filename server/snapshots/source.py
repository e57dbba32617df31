"""A snapshot in the place of the shards that it was made of: it answers what a shard that receives rows asks of them.

Why it is so. A shard of a new cluster fills itself as one of a new layout does (`moving/receive.py`): the same
questions in the same order, the same answers, and the same records in its log. So steps and ledgers are merged there
and nowhere else, and a shard that is killed after it was restored reads its log and needs no snapshot.
Each shard reads the files by itself and keeps what it owns. Files that can have nothing for it are passed over; should
one be passed over that has, fewer rows arrive than the manifest says, and the coordinator refuses the whole.
Rejected: one reader that sends rows to all. It would be the bottleneck, and a second way to fill a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, SnapshotCorrupt
from ...proto.layout import owner
from ...proto.partition import offset
from ...proto.snapshots.chain import TableRows
from ...proto.snapshots.folder import Scratch
from ...proto.snapshots.rows_file import RowBlock
from ...proto.snapshots.snapshot import StoredSnapshot
from ...proto.spec import TableSpec
from ..moving.receive import PeerCall
from ..shard import Shard

REPLY_BYTES = 4 << 20  # of rows in an answer, about


class SnapshotSource:
    """Answers the questions of one shard that receives, one after the other.

    Args:
        snapshot: where the rows are.
        shard: that receives.
    """

    def __init__(self, snapshot: StoredSnapshot, shard: Shard) -> None:
        self._snapshot, self._shard = snapshot, shard
        self._names = {entry.number: name for name, entry in snapshot.tables.items()}
        self._scratch = Scratch()
        self._replies: Iterator[pb.ReadPassReply | pb.ReadLedgerReply] = iter(())

    def answer(self, call: PeerCall) -> bytes:
        """The reply to a call.

        Raises:
            SnapshotCorrupt: a file is missing or damaged; the message names it, the block and its place.
            Unavailable: the store does not answer.
            InvalidRequest: it is no question that a shard asks while it receives.
        """
        if call.method == methods.READ_PASS:
            rows = pb.ReadPassRequest.FromString(call.data)
            if not rows.generation:
                self._replies = self._rows(rows.header.shard, rows.tables)
        elif call.method == methods.READ_LEDGER:
            ledger = pb.ReadLedgerRequest.FromString(call.data)
            if not ledger.cursor:
                self._replies = self._ledger(ledger.header.shard)
        else:
            raise InvalidRequest(f"a snapshot does not answer {call.method}")
        return next(self._replies).SerializeToString()

    def _ledger(self, old: int) -> Iterator[pb.ReadLedgerReply]:
        for number, piece in enumerate(self._snapshot.ledger(old), 1):
            piece.next, piece.shard = number, old
            yield piece
        yield pb.ReadLedgerReply(shard=old)

    def _rows(self, old: int, tables: Sequence[int]) -> Iterator[pb.ReadPassReply]:
        """What a shard of the snapshot has for this one, in one pass: it changes no more.

        An answer without rows says that a file was looked through.
        """
        parts = {table.number: table for table in self._snapshot.manifest.shards[old].tables}
        rows = sum(part.rows for part in parts.values())
        for number in tables:
            for block in self._blocks(old, self._names[number]) if number in self._names else ():
                for begin in range(0, max(1, len(block.ids)), step := self._rows_a_reply(block)):
                    reply = pb.ReadPassReply(shard=old, generation=1, last=True, rows=rows)
                    reply.tables.append(_moved(number, block, slice(begin, begin + step)))
                    yield reply
        steps = [
            parts[number].step if number in self._names else 0 for number in tables
        ]  # or the table is new
        yield pb.ReadPassReply(shard=old, generation=1, last=True, rows=rows, done=True, steps=steps)

    def _blocks(self, old: int, name: str) -> Iterator[RowBlock]:
        """The rows of a table on a shard of the snapshot that are this one's."""
        snapshot, shard = self._snapshot, self._shard
        entry, groups = snapshot.tables[name], snapshot.groups()
        spec = shard.tables[entry.number].spec
        if old >= len(
            groups
        ):  # the number of shards has changed within the chain: all rows come with shard 0
            return
        n, m = len(groups), shard.layout.n
        there, here = PlacedShard(entry.spec, old, n), PlacedShard(spec, shard.index, m)
        if n == snapshot.layout.n and not may_have(there, here):
            return
        for block in TableRows(snapshot.links, entry, groups[old]).blocks(self._scratch):
            if len(block.ids) and not 0 <= int(block.ids.min()) <= int(block.ids.max()) < spec.id_limit:
                raise SnapshotCorrupt(
                    f"{snapshot.url}: table {name!r} has ids in [0, {spec.id_limit}), a file of shard {old} has others"
                )
            mine = owner(spec, block.ids, m) == shard.index
            yield block if mine.all() else block.where(mine)

    @staticmethod
    def _rows_a_reply(block: RowBlock) -> int:
        columns = 2 + block.values.shape[1] + sum(slot.shape[1] for slot in block.slots)
        return max(1, REPLY_BYTES // (4 * columns))


def _moved(number: int, block: RowBlock, rows: slice) -> pb.MovedRows:
    return pb.MovedRows(
        table=number,
        ids=block.ids[rows].tobytes(),
        values=block.values[rows].tobytes(),
        slots=[slot[rows].tobytes() for slot in block.slots],
    )


@dataclass(frozen=True)
class PlacedShard:
    """Which rows of a table lie on a shard: the table's spec, the shard, and of how many."""

    spec: TableSpec
    index: int
    count: int


def may_have(there: PlacedShard, here: PlacedShard) -> bool:
    """Whether there can be ids on one shard that belong on another one, of a table with the same ids."""
    spec = here.spec
    if there.spec.partition != spec.partition or there.spec.hash_ids != spec.hash_ids:
        return True
    if spec.partition == "mod":  # x % there.count == there.index and x % here.count == here.index
        return (there.index - here.index) % gcd(there.count, here.count) == 0
    begin, end = (offset(there.index + k, there.count, spec.num_embeddings) for k in (0, 1))
    first, last = (offset(here.index + k, here.count, spec.num_embeddings) for k in (0, 1))
    return bool(begin < last and first < end)
