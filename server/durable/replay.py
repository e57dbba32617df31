"""A record of a log done again: to a shard that is as it was when the record was made.

What must hold: the shard is afterwards what it was then, to the bit. Kernels promise that the same requests in the same
order give the same bits; each record says what its change made of its last row, so a kernel that broke the promise is
found out, and a wrong table is never served.
"""

from __future__ import annotations

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError, StateLost
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..moving.receive import Receive
from ..shard import Shard
from .counting import pushed
from .records import Kind, LogCorrupt, LoggedRecord


class NotReceived(StateLost):
    """A log ends before its shard had all rows that it was to receive. Nobody was told that it has them."""


class Replay:
    """The records of a log, one after the other.

    Args:
        shard: empty, without tables.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._receive: Receive | None = None

    def redo(self, record: LoggedRecord, *, compare: bool = True) -> None:
        """Do what a record says.

        Args:
            record: the next one.
            compare: whether it must leave what it left then; not where one before it was left out.

        Raises:
            LogCorrupt: it cannot be done, or comes out otherwise than it did.
        """
        head, payload = record
        try:
            trace = self._redo(Kind(head.kind), payload)
        except RowloomError as e:
            raise LogCorrupt(f"record {head.lsn} of the log cannot be done again: {e}") from e
        if compare and trace != (head.rows_after, head.fold):
            raise LogCorrupt(
                f"record {head.lsn} of the log left {head.rows_after} rows and checksum {head.fold:#010x}; done again "
                f"it leaves {trace[0]} and {trace[1]:#010x}: this build of rowloom, or this processor, does not "
                "calculate as the one that wrote it"
            )

    def finish(self) -> None:
        """There are no more. Raises NotReceived."""
        if self._receive is not None and not self._receive.done:
            raise NotReceived(
                f"shard {self._shard.index} of epoch {self._shard.layout.epoch} was still receiving its rows when its "
                "server ended: they are where they were before"
            )

    def _redo(self, kind: Kind, payload: memoryview) -> tuple[int, int]:
        shard = self._shard
        if kind in (Kind.PUSH, Kind.STEP):
            push = pushed(kind, payload)
            if shard.push(push):
                raise LogCorrupt("the log has the same push twice")
            return shard.trace(push)
        if kind is Kind.CREATE:
            shard.create_table(TableEntry.from_message(pb.TableEntry.FromString(bytes(payload))))
        elif kind is Kind.DROP:
            shard.drop_table(pb.DropTableRequest.FromString(bytes(payload)).table)
        elif kind is Kind.SET_LR:
            request = pb.SetLearningRateRequest.FromString(bytes(payload))
            shard.table(request.table).set_lr(request.lr, request.version)
        elif kind is Kind.RECEIVE:
            self._begin_receive(pb.PrepareRequest.FromString(bytes(payload)))
        elif kind in (Kind.RECEIVED, Kind.LEDGER):
            if self._receive is None or self._receive.done:
                raise LogCorrupt("rows came that nobody had asked for")
            self._receive.came(kind, bytes(payload))
        else:
            raise LogCorrupt(f"a shard's log has no record of kind {kind.name}")
        return 0, 0

    def _begin_receive(self, request: pb.PrepareRequest) -> None:
        for entry in request.tables:
            self._shard.create_table(TableEntry.from_message(entry))
        self._receive = Receive(Layout.from_message(request.source), self._shard)
