"""Requests and replies of rows, written and read by compiled code: the messages of `codec.py`, byte for byte.

Reading takes what is plain - every field where our own clients and shards put it - and says so when it is not; what is
not plain may still be right: `codec.py` reads it. `buffer` is an array of bytes that a message is sent from or lies in.

Why beside the codec: framing in Python costs a call of a thousand ids a quarter of its time in the client.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .jit import kernel
from .memory import copy_bytes, get_head, get_varint, head_bytes, put_head, put_varint, varint_bytes

_PULL_HEADER, _PULL_TABLE, _PULL_WIRE, _PUSH_TABLE = 1, 2, 3, 9
_PUSH_HEADER, _CLIENT_ID, _CLIENT_EPOCH, _NAME, _LOW_WATER, _PUSH, _KIND, _WIRE = 1, 2, 3, 4, 5, 6, 7, 8
_OLDEST, _PARTS, _HEAD_END = 10, 13, 14
_NAME_EPOCH, _NAME_SHARD, _SEQ = (
    0,
    11,
    12,
)  # where a name's numbers are kept; heads that have fields 11, 12 are not plain
_NUMBER, _IDS, _VALUES = 1, 2, 3
_STEP_PUSH, _STEP_PULL = 1, 2
_BLOCK, _ROWS = 1, 1
_FLOAT32 = 0  # of wire types
_U8, _F32 = np.dtype("u1"), np.dtype("<f4")


@kernel
def read_pull(data, at):
    """The next table of a PullRequest. data: bytes, as an array.

    at: where the table before it ended; 0 for the first, before which the header stands and nothing else.

    Returns:
        (where the table begins, its number, where its ids begin, how many: it ends with them); number -1 if it is not
        plain.
    """
    end = len(data)
    if at == 0:
        size, at = get_head(data, 0, end, _PULL_HEADER)
        if size < 0:
            return np.int64(0), np.int64(-1), np.int64(0), np.int64(0)
        at += size
    begin = np.int64(at)
    size, at = get_head(data, at, end, _PULL_TABLE)
    if size < 0:
        return begin, np.int64(-1), np.int64(0), np.int64(0)
    end = at + size
    table, at, count = _table(data, at, end)
    return begin, (table if at + 8 * count == end else np.int64(-1)), np.int64(at), np.int64(count)


@kernel
def _table(data, at, end):
    """(number, where its ids begin, how many) of a table's field; number -1 if it is not plain."""
    if at >= end or data[at] != _NUMBER << 3:
        return np.int64(-1), at, np.int64(0)
    number, at = get_varint(data, at + 1, end)
    size, at = get_head(data, at, end, _IDS)
    if size < 0 or size % 8:
        return np.int64(-1), at, np.int64(0)
    return (number if number < 1 << 32 else np.int64(-1)), at, size // 8


@kernel
def read_push(data, at):
    """The next table of a PushRequest of which the tables are the last fields. data: bytes, as an array.

    at: where the table before it ended; 0 for the first.

    Returns:
        (table, where its field begins, where its ids begin, how many, where its values begin, where they and the table
        end); table -1 if it is not plain.
    """
    end = len(data)
    start = _skip_to(data, _PUSH_TABLE) if at == 0 else np.int64(at)
    size, at = get_head(data, start, end, _PUSH_TABLE)
    if size < 0:
        return np.int64(-1), start, start, np.int64(0), start, start
    end = at + size
    table, ids, count = _table(data, at, end)
    size, at = get_head(data, ids + 8 * count, end, _VALUES)
    if size < 0 or at + size != end:
        table = np.int64(-1)
    return table, start, np.int64(ids), np.int64(count), np.int64(at), np.int64(end)


@kernel
def read_push_head(data, end):
    """The fields of a PushRequest that stand before its tables, which begin at `end`, if there is one name.

    Returns:
        (where the header's field ends, client_id, client_epoch, the name's epoch, shard and seq, low_water, push, kind,
        wire, oldest_epoch, parts); the first is -1 if it is not plain. What is not there is 0.
    """
    found = np.zeros(_HEAD_END, np.int64)
    size, at = get_head(data, np.int64(0), end, _PUSH_HEADER)
    header = at + size if size >= 0 else np.int64(-1)
    identity = np.uint64(0)
    at, last = header, np.int64(_PUSH_HEADER)
    while header >= 0 and at < end:
        number, kind = np.int64(data[at] >> 3), data[at] & 7
        if number <= last or number >= _HEAD_END or number == _PUSH_TABLE or data[at] & 0x80:
            header = np.int64(-1)
        elif number == _CLIENT_ID and kind == 1 and at + 9 <= end:
            for k in range(8):
                identity |= np.uint64(data[at + 1 + k]) << np.uint64(8 * k)
            at += 9
        elif number == _NAME and kind == 2:
            size, at = get_head(data, at, end, _NAME)
            if size < 0 or not _read_name(data, at, at + size, found):
                header = np.int64(-1)
            at += size
        elif number in (_CLIENT_EPOCH, _LOW_WATER, _PUSH, _KIND, _WIRE, _OLDEST, _PARTS) and kind == 0:
            value, at = get_varint(data, at + 1, end)
            if value < 0 or (number in (_KIND, _WIRE) and value > 9):
                header = np.int64(-1)
            found[number] = value
        else:
            header = np.int64(-1)
        last = number
    if at != end or not found[_SEQ]:
        header = np.int64(-1)
    return (
        header,
        identity,
        found[_CLIENT_EPOCH],
        found[_NAME_EPOCH],
        found[_NAME_SHARD],
        found[_SEQ],
        found[_LOW_WATER],
        found[_PUSH],
        found[_KIND],
        found[_WIRE],
        found[_OLDEST],
        found[_PARTS],
    )


@kernel
def _read_name(data, at, end, found):
    """Whether a PartName is plain; then its numbers are in `found`."""
    last = 0
    while at < end:
        number = data[at] >> 3
        if data[at] & 0x87 or number <= last or number > 3:
            return False
        value, at = get_varint(data, at + 1, end)
        if value < 0 or (number == 2 and value >= 1 << 32):
            return False
        # No other field of a head has these places.
        found[_NAME_EPOCH if number == 1 else _NAME_SHARD if number == 2 else _SEQ] = value
        last = number
    return True


@kernel
def _skip_to(data, number):
    """Where the first field of that number begins that has a length, or the end; fields before it are below 16."""
    at, end = 0, len(data)
    while at < end and data[at] != (number << 3 | 2):
        kind = data[at] & 7
        if data[at] < 8 or data[at] & 0x80 or data[at] >> 3 == number:
            return np.int64(end)
        at += 1
        if kind == 0:
            longest = at + 9
            while at < end and at < longest and data[at] & 0x80:
                at += 1
            if at < end and data[at] & 0x80:
                return np.int64(end)
            at += 1
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            size, at = get_varint(data, at, end)
            if size < 0:
                return np.int64(end)
            at += size
        else:
            return np.int64(end)
    return np.int64(min(at, end))


# ------------------------------------------------------------------------------------------------ writing, reading


@kernel
def pull_bytes(table, count):
    """How long a table's field in a PullRequest is, for so many ids."""
    size = _pull_size(table, count)
    return head_bytes(size) + size


@kernel
def push_bytes(table, count, row_bytes):
    """How long a table's field in a PushRequest is, for so many ids and gradients of `row_bytes` bytes each."""
    size = _push_size(table, count, row_bytes)
    return head_bytes(size) + size


@kernel
def put_pull(buffer, at, lead, rest, table, ids, inside):
    """Write a PullRequest up to its first table's field, and this; returns where that ends.

    lead: the request's bytes before the first table; empty: write another table's field only.
    rest: how many bytes of other tables follow. inside: the request is the second half of a StepRequest.
    """
    if inside:
        at = put_head(buffer, at, _STEP_PULL, len(lead) + pull_bytes(table, len(ids)) + rest)
    copy_bytes(buffer, at, lead, 0, len(lead))
    at = put_head(buffer, at + len(lead), _PULL_TABLE, _pull_size(table, len(ids)))
    return _put_ids(buffer, at, table, ids)


@kernel
def put_push(buffer, at, lead, rest, table, ids, row_bytes, inside):
    """Write a PushRequest up to its first table's field, and this but for its gradients, of `row_bytes` bytes each.

    Arguments as of `put_pull`; inside: the request is the first half of a StepRequest.

    Returns:
        (where it begins, where the gradients do): with a lead they are divisible by 4, so it begins at `at` or soon
        after.
    """
    values, field = row_bytes * len(ids), push_bytes(table, len(ids), row_bytes)
    whole = len(lead) + field + rest
    begin = at
    if len(lead):
        begin += -(at + (head_bytes(whole) if inside else 0) + len(lead) + field - values) % 4
    at = put_head(buffer, begin, _STEP_PUSH, whole) if inside else begin
    copy_bytes(buffer, at, lead, 0, len(lead))
    at = put_head(buffer, at + len(lead), _PUSH_TABLE, _push_size(table, len(ids), row_bytes))
    return begin, put_head(buffer, _put_ids(buffer, at, table, ids), _VALUES, values)


@kernel
def _pull_size(table, count):
    return 1 + varint_bytes(table) + head_bytes(8 * count) + 8 * count


@kernel
def _push_size(table, count, row_bytes):
    values = row_bytes * count
    return _pull_size(table, count) + head_bytes(values) + values


@kernel
def _put_ids(buffer, at, table, ids):
    buffer[at] = _NUMBER << 3
    size = 8 * len(ids)
    at = put_head(buffer, put_varint(buffer, at + 1, table), _IDS, size)
    copy_bytes(buffer, at, ids, 0, size)
    return at + size


@kernel
def block_bytes(size):
    """How long a table's field in a PullReply is, for rows of `size` bytes."""
    inner = head_bytes(size) + size
    return head_bytes(inner) + inner


@kernel
def put_block(buffer, at, size):
    """Write a table's field in a PullReply up to its rows, of `size` bytes; returns where these begin.

    -1 if the buffer is too short for all of it.
    """
    if at + block_bytes(size) > len(buffer):
        return np.int64(-1)
    return put_head(buffer, put_head(buffer, at, _BLOCK, head_bytes(size) + size), _ROWS, size)


@kernel
def rows_in(buffer, at, end, size, inside, last):
    """Where the next rows are in a PullReply that ends at `end`; -1 if these are not `size` bytes.

    inside: this is a StepReply, from its beginning; last: nothing may follow.
    """
    if inside:
        pushed, at = get_head(buffer, at, end, _STEP_PUSH)
        if pushed < 0:
            return np.int64(-1)
        pulled, at = get_head(buffer, at + pushed, end, _STEP_PULL)
        if pulled < 0 or at + pulled != end:
            return np.int64(-1)
    block, at = get_head(buffer, at, end, _BLOCK)
    stop = at + block
    if block < 0 or (last and stop != end):
        return np.int64(-1)
    rows, at = get_head(buffer, at, stop, _ROWS)
    return np.int64(at) if rows == size and at + size == stop else np.int64(-1)


@dataclass(slots=True)
class Room:
    """Where the rows of a reply go.

    Attributes:
        buffer: what the whole reply will be written to, from its beginning; none: arrays of their own.
        lead: what stands in front of a PullReply of so many bytes in the whole reply; none: nothing.
        end: where the PullReply ends in the buffer, once `rows` has made all of it but the rows themselves; 0 if it
            has not been made there.
    """

    buffer: memoryview | None = None
    lead: Callable[[int], bytes] | None = None
    end: int = 0

    def rows(self, shapes: Sequence[tuple[int, int]], wire: int) -> list[np.ndarray]:
        """Arrays to fill: [N, width] float32 for each table, in the buffer at the place where `encode` has them."""
        space, at = self.buffer, 0
        if space is None or wire != _FLOAT32:
            return _elsewhere(shapes)
        buffer = np.frombuffer(space, _U8)
        if self.lead is not None:
            lead = self.lead(sum([block_bytes(4 * n * width) for n, width in shapes]))
            at = len(lead)
            if at > len(buffer):
                return _elsewhere(shapes)
            buffer[:at] = np.frombuffer(lead, _U8)
        out: list[np.ndarray] = []
        for shape in shapes:
            size = 4 * shape[0] * shape[1]
            at = put_block(buffer, at, size)
            if at < 0:
                return _elsewhere(shapes)
            out.append(np.ndarray(shape, _F32, space, at))
            at += size
        self.end = at
        return out


def _elsewhere(shapes: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    return [np.empty(shape, _F32) for shape in shapes]
