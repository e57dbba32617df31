"""Plain requests, recognized by compiled code: float32, every field where our own clients put it.

What is not plain may still be right: `codec.py` reads it.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel
from .memory import get_head, get_varint

_PULL_HEADER, _PULL_TABLE, _PUSH_TABLE = 1, 2, 9
_NUMBER, _IDS, _VALUES = 1, 2, 3


def plain_pull(data: np.ndarray, at: int, header: np.ndarray) -> list[tuple[int, int, int]] | None:
    """All tables of a PullRequest, as `read_pull` has them; None if it is not plain, or has none."""
    found = []
    while True:
        one = read_pull(data, at, header)
        table, begin, count = one
        if table < 0:
            return None
        found.append(one)
        at = begin + 8 * count
        if at == len(data):
            return found


@kernel
def read_pull(data, at, header):
    """The next table of a PullRequest. data, header: bytes, as arrays.

    at: where the table before it ended; 0 for the first, with which the request must have this header.

    Returns:
        (table, where its ids begin, how many: it ends with them); table -1 if it is not plain.
    """
    end = len(data)
    if at == 0:
        size, at = get_head(data, 0, end, _PULL_HEADER)
        if size != len(header):
            return np.int64(-1), np.int64(0), np.int64(0)
        for k in range(size):
            if data[at + k] != header[k]:
                return np.int64(-1), np.int64(0), np.int64(0)
        at += size
    size, at = get_head(data, at, end, _PULL_TABLE)
    if size < 0:
        return np.int64(-1), np.int64(0), np.int64(0)
    end = at + size
    table, at, count = _table(data, at, end)
    return (table if at + 8 * count == end else np.int64(-1)), np.int64(at), np.int64(count)


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
