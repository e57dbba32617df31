"""From ids to numbers of rows: an open-addressing hash with linear probing, at most 70 % full.

Why it is so. What must hold: numbers depend on the order of inserts and removals only, never on the hash, so that the
same pushes give the same bits on every shard and in every process.
Removal shifts later entries back instead of leaving tombstones: those would have to be swept, and a table whose rows
come and go would get slower meanwhile. Freed numbers form a list through `keys` itself (`keys[number] = -2 - next`, so
below zero, which no id is): neither removing nor reusing takes memory, so neither can fail for want of it.
The hash is keyed, or a trainer could choose ids that all collide: 60,000 of them made a call take seconds. The key is
xored into the id and the product is by a fixed number, the golden ratio, because ids often come in order, and of all
factors that one spreads them best: 90,000 ids in order take 1.21 looks each in the worst of 2,000 keys. Rejected: a
random factor, with which one process in a hundred takes 34 looks and one in a thousand 400. Take that up again together
with a second round of mixing, if somebody finds ids that collide whatever the key is; it costs about 1 ns an id.
The hash grows all at once: 80 ms at 10 million rows. Growing step by step comes when calls that long hurt.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np

from ...proto.jit import kernel
from ...proto.owners import first_stranger
from .kernels import add_to_bags
from .kernels import gather as write_out

_FIRST_BITS = 10
FIRST_PLACES = 1 << _FIRST_BITS
_NONE = np.empty(0, np.int32)


# The hash, [2 ** bits] int32; bits; the key.
Where = tuple[np.ndarray, int, int]


class Index:
    """The hash of one table. It holds numbers; the ids are in `keys` [capacity] int64, which belong to the rows.

    Args:
        key: what the hash is keyed with, in [0, 2**63); unknown to those who choose ids.

    Attributes:
        where: what compiled code finds rows by, beside `keys`.
    """

    def __init__(self, key: int) -> None:
        self.where: Where = np.full(FIRST_PLACES, -1, np.int32), _FIRST_BITS, key

    @property
    def nbytes(self) -> int:
        """Bytes of the hash."""
        return self.where[0].nbytes

    def find(self, ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Numbers of rows, -1 for those that do not exist. ids: [N] int64. Returns [N] int32."""
        out = np.empty(len(ids), np.int32)
        _find(ids, *self.where, keys, out)
        return out

    def grow(self, count: int, keys: np.ndarray, end: int) -> bool:
        """Make room for `count` rows; `end` numbers have been given so far. Returns whether it grew."""
        _, before, key = self.where
        bits = before
        while count * 10 > (1 << bits) * 7:  # at most 70 % full
            bits += 1
        if bits == before:
            return False
        places = np.full(1 << bits, -1, np.int32)
        _reindex(keys, end, places, bits, key)
        self.where = places, bits, key
        return True

    def insert(
        self, ids: np.ndarray, keys: np.ndarray, end: int, freed: int
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Give numbers to ids that have none: first those in the list that begins with `freed`, then from `end` on.

        Returns:
            (numbers [N] int32; those that are new, [M] int32; end and freed as they are now).
        """
        out = np.empty(len(ids), np.int32)
        # Most pushes name rows that exist, and looking these up is quicker by itself.
        missing = _find(ids, *self.where, keys, out)
        if not missing:
            return out, _NONE, end, freed
        new = np.empty(missing, np.int32)
        made, end, freed = _insert(ids, *self.where, keys, end, freed, out, new)
        return out, new[:made], end, freed

    def remove(self, ids: np.ndarray, keys: np.ndarray, freed: int) -> tuple[np.ndarray, int]:
        """Take ids out, and put their numbers into the list of freed ones; those that are not there are passed over.

        Returns:
            (the numbers [M] int32, freed as it is now).
        """
        out = np.empty(len(ids), np.int32)
        gone, freed = _remove(ids, *self.where, keys, freed, out)
        return out[:gone], freed


# Places are unsigned: numba then spares the test whether an index is below zero, and a search is 15 % quicker.
@kernel
def _place(row_id, bits, key):
    """Where the search for an id begins."""
    return ((np.uint64(row_id) ^ np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)


@kernel
def _next(place, bits):
    return (place + np.uint64(1)) & np.uint64((1 << bits) - 1)


@kernel
def _find(ids, places, bits, key, keys, out):
    """Fills out; returns how many have no row."""
    for k in range(len(ids)):
        at = _place(ids[k], bits, key)
        while True:
            row = places[at]
            if row < 0 or keys[np.uint64(row)] == ids[k]:
                out[k] = row
                break
            at = _next(at, bits)
    missing = 0
    for k in range(len(out)):  # by itself: in the loop above it costs a quarter of the time
        missing += out[k] < 0
    return missing


@kernel
def gather(ids, owners, shard, places, bits, key, keys, numbers, values, out, kind, a, b, start_key):
    """Check ids, find their rows and write them out, or what a row starts with: a pull, in one compiled call.

    Each more costs a pull of a thousand ids some hundredths of its time: what calls it is in no cache of the processor.
    ids: [N] int64; owners, shard: as of `first_stranger`; numbers: [N] int32, filled as by `Index.find`; values:
    [capacity, width] float32; out: [N, width] float32.

    Returns:
        Number of the first id that is none of the shard's, before anything was written; or N.
    """
    first = first_stranger(ids, owners, shard)
    if first == len(ids):
        _find(ids, places, bits, key, keys, numbers)
        write_out(values, numbers, ids, out, kind, a, b, start_key)
    return first


@kernel
def pool(
    ids, owners, shard, places, bits, key, keys, numbers, values, bags, factors, out, kind, a, b, start_key
):
    """As `gather`, for sums: what is found is added to bags. Arguments beyond those: as of `add_to_bags`."""
    first = first_stranger(ids, owners, shard)
    if first == len(ids):
        _find(ids, places, bits, key, keys, numbers)
        add_to_bags(values, numbers, ids, bags, factors, out, kind, a, b, start_key)
    return first


@kernel
def _insert(ids, places, bits, key, keys, end, freed, out, new):
    """Gives numbers where out has none."""
    made = 0
    for k in range(len(ids)):
        if out[k] >= 0:
            continue
        at = _place(ids[k], bits, key)
        while True:
            row = places[at]
            if row < 0:
                number = end
                if freed >= 0:
                    number = freed
                    freed = -2 - keys[number]
                else:
                    end += 1
                places[at] = number
                keys[number] = ids[k]
                out[k] = number
                new[made] = number
                made += 1
                break
            if keys[np.uint64(row)] == ids[k]:
                out[k] = row
                break
            at = _next(at, bits)
    return made, end, freed


@kernel
def _remove(ids, places, bits, key, keys, freed, out):
    mask = np.uint64((1 << bits) - 1)
    gone = 0
    for k in range(len(ids)):
        hole = _place(ids[k], bits, key)
        while places[hole] >= 0 and keys[places[hole]] != ids[k]:
            hole = _next(hole, bits)
        row = places[hole]
        if row < 0:
            continue
        at = _next(hole, bits)
        while places[at] >= 0:
            home = _place(keys[places[at]], bits, key)
            if (at - home) & mask >= (at - hole) & mask:  # The way from its home to here leads over the hole.
                places[hole] = places[at]
                hole = at
            at = _next(at, bits)
        places[hole] = -1
        keys[row] = -2 - freed
        freed = np.int64(row)
        out[gone] = row
        gone += 1
    return gone, freed


@kernel
def _reindex(keys, end, places, bits, key):
    for row in range(end):
        if keys[row] >= 0:
            at = _place(keys[row], bits, key)
            while places[at] >= 0:
                at = _next(at, bits)
            places[at] = row
