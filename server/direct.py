"""Plain pulls answered with the help of compiled code: float32, written where the reply is sent from.

The messages are those of `proto/codec.py`. What is not plain is left to `Shard.pull`, which also says what is wrong.
"""

from __future__ import annotations

import numpy as np

from ..proto.jit import kernel
from ..proto.memory import copy_bytes, head_bytes, put_head
from ..proto.owners import owner_of
from .rows.memory import find

_BLOCK, _ROWS = 1, 1  # fields of a PullReply and of its blocks


@kernel
def first_stranger(ids, owners, shard):
    """Number of the first id that is none of the table's, or another shard's; len(ids) if there is none."""
    for k in range(len(ids)):
        if ids[k] < 0 or ids[k] > owners[0] or owner_of(ids[k], owners) != shard:
            return k
    return len(ids)


@kernel
def locate(data, at, owners, shard, index, bits, keys, ids, numbers):
    """Read the ids that lie at data[at:], and find their rows; whether all of them are this shard's.

    data: bytes; owners, shard: as of `first_stranger`; index, bits, keys: `Rows.look`; ids [N] int64 and numbers [N]
    int32 are filled. The ids are copied first: whoever shares the memory could change them after they were checked.
    """
    copy_bytes(ids, 0, data, at, 8 * len(ids))
    if first_stranger(ids, owners, shard) < len(ids):
        return False
    find(ids, index, bits, keys, numbers)
    return True


@kernel
def put_reply_head(space, at, size):
    """Write a table's block in a PullReply up to its `size` bytes of rows.

    Returns:
        Where the rows begin; -1 if there is not enough space.
    """
    block = head_bytes(size) + size
    if at + head_bytes(block) + block > len(space):
        return np.int64(-1)
    return np.int64(put_head(space, put_head(space, at, _BLOCK, block), _ROWS, size))
