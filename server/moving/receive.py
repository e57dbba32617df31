"""Rows on their way to the shard that will own them: the reading end and the receiving end.

The receiver asks: of every old shard, table by table and block by block, for the rows that it will own, then for the
ledger, piece by piece too: pushes wait meanwhile, so the pieces belong together. Receiving starts from nothing each
time it is started, so it can be repeated.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout, ShardAddress
from ..ledger import PIECE_BYTES
from ..received import own
from ..shard import Shard
from .steps import Latest, lacking, latest_pushes

BLOCK_BYTES = 1 << 20
PEER_ATTEMPTS = 5  # to ask another server that is busy or does not answer
_I64, _F32 = np.dtype("<i8"), np.dtype("<f4")


@dataclass
class PeerCall:
    """One request to another server; its reply bytes come back into the generator."""

    address: str
    method: str
    data: bytes


def peer_pause_s(attempt: int) -> float:
    """Seconds before attempt number `attempt` + 1, counted from 0."""
    return 0.05 * 2**attempt


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
        self._same: dict[bytes, bytes] = {}

    def run(self) -> Generator[PeerCall, bytes, None]:
        """Yields calls, is sent the replies. Sets `done` at the end."""
        steps: dict[int, list[int]] = {number: [] for number in self._shard.tables}
        pushes: list[dict[int, Latest]] = []
        for old in self._source.shards:
            for number in self._shard.tables:
                steps[number].append((yield from self._table(old, number)))
            pushes.append((yield from self._ledger(old)))
        ledger = self._shard.ledger
        ledger.settle()
        # Of a client that one of them has forgotten nobody knows what that one has counted.
        missed = lacking([{c: latest for c, latest in one.items() if ledger.knows(c)} for one in pushes])
        for number, table in self._shard.tables.items():
            table.step = max(step + one[number] for step, one in zip(steps[number], missed, strict=True))
        self.done = True

    def _ledger(self, old: ShardAddress) -> Generator[PeerCall, bytes, dict[int, Latest]]:
        """Merge the ledger of a shard. Returns its clients' latest pushes."""
        pushes: dict[int, Latest] = {}
        cursor = 0
        while True:
            header = self._source.header(old.index)
            request = pb.ReadLedgerRequest(header=header, cursor=cursor, limit_bytes=PIECE_BYTES)
            data = yield PeerCall(old.address, methods.READ_LEDGER, request.SerializeToString())
            piece = pb.ReadLedgerReply.FromString(data)
            self._shard.ledger.merge(piece)
            # Many clients push to the same tables: their list is kept once.
            pushes.update(
                (client, (push, self._same.setdefault(t, t))) for client, (push, t) in latest_pushes(piece)
            )
            self.bytes += len(data)
            cursor = piece.next
            if cursor == 0:
                return pushes

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
