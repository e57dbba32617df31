"""Rows on their way to the shard that will own them: the reading end and the receiving end.

The receiver asks: of every old shard, table by table and block by block, for the rows that it will own, then for the
ledger. Receiving starts from nothing each time it is started, so it can be repeated.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout, ShardAddress
from ..ledger import merged_step
from ..received import own
from ..shard import Shard

BLOCK_BYTES = 1 << 20
_I64, _F32 = np.dtype("<i8"), np.dtype("<f4")


@dataclass
class PeerCall:
    """One request to another server; its reply bytes come back into the generator."""

    address: str
    method: str
    data: bytes


def read_rows(shard: Shard, request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
    """A block of the rows that exist, with their slots. Raises TableNotFound."""
    table = shard.table(request.table)
    limit = min(request.limit_bytes or BLOCK_BYTES, 16 * BLOCK_BYTES)
    ids, values, slots, after = table.read(request.cursor, limit, request.new_n, request.new_index)
    return pb.ReadRowsReply(
        ids=ids.astype(_I64, copy=False).tobytes(),
        values=values.astype(_F32, copy=False).tobytes(),
        slots=[slot.astype(_F32, copy=False).tobytes() for slot in slots],
        next=after,
        step=table.step,
    )


class Receive:
    """Fills a shard of the next epoch from the shards of this one."""

    def __init__(self, source: Layout, shard: Shard) -> None:
        self._source = source
        self._shard = shard
        self.rows = 0
        self.bytes = 0
        self.done = False

    def run(self) -> Generator[PeerCall, bytes, None]:
        """Yields calls, is sent the replies. Sets `done` at the end."""
        steps: dict[int, list[int]] = {number: [] for number in self._shard.tables}
        ledgers: list[pb.ReadLedgerReply] = []
        for old in self._source.shards:
            for number in self._shard.tables:
                steps[number].append((yield from self._table(old, number)))
            request = pb.ReadLedgerRequest(header=self._source.header(old.index))
            reply = yield PeerCall(old.address, methods.READ_LEDGER, request.SerializeToString())
            ledgers.append(pb.ReadLedgerReply.FromString(reply))
        for ledger in ledgers:
            self._shard.ledger.merge(ledger)
        for number, table in self._shard.tables.items():
            table.step = merged_step(number, list(zip(steps[number], ledgers, strict=True)))
        self.done = True

    def _table(self, old: ShardAddress, number: int) -> Generator[PeerCall, bytes, int]:
        table = self._shard.tables[number]
        cursor = 0
        while True:
            request = pb.ReadRowsRequest(
                header=self._source.header(old.index),
                table=number,
                cursor=cursor,
                limit_bytes=BLOCK_BYTES,
                new_n=self._shard.layout.n,
                new_index=self._shard.index,
            )
            data = yield PeerCall(old.address, methods.READ_ROWS, request.SerializeToString())
            reply = pb.ReadRowsReply.FromString(data)
            ids = own(np.frombuffer(reply.ids, _I64))  # kernels are compiled for arrays that are ours
            if len(ids):
                table.check_ids(ids)
                table.install(ids, _rows(reply.values, ids), [_rows(s, ids) for s in reply.slots])
            self.rows += len(ids)
            self.bytes += len(data)
            cursor = reply.next
            if cursor == 0:
                return reply.step


def _rows(data: bytes, ids: np.ndarray) -> np.ndarray:
    values = np.frombuffer(data, _F32)
    if values.size % len(ids):
        raise InvalidRequest(f"{values.size} values are no whole number of columns for {len(ids)} ids")
    return values.reshape(len(ids), -1)
