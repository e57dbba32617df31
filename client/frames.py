"""Requests of one table framed, and their replies read, by compiled code: the messages are those of `proto/codec.py`.

`space` is an array of bytes from which a request is sent, or in which a reply lies.
"""

from __future__ import annotations

import numpy as np

from ..proto.jit import kernel
from ..proto.memory import copy_bytes, get_head, head_bytes, put_head, put_varint, varint_bytes
from .assembly import copy_rows

_STEP_PUSH, _STEP_PULL = 1, 2
_PULL_TABLE, _PUSH_TABLE = 2, 9
_TABLE, _IDS, _VALUES = 1, 2, 3


@kernel
def put_pull(space, at, lead, table, ids, begin, end, inside):
    """Write a PullRequest for ids[begin:end] of a table; returns where it ends.

    lead: the request's bytes before the table's field; inside: it is the second half of a StepRequest.
    """
    front = _front_bytes(table, end - begin)
    size = front + 8 * (end - begin)
    if inside:
        at = put_head(space, at, _STEP_PULL, len(lead) + head_bytes(size) + size)
    copy_bytes(space, at, lead, 0, len(lead))
    at = put_head(space, at + len(lead), _PULL_TABLE, size)
    return _put_ids(space, at, table, ids, begin, end)


@kernel
def put_push(space, at, lead, table, ids, row_bytes, inside):
    """Write a PushRequest for ids of a table, but for its last bytes: their gradients, of `row_bytes` bytes each.

    lead: as of `put_pull`; inside: it is the first half of a StepRequest.

    Returns:
        (where it begins, where the gradients do): that is divisible by 4, so the request begins at `at` or soon after.
    """
    values = row_bytes * len(ids)
    size = _front_bytes(table, len(ids)) + 8 * len(ids) + head_bytes(values) + values
    whole = len(lead) + head_bytes(size) + size
    end = at + whole + (head_bytes(whole) if inside else 0)
    begin = at + -(end - values) % 4
    at = put_head(space, begin, _STEP_PUSH, whole) if inside else begin
    copy_bytes(space, at, lead, 0, len(lead))
    at = put_head(space, at + len(lead), _PUSH_TABLE, size)
    return begin, put_head(space, _put_ids(space, at, table, ids, 0, len(ids)), _VALUES, values)


@kernel
def _front_bytes(table, count):
    """What a table's field has before its ids."""
    return 1 + varint_bytes(table) + head_bytes(8 * count)


@kernel
def _put_ids(space, at, table, ids, begin, end):
    space[at] = _TABLE << 3
    size = 8 * (end - begin)
    at = put_head(space, put_varint(space, at + 1, table), _IDS, size)
    copy_bytes(space, at, ids, 8 * begin, size)
    return at + size


@kernel
def rows_in(space, at, end, size, inside):
    """Where the rows are in a PullReply of one table with `size` bytes of rows; -1 if it is another one.

    inside: it is the second half of a StepReply.
    """
    if inside:
        pushed, at = get_head(space, at, end, _STEP_PUSH)
        if pushed < 0:
            return np.int64(-1)
        pulled, at = get_head(space, at + pushed, end, _STEP_PULL)
        if pulled < 0 or at + pulled != end:
            return np.int64(-1)
    block, at = get_head(space, at, end, 1)
    if block < 0 or at + block != end:
        return np.int64(-1)
    rows, at = get_head(space, at, end, 1)
    return np.int64(at) if rows == size and at + size == end else np.int64(-1)


@kernel
def spread(starts, bounds, inverse, out):
    """Fill out [N, width] float32: starts [n] int64, the addresses of each shard's rows; the rest as in a Route."""
    row_bytes = 4 * out.shape[1]
    where = np.empty(bounds[-1], np.int64)
    for s in range(len(starts)):
        for u in range(bounds[s], bounds[s + 1]):
            where[u] = starts[s] + row_bytes * (u - bounds[s])
    copy_rows(where, inverse, out)
