"""Arrays of a request as they were received: made ours, checked to be finite, one gradient for each row."""

from __future__ import annotations

import numpy as np

from ..proto.jit import kernel


def own(array: np.ndarray) -> np.ndarray:
    """A copy, in memory that nobody else writes to: for what is checked and then decides, or is an index.

    The message may lie in memory that its client shares. An id that changes after it was checked would be a write to
    any place of this process; one that changes while it is looked up, a search without an end.
    """
    return array.copy() if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def contiguous(array: np.ndarray) -> np.ndarray:
    """As kernels want it, float32. What came off the wire may start at any byte: numba compiles for that too."""
    return np.ascontiguousarray(array, np.float32)


def is_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or NaN. values: [N, width] float32."""
    return _finite(contiguous(values))


def summed(numbers: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each number once, in the order of first appearance, with its gradients summed in order.

    numbers: [N] int32; grads: [N, width] float32, contiguous. Returned as they are if no number stands twice.
    """
    return _sum_repeats(numbers, grads) if _repeats(numbers) else (numbers, grads)


@kernel
def _finite(values: np.ndarray) -> np.bool_:
    # As whole vectors only when written like this; without the sign, infinity and NaN are the largest there are.
    bits = values.reshape(-1).view(np.uint32)
    worst = np.uint32(0)
    for k in range(len(bits)):
        unsigned = np.uint32(bits[k] << np.uint32(1))
        if unsigned > worst:
            worst = unsigned
    return worst < np.uint32(0xFF000000)


@kernel
def _repeats(numbers: np.ndarray) -> bool:
    """Whether a number stands twice. A small hash, which stays in the cache."""
    bits = 4
    while (1 << bits) < 2 * len(numbers):
        bits += 1
    mask = (1 << bits) - 1
    seen = np.full(1 << bits, -1, np.int32)
    for x in numbers:
        at = (np.int64(x) * 0x9E3779B1 >> 7) & mask  # pyright: ignore[reportUnknownVariableType]
        while seen[at] >= 0:
            if seen[at] == x:
                return True
            at = (at + 1) & mask  # pyright: ignore[reportUnknownVariableType]
        seen[at] = x
    return False


def _sum_repeats(numbers: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    order = np.argsort(first)
    place[order] = np.arange(len(first))
    out = np.zeros((len(first), grads.shape[1]), np.float32)
    _add_in_order(grads, place[inverse], out, np.zeros(len(first), np.bool_))
    return numbers[first[order]], out


@kernel
def _add_in_order(grads: np.ndarray, place: np.ndarray, out: np.ndarray, seen: np.ndarray):
    for k in range(len(grads)):
        u = place[k]
        if seen[u]:
            for j in range(grads.shape[1]):
                out[u, j] += grads[k, j]
        else:
            seen[u] = True
            for j in range(grads.shape[1]):
                out[u, j] = grads[k, j]
