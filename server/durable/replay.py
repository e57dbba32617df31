"""A record of a log done again: to a shard that is as it was when the record was made.

What must hold: the shard is afterwards what it was then, to the bit. Kernels promise that the same requests in the same
order give the same bits; each record says what its change made of its last row, so a kernel that broke the promise is
found out, and a wrong table is never served.
"""

from __future__ import annotations

from ...proto import rowloom_pb2 as pb
from ...proto.codec import Push, Step
from ...proto.errors import RowloomError
from ...proto.spec import TableEntry
from ..shard import Shard
from .records import Kind, LogCorrupt, LoggedRecord


def replay(shard: Shard, record: LoggedRecord) -> None:
    """Do what a record says. Raises LogCorrupt: it cannot be done, or comes out otherwise than it did."""
    head, payload = record
    try:
        trace = _redo(shard, Kind(head.kind), payload)
    except RowloomError as e:
        raise LogCorrupt(f"record {head.lsn} of the log cannot be done again: {type(e).__name__}: {e}") from e
    if trace != (head.rows_after, head.fold):
        raise LogCorrupt(
            f"record {head.lsn} of the log made {head.rows_after} rows with checksum {head.fold:#010x}, done again it "
            f"makes {trace[0]} with {trace[1]:#010x}: this build of rowloom, or this processor, does not calculate as "
            "the one that wrote it"
        )


def _redo(shard: Shard, kind: Kind, payload: memoryview) -> tuple[int, int]:
    if kind in (Kind.PUSH, Kind.STEP):
        push = Push.decode(payload) if kind is Kind.PUSH else Step.decode(payload).push
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
    else:
        raise LogCorrupt(f"a log of pushes has no record of kind {kind.name}")
    return 0, 0
