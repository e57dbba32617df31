"""Requests framed table by table, and their replies read, by compiled code: the messages are those of `proto/codec.py`.

`space` is an array of bytes from which a request is sent, or in which a reply lies.
"""

from __future__ import annotations

import numpy as np

from ...proto.jit import kernel
from ...proto.memory import copy_bytes, get_head, head_bytes, put_head, put_varint, varint_bytes
from .assembly import copy_rows

_STEP_PUSH, _STEP_PULL = 1, 2
_PULL_TABLE, _PUSH_TABLE = 2, 9
_TABLE, _IDS, _VALUES = 1, 2, 3
_BLOCK, _ROWS = 1, 1


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
def put_pull(space, at, lead, rest, table, ids, begin, end, inside):
    """Write a PullRequest up to its first table's field, and this for ids[begin:end]; returns where that ends.

    lead: the request's bytes before the first table; empty: write another table's field only.
    rest: how many bytes of other tables follow. inside: the request is the second half of a StepRequest.
    """
    if inside:
        at = put_head(space, at, _STEP_PULL, len(lead) + pull_bytes(table, end - begin) + rest)
    copy_bytes(space, at, lead, 0, len(lead))
    at = put_head(space, at + len(lead), _PULL_TABLE, _pull_size(table, end - begin))
    return _put_ids(space, at, table, ids, begin, end)


@kernel
def put_push(space, at, lead, rest, table, ids, row_bytes, inside):
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
    at = put_head(space, begin, _STEP_PUSH, whole) if inside else begin
    copy_bytes(space, at, lead, 0, len(lead))
    at = put_head(space, at + len(lead), _PUSH_TABLE, _push_size(table, len(ids), row_bytes))
    return begin, put_head(space, _put_ids(space, at, table, ids, 0, len(ids)), _VALUES, values)


@kernel
def _pull_size(table, count):
    return 1 + varint_bytes(table) + head_bytes(8 * count) + 8 * count


@kernel
def _push_size(table, count, row_bytes):
    values = row_bytes * count
    return _pull_size(table, count) + head_bytes(values) + values


@kernel
def _put_ids(space, at, table, ids, begin, end):
    space[at] = _TABLE << 3
    size = 8 * (end - begin)
    at = put_head(space, put_varint(space, at + 1, table), _IDS, size)
    copy_bytes(space, at, ids, 8 * begin, size)
    return at + size


@kernel
def rows_in(space, at, end, size, inside, last):
    """Where the next rows are in a PullReply that ends at `end`; -1 if these are not `size` bytes.

    inside: this is a StepReply, from its beginning; last: nothing may follow.
    """
    if inside:
        pushed, at = get_head(space, at, end, _STEP_PUSH)
        if pushed < 0:
            return np.int64(-1)
        pulled, at = get_head(space, at + pushed, end, _STEP_PULL)
        if pulled < 0 or at + pulled != end:
            return np.int64(-1)
    block, at = get_head(space, at, end, _BLOCK)
    stop = at + block
    if block < 0 or (last and stop != end):
        return np.int64(-1)
    rows, at = get_head(space, at, stop, _ROWS)
    return np.int64(at) if rows == size and at + size == stop else np.int64(-1)


@kernel
def spread(starts, bounds, inverse, out):
    """Fill out [N, width] float32: starts [n] int64, the addresses of each shard's rows; the rest as in a Route."""
    row_bytes = 4 * out.shape[1]
    where = np.empty(bounds[-1], np.int64)
    for s in range(len(starts)):
        for u in range(bounds[s], bounds[s + 1]):
            where[u] = starts[s] + row_bytes * (u - bounds[s])
    copy_rows(where, inverse, out)
