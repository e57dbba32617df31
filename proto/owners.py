"""Which shard owns an id, for compiled code: what `layout.owner` says, one id at a time."""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np

from .jit import kernel
from .spec import TableSpec

_ALONE, _MOD, _HASHED, _DIV = range(4)


def owners_of(spec: TableSpec, n: int) -> np.ndarray:
    """What `owner_of` needs to know of a table on n shards: [6] int64; the first is the largest id."""
    q, r = (0, 0) if spec.num_embeddings is None else divmod(spec.num_embeddings, n)
    kind = _ALONE if n == 1 else _HASHED if spec.hash_ids else _MOD if spec.partition == "mod" else _DIV
    return np.array([spec.id_limit - 1, n, kind, q, r, r * (q + 1)], np.int64)


# The ids of one table on one shard: what `owners_of` says, and which shard.
Mine = tuple[np.ndarray, int]


@kernel
def owner_of(x, owners):
    """The shard of id x, which must be one of the table's."""
    n, kind = owners[1], owners[2]
    if kind == _ALONE:
        return np.int64(0)
    if kind == _DIV:
        q, r, longer = owners[3], owners[4], owners[5]
        return x // (q + 1) if x < longer else (x - r) // q
    u = np.uint64(x)
    if kind == _HASHED:
        u = (u ^ (u >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        u = (u ^ (u >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        u = (u ^ (u >> np.uint64(31))) >> np.uint64(1)
    # Short divisions are several times faster than long ones.
    if u >> np.uint64(32) == 0:
        return np.int64(np.uint32(u) % np.uint32(n))
    return np.int64(u % np.uint64(n))


@kernel
def first_stranger(ids, owners, shard):
    """Number of the first id that is none of the table's, or another shard's; len(ids) if there is none."""
    for k in range(len(ids)):
        if ids[k] < 0 or ids[k] > owners[0] or owner_of(ids[k], owners) != shard:
            return k
    return len(ids)
