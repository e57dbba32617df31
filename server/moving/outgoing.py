"""Rows on their way to the shard that will own them: the reading end.

Why it is so. What must hold: a row that changes while rows travel is read again, whatever happens to messages. So the
generation is counted up *before* a block is read, and the next pass reads of those rows what has that mark or a later
one. Marks are compared and never cleared: a reply that is lost loses nothing, and the same block may be asked for
twice. A pass that begins while pushes wait is the last one.
A pass counts it up many times. Were it only once, at its beginning, a row that changed before it was read would be read
by the next pass again, as it is: half of them. Of rows that change as fast as they travel passes would never become
fewer.
The shard keeps nothing of who reads what: the request says where it goes on. So readers come and go as they like.
Rejected: a set of changed rows for each reader, cleared as they are sent: a lost reply loses a row. Rejected: sending
each push on to the new owner as well: it costs every push twice its time on a machine that is shared, and needs queues
with bounds.
Rows are written where the message is sent from, in protobuf's own encoding: it would copy them twice.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RetryLater, Unavailable
from ...proto.framing import Buffer, scalar, varint
from ...proto.layout import dealt_in
from ...proto.owners import owners_of
from ..ledger import PIECE_BYTES
from ..rows.rows import MOST_LOOKED_AT
from ..shard import Shard
from ..table import ShardTable

# Pushes wait while it is copied: 0.8 ms. A block of a quarter of that waits as long for its turn on a busy server, and
# a move took twice as long.
BLOCK_BYTES = 2 << 20
MOST_BYTES = 4 * BLOCK_BYTES  # of a block, whatever is asked for
MOST_TABLES = 64  # that one answer looks at
FRAMING_BYTES = 1 << 14  # of an answer, beside its rows; more where there are hundreds of tables
# Numbers in `rowloom.proto`: tables of ReadPassReply; table, ids, values and slots of MovedRows.
FIELDS = _TABLES, _NUMBER, _IDS, _VALUES, _SLOTS = 4, 1, 2, 3, 4


class PassBlock:
    """A ReadPassReply.

    Args:
        head: all of it but its rows.
        size: of the rows, about.
        space: where it is made, as long as there is room; None: in memory of its own.

    Attributes:
        head: see above.
        end: of its rows, in protobuf's encoding, which the reply begins with.
    """

    def __init__(self, head: pb.ReadPassReply, size: int, space: memoryview | None = None) -> None:
        self.head, self.end = head, 0
        self._in_space = space is not None
        self._buffer = (
            np.empty(size + FRAMING_BYTES, np.uint8) if space is None else np.frombuffer(space, np.uint8)
        )

    def encode(self) -> list[Buffer]:
        """As buffers."""
        return [self._buffer[: self.end].data, self.head.SerializeToString()]

    def place(self) -> int:
        """Where all of it ends in the space, in which it lies then; 0: it does not, or there was no room."""
        head = self.head.SerializeToString()
        end = self.end + len(head)
        if not self._in_space or end > len(self._buffer):
            return 0
        self._buffer[self.end : end] = np.frombuffer(head, np.uint8)
        return end

    def add(self, number: int, table: ShardTable, rows: np.ndarray) -> int:
        """Write rows of a table. rows: numbers, [N] int32. Returns how many bytes that takes."""
        sizes = [8 * len(rows), *(4 * len(rows) * width for width in table.widths)]
        fields = [_IDS, _VALUES, *[_SLOTS] * (len(sizes) - 2)]
        heads = [_head(field, size) for field, size in zip(fields, sizes, strict=True)]
        heads[0] = scalar(_NUMBER, number) + heads[0]
        inside = sum(map(len, heads)) + sum(sizes)
        heads[0] = _head(_TABLES, inside) + heads[0]
        begin, end = self.end, self.end + sum(map(len, heads)) + sum(sizes)
        self._make_room(end)
        places: list[int] = []
        for head, size in zip(heads, sizes, strict=True):
            at = self.end + len(head)
            self._buffer[self.end : at] = np.frombuffer(head, np.uint8)
            places.append(at)
            self.end = at + size
        table.copy_out(rows, self._buffer, places)
        return end - begin

    def _make_room(self, size: int) -> None:
        if size > len(self._buffer):
            larger = np.empty(size + FRAMING_BYTES, np.uint8)
            larger[: self.end] = self._buffer[: self.end]
            self._buffer, self._in_space = larger, False


def _head(number: int, size: int) -> bytes:
    return varint(number << 3 | 2) + varint(size)


def read_pass(
    shard: Shard, request: pb.ReadPassRequest, *, frozen: bool, space: memoryview | None = None
) -> PassBlock:
    """A block of a pass.

    Args:
        shard: whose rows are read.
        request: of whoever will own them.
        frozen: pushes wait.
        space: where rows are written, if there is room.

    Raises:
        TableNotFound, InvalidRequest.
        RetryLater: a last pass goes on, and pushes do not wait any more.
        Unavailable: this shard has started anew since the pass before.
        StateLost: a push has failed half-way.
    """
    tables = [shard.table(number) for number in request.tables[: len(shard.tables) + 1]]
    if len(tables) > len(shard.tables):
        raise InvalidRequest(
            f"{len(request.tables)} tables of a pass, and {len(shard.tables)} are here: one twice"
        )
    if request.new_index >= request.new_n or request.at > len(tables):
        raise InvalidRequest(
            f"there is no shard {request.new_index} of {request.new_n}, or no table {request.at} of {len(tables)}"
        )
    windows = Windows(request)
    if windows.latest > shard.generation or (request.since and not all(t.tracks for t in tables)):
        raise Unavailable(
            f"shard {shard.index} does not know what has changed: it has started anew meanwhile"
        )
    last = request.last if request.generation else frozen
    if last and not frozen:
        raise RetryLater("a last pass is read while pushes wait, and they go on again", retry_after_s=0.05)
    begins = request.mark or not request.generation
    generation = shard.begin_pass() if begins else request.generation
    left = min(request.limit_bytes or BLOCK_BYTES, MOST_BYTES)
    reply = pb.ReadPassReply(shard=shard.index, generation=generation, last=last, rows=shard.rows)
    reply.calls = shard.counters.pulls + shard.counters.pushes
    block = PassBlock(reply, left, space)
    at, cursor, looks = request.at, request.cursor, 0
    dealt = dealt_in(request.dealt)
    while at < len(tables) and at < request.at + MOST_TABLES and left > 0 and looks < MOST_LOOKED_AT:
        table, begin = tables[at], cursor
        owners = owners_of(table.spec.dealt(table.entry.dealing_by(dealt)), request.new_n)
        since, end = windows.of(at, begin)
        rows, cursor = table.find_owned(begin, left, since, owners, request.new_index, end)
        looks += max(0, (cursor or len(table)) - begin)
        if len(rows):
            left -= block.add(request.tables[at], table, rows)
        at += not cursor
    reply.at, reply.cursor, reply.done = at, cursor, at == len(tables)
    if reply.done:
        reply.steps.extend(table.step for table in tables)
        if last and request.ledger_bytes:
            reply.ledger.CopyFrom(shard.ledger.read(limit_bytes=min(request.ledger_bytes, PIECE_BYTES)))
            reply.ledger.shard = shard.index
    return block


def read_rows(shard: Shard, request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
    """A block of the rows that exist, with their slots. Raises TableNotFound."""
    table = shard.table(request.table)
    limit = min(request.limit_bytes or BLOCK_BYTES, MOST_BYTES)
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


class Windows:
    """Since when rows must have changed to be read again, by where they are. Pure.

    Attributes:
        latest: the latest of these generations.
    """

    def __init__(self, request: pb.ReadPassRequest) -> None:
        self._first = request.since
        marks = request.marks if request.since else ()
        self._places = [(mark.at, mark.cursor) for mark in marks]
        self._since = [mark.since for mark in marks]
        self.latest = max([request.since, *self._since])
        if self._places != sorted(self._places) or any(since < request.since for since in self._since):
            raise InvalidRequest("the marks of a pass must rise")

    def of(self, at: int, cursor: int) -> tuple[int, int]:
        """(since when, up to which cursor that holds; 0: to the end of the table) for rows of a table from there on."""
        k = bisect_right(self._places, (at, cursor))
        since = self._since[k - 1] if k else self._first
        if k < len(self._places) and self._places[k][0] == at:
            return since, self._places[k][1]
        return since, 0
