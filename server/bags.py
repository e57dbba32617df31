"""Bags of rows on a shard: sums of a pull, and gradients of bags as gradients of ids.

Letters: N entries (one id of one bag), K bags. Everything is float32, in the order of the entries, each product and
each sum rounded once: the bits that numpy has for `factors[:, None] * rows`, added one row after the other.
"""

from __future__ import annotations

import numpy as np

from ..proto.codec import Block, from_wire, shaped
from ..proto.codec_bags import Entries
from ..proto.errors import InvalidRequest
from ..proto.jit import kernel
from ..proto.spec import SGD, TableEntry, TableSpec
from .received import own
from .table import ShardTable


def count_of(entries: Entries, what: str) -> int:
    """K, the number of bags of a pull. Raises InvalidRequest for bags and factors that do not fit the ids."""
    n = len(entries.ids)
    _check(n, entries.bags, entries.factors, n, what)
    return int(entries.bags.max()) + 1 if n else 0


def pooled(table: ShardTable, entries: Entries, count: int) -> np.ndarray:
    """The sum of each bag: [K, width] float32. Entries are ours and have been through `count_of`.

    Raises InvalidRequest: an id is out of range, or another shard's.
    """
    out = np.zeros((count, table.width), np.float32)
    table.pool(entries.ids, entries.bags, _factors(entries.factors, len(entries.ids)), out)
    return out


def expanded(
    ids: np.ndarray, block: Block, wire: int, width: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of bags as gradients of ids, one for each run of equal ids.

    Args:
        ids: [N] int64, ours; those of one id stand next to each other, or are several runs.
        block: gradients of K bags, flat; bags [N]; factors [N] or None.
        wire: how the gradients travelled.
        width: columns.
        what: what to call them in messages.

    Returns:
        ids [U] int64 and gradients [U, width] float32; not checked for NaN.

    Raises:
        InvalidRequest: sizes that do not fit, or a bag that is not there.
    """
    assert block.bags is not None
    if block.data.size % width:
        raise InvalidRequest(
            f"{what}: gradients of bags need a multiple of {width} values, got {block.data.size}"
        )
    count = block.data.size // width
    bags, factors = own(block.bags), None if block.factors is None else own(block.factors)
    _check(len(ids), bags, factors, count, what)
    grads = own(from_wire(shaped(block, count, width, what), wire))
    begins = np.flatnonzero(np.concatenate([ids[:1] == ids[:1], ids[1:] != ids[:-1]]))
    ends = np.append(begins[1:], len(ids))
    out = np.empty((len(begins), width), np.float32)
    _sum_runs(grads, begins, ends, bags, _factors(factors, len(ids)), out)
    return ids[begins], out


def _check(n: int, bags: np.ndarray, factors: np.ndarray | None, count: int, what: str) -> None:
    for name, array in (("bags", bags), ("factors", factors)):
        if array is not None and len(array) != n:
            raise InvalidRequest(f"{what}: {n} ids need {n} {name}, got {len(array)}")
    if n and (bags.min() < 0 or bags.max() >= count):
        k = int(np.flatnonzero((bags < 0) | (bags >= count))[0])
        raise InvalidRequest(f"{what}: bag {int(bags[k])} (number {k} of the request) is not in [0, {count})")


def _factors(factors: np.ndarray | None, n: int) -> np.ndarray:
    return np.ones(n, np.float32) if factors is None else factors


@kernel
def _sum_runs(
    grads: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    bags: np.ndarray,
    factors: np.ndarray,
    out: np.ndarray,
):
    for u in range(len(begins)):
        total = out[u]
        first = begins[u]
        for j in range(grads.shape[1]):
            total[j] = factors[first] * grads[bags[first], j]
        for k in range(first + 1, ends[u]):
            for j in range(grads.shape[1]):
                total[j] += factors[k] * grads[bags[k], j]


def compile_kernels() -> None:
    """Run the kernels once, so that no request waits for a compiler. See `table.compile_kernels`."""
    table = ShardTable(TableEntry(1, TableSpec("warm-up", 8, dim=2, optimizer=SGD())), 0, 1)
    ids, bags = np.array([1, 1, 2], np.int64), np.array([0, 1, 1], np.int32)
    pooled(table, Entries(1, ids, bags), 2)
    runs = np.array([1, 2, 1], np.int64)  # gradients that may be written to, unlike those off the wire
    ids, grads = expanded(runs, Block(np.ones(4, np.float32), bags=bags), 0, 2, "warm-up")
    table.check_push(ids, grads)
    table.push(ids, grads, 1)
