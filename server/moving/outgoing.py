"""Rows on their way to the shard that will own them: the reading end.

Why it is so. What must hold: a row that changes while rows travel is read again, whatever happens to messages. So a
pass counts the generation up *before* it reads, and the next one reads what has that mark or a later one. Marks are
compared and never cleared: a reply that is lost loses nothing, and the same block may be asked for twice. A pass that
begins while pushes wait is the last one.
The shard keeps nothing of who reads what: the request says where it goes on. So readers come and go as they like.
Rejected: a set of changed rows for each reader, cleared as they are sent: a lost reply loses a row. Rejected: sending
each push on to the new owner as well: it costs every push twice its time on a machine that is shared, and needs queues
with bounds.
"""

from __future__ import annotations

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RetryLater, Unavailable
from ...proto.layout import dealt_in
from ...proto.owners import owners_of
from ..rows.rows import MOST_LOOKED_AT
from ..shard import Shard

BLOCK_BYTES = 1 << 19  # pushes wait while it is copied: 1 ms
MOST_TABLES = 64  # that one answer looks at
_I64, _F32 = np.dtype("<i8"), np.dtype("<f4")


def read_pass(shard: Shard, request: pb.ReadPassRequest, *, frozen: bool) -> pb.ReadPassReply:
    """A block of a pass.

    Args:
        shard: whose rows are read.
        request: of whoever will own them.
        frozen: pushes wait.

    Raises:
        TableNotFound, InvalidRequest.
        RetryLater: a last pass goes on, and pushes do not wait any more.
        Unavailable: this shard has started anew since the pass before.
        StateLost: a push has failed half-way.
    """
    tables = [shard.table(number) for number in request.tables]
    if request.new_index >= request.new_n or request.at > len(tables):
        raise InvalidRequest(
            f"there is no shard {request.new_index} of {request.new_n}, or no table {request.at} of {len(tables)}"
        )
    if request.since > shard.generation or (request.since and not all(t.tracks for t in tables)):
        raise Unavailable(
            f"shard {shard.index} does not know what has changed: it has started anew meanwhile"
        )
    last = request.last if request.generation else frozen
    if last and not frozen:
        raise RetryLater("a last pass is read while pushes wait, and they go on again", retry_after_s=0.05)
    reply = pb.ReadPassReply(
        shard=shard.index, generation=request.generation or shard.begin_pass(), last=last, rows=shard.rows
    )
    left = min(request.limit_bytes or BLOCK_BYTES, 16 * BLOCK_BYTES)
    at, cursor, looks = request.at, request.cursor, 0
    dealt = dealt_in(request.dealt)
    while at < len(tables) and at < request.at + MOST_TABLES and left > 0 and looks < MOST_LOOKED_AT:
        begin = cursor
        owners = owners_of(tables[at].entry.placed_by(dealt), request.new_n)
        ids, values, slots, cursor = tables[at].read_owned(
            begin, left, request.since, owners, request.new_index
        )
        looks += max(0, (cursor or len(tables[at])) - begin)
        if len(ids):
            moved = reply.tables.add(
                table=request.tables[at], ids=_bytes(ids, _I64), values=_bytes(values, _F32)
            )
            moved.slots.extend(_bytes(slot, _F32) for slot in slots)
            left -= len(moved.ids) + len(moved.values) + sum(map(len, moved.slots))
        at += not cursor
    reply.at, reply.cursor, reply.done = at, cursor, at == len(tables)
    if reply.done:
        reply.steps.extend(table.step for table in tables)
    return reply


def read_rows(shard: Shard, request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
    """A block of the rows that exist, with their slots. Raises TableNotFound."""
    table = shard.table(request.table)
    limit = min(request.limit_bytes or BLOCK_BYTES, 16 * BLOCK_BYTES)
    ids, values, slots, after = table.read(
        request.cursor, limit, request.new_n, request.new_index, ids_only=request.ids_only
    )
    return pb.ReadRowsReply(
        ids=ids.astype("<i8", copy=False).tobytes(),
        values=values.astype("<f4", copy=False).tobytes(),
        slots=[slot.astype("<f4", copy=False).tobytes() for slot in slots],
        next=after,
        step=table.step,
    )


def _bytes(array: np.ndarray, dtype: np.dtype) -> bytes:
    return array.astype(dtype, copy=False).tobytes()
