"""Many rows to one: weighted sums, means and root-n means by bag; rows clipped to a norm; and their gradients. Pure.

Letters: N entries, B bags, `width` columns of a row laid flat. Half precision is summed in float32.
"""

from __future__ import annotations

import math

import numpy as np

from ...proto.errors import InvalidRequest
from ..calls.routing import distinct_of
from ..refusals import WrongType
from .bags import Bags

COMBINERS = ("sum", "mean", "sqrtn")


def check_combiner(combiner: str | None) -> str:
    """The combiner; None is "mean". Raises InvalidRequest."""
    if combiner is None:
        return "mean"
    if combiner not in COMBINERS:
        raise InvalidRequest(f"combiner must be one of {', '.join(COMBINERS)}, got {combiner!r}")
    return combiner


def pooled(rows: np.ndarray, bags: Bags, combiner: str) -> np.ndarray:
    """Rows combined by bag. rows: [N, *row_shape]. Returns [B, *row_shape] of the rows' type; empty bags are 0."""
    _check_floats(rows)
    wide = _wide(rows)
    factors = coefficients(bags, combiner).astype(wide.dtype)
    total = segment_sum(wide * _column(factors, wide), bags.segments, bags.count)
    return total.astype(rows.dtype)


def pooled_gradient(upstream: np.ndarray, bags: Bags, combiner: str) -> np.ndarray:
    """The gradient of each entry's row. upstream: [B, *row_shape]. Returns [N, *row_shape]."""
    wide = _wide(upstream)
    factors = coefficients(bags, combiner).astype(wide.dtype)
    return wide[bags.segments] * _column(factors, wide[bags.segments])


def weights_gradient(rows: np.ndarray, upstream: np.ndarray, bags: Bags, combiner: str) -> np.ndarray:
    """The gradient of each entry's weight. Shapes as above. Returns [N]."""
    wide = _flat(rows)
    grads = _flat(upstream.reshape(bags.count, *rows.shape[1:]))[bags.segments]
    along = (wide * grads).sum(1)  # [N] <g, e>
    if combiner == "sum":
        return along
    factors = coefficients(bags, combiner)
    # out = sum(w e) / size, so d out = (e - out * d size) / size.
    shared = segment_sum((factors * along)[:, None], bags.segments, bags.count)[bags.segments, 0]
    size = _sizes(bags, combiner)[bags.segments]
    slope = 1.0 if combiner == "mean" else _divided(_weights(bags), size)
    return _divided(along - shared * slope, size)


def coefficients(bags: Bags, combiner: str) -> np.ndarray:
    """What each row is multiplied with: [N] floats. A bag whose weights sum to 0 has zeros, as in TensorFlow."""
    weights = _weights(bags)
    return weights if combiner == "sum" else _divided(weights, _sizes(bags, combiner)[bags.segments])


def factors(bags: Bags, combiner: str) -> np.ndarray | None:
    """`coefficients` as shards take them: [N] float32, or None where all are 1.

    Raises:
        InvalidRequest: a weight that float32 does not hold, or weights of a bag whose size is not finite: their shares
            would be zeros.
    """
    combiner = check_combiner(combiner)
    if combiner == "sum" and bags.weights is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if bags.weights is not None:
            _refuse_entry(bags, bags.weights, bags.weights.astype(np.float32), "the weight")
            if combiner != "sum":
                sizes = _sizes(bags, combiner)[bags.segments]
                _refuse_entry(bags, sizes, sizes, f"the size that {combiner!r} divides by, of the weights")
        exact = coefficients(bags, combiner)
        found = exact.astype(np.float32)
    _refuse_entry(bags, exact, found, "the factor that the weights make")
    return found


def _refuse_entry(bags: Bags, given: np.ndarray, values: np.ndarray, what: str) -> None:
    """Refuse values [N] that are not finite, with what they were before."""
    finite = np.isfinite(values)
    if finite.all():
        return
    k = int(finite.argmin())
    raise InvalidRequest(
        f"{what} of id {int(bags.ids[k])} in bag {int(bags.segments[k])} (entry {k}) is {given[k]}: rows are combined "
        "by finite numbers of float32 only"
    )


def sum_by_id(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of each id summed, in the order of first appearance: [U, width]. ids: [N]; values: [N, width]."""
    distinct, inverse = distinct_of(ids)
    return values if len(distinct) == len(ids) else segment_sum(values, inverse, len(distinct))


def segment_sum(values: np.ndarray, segments: np.ndarray, count: int) -> np.ndarray:
    """Sums by segment. values: [N, ...]; segments: [N] in any order, each in [0, count). Returns [count, ...]."""
    out = np.zeros((count, *values.shape[1:]), values.dtype)
    if not len(segments):
        return out
    if (np.diff(segments) < 0).any():
        order = np.argsort(segments, kind="stable")
        segments, values = segments[order], values[order]
    starts = np.flatnonzero(np.concatenate([[True], segments[1:] != segments[:-1]]))
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # of a step that overflowed: inf and NaN are what it sums to
        out[segments[starts]] = np.add.reduceat(values, starts, axis=0)
    return out


def clipped(rows: np.ndarray, max_norm: float | None) -> np.ndarray:
    """Rows of a norm above max_norm scaled down to it. rows: [N, *row_shape]; the norm is over all of a row."""
    if max_norm is None:
        return rows
    _check_norm(max_norm)
    _check_floats(rows)
    norm = _norms(rows)
    scale = max_norm / np.maximum(norm, max_norm)
    wide = _wide(rows)
    return (wide * _column(scale, wide)).astype(rows.dtype)


def clipped_gradient(rows: np.ndarray, upstream: np.ndarray, max_norm: float) -> np.ndarray:
    """The gradient of the rows before they were clipped: rows and upstream [N, *row_shape]."""
    _check_norm(max_norm)
    e = _flat(rows)
    g = _flat(upstream)
    norm = _norms(rows)[:, None]
    long = norm > max_norm
    safe = np.where(long, norm, 1.0)
    unit = e / safe
    inward = (g - unit * (unit * g).sum(1, keepdims=True)) * (max_norm / safe)
    return np.where(long, inward, g).astype(np.result_type(e, g)).reshape(upstream.shape)


def _check_norm(max_norm: float) -> None:
    if not max_norm > 0:
        raise InvalidRequest(f"max_norm must be above 0, got {max_norm!r}")


def _check_floats(rows: np.ndarray) -> None:
    if rows.dtype.kind in "iub":
        raise WrongType(f"params must be floats to be clipped or combined, got {rows.dtype}")


def _norms(rows: np.ndarray) -> np.ndarray:
    """[N]; in float64, where no square of a float32 overflows or vanishes."""
    return np.sqrt(np.square(_flat(rows), dtype=np.float64).sum(1))


def _weights(bags: Bags) -> np.ndarray:
    return np.ones(len(bags.ids), np.float32) if bags.weights is None else _wide(bags.weights)


def _sizes(bags: Bags, combiner: str) -> np.ndarray:
    """[B] what the weighted sum is divided by."""
    weights = _weights(bags)
    if combiner == "mean":
        return segment_sum(weights, bags.segments, bags.count)
    return np.sqrt(segment_sum(weights * weights, bags.segments, bags.count))


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def _column(factors: np.ndarray, like: np.ndarray) -> np.ndarray:
    return factors.astype(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _flat(rows: np.ndarray) -> np.ndarray:
    """[N, width]; also where N is 0."""
    return _wide(rows).reshape(len(rows), math.prod(rows.shape[1:]))


def _wide(values: np.ndarray) -> np.ndarray:
    """Half precision, and what is no float, as float32; float64 as it is."""
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)  # pyright: ignore[reportUnnecessaryContains]
