"""Rows back into the caller's order; gradients of the same id summed. Pure."""

from __future__ import annotations

import numba
import numpy as np

from ..proto.errors import InvalidRequest
from ..proto.spec import TableSpec
from .routing import Route, as_array


def spread(rows: np.ndarray, route: Route, out: np.ndarray) -> None:
    """out[k] = the row of batch[k]. rows: [U, width] float32 by place; out: [N, width] float32, written."""
    np.take(rows, route.inverse, axis=0, out=out, mode="clip")


def as_rows(values: object, ids: np.ndarray, spec: TableSpec, what: str) -> np.ndarray:
    """Gradients or rows as [N, width] float32, checked.

    Args:
        values: ids.shape + row_shape, any float or integer type.
        ids: as from `as_ids`.
        spec: the table's.
        what: what to call them in messages.

    Raises:
        InvalidRequest: wrong shape or type, NaN or infinity; says where.
    """
    array = as_array(values, what)
    shape = ids.shape + spec.row_shape
    if array.shape != shape:
        raise InvalidRequest(
            f"{what} must have shape {shape}: ids {ids.shape} and rows {spec.row_shape} of table {spec.name!r}; "
            f"got {array.shape}"
        )
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidRequest(f"{what} must be numbers, got {array.dtype} (table {spec.name!r})")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, np.float32).reshape(ids.size, spec.width)
    if rows.size and not finite(rows):
        n, column = (int(x[0]) for x in np.nonzero(~np.isfinite(rows)))
        raise InvalidRequest(
            f"{what} of id {int(ids.reshape(-1)[n])} (number {n} of the batch) is {rows[n, column]} "
            f"in column {column}: table {spec.name!r} takes finite numbers only"
        )
    return rows


def finite(rows: np.ndarray) -> bool:
    """Whether no value is NaN or infinite. rows: float32, contiguous."""
    return bool(_finite(rows.reshape(-1).view(np.uint32)))


@numba.njit(nogil=True, cache=True)
def _finite(bits):
    # All exponent bits set is NaN or infinity. No early exit, so that the loop runs on whole vectors.
    worst = np.uint32(0)
    for x in bits:
        worst = max(worst, x & np.uint32(0x7F800000))
    return worst != np.uint32(0x7F800000)


def summed(rows: np.ndarray, route: Route) -> np.ndarray:
    """One gradient for each distinct id: the sum in the batch's order, in float32.

    rows: [N, width] float32. Returns [U, width] float32 by place.
    """
    out = np.empty((len(route.ids), rows.shape[1]), np.float32)
    _sum_into(rows, route.inverse, out)
    return out


def latest(rows: np.ndarray, route: Route) -> np.ndarray:
    """One row for each distinct id: the last in the batch. Shapes as `summed`."""
    out = np.empty((len(route.ids), rows.shape[1]), np.float32)
    last = np.zeros(len(route.ids), np.int64)
    np.maximum.at(last, route.inverse, np.arange(len(rows)))
    np.take(rows, last, axis=0, out=out, mode="clip")
    return out


@numba.njit(nogil=True, cache=True)
def _sum_into(rows, inverse, out):
    width = rows.shape[1]
    seen = np.zeros(len(out), np.bool_)
    for k in range(len(rows)):
        u = inverse[k]
        if seen[u]:
            for j in range(width):
                out[u, j] += rows[k, j]
        else:
            seen[u] = True
            for j in range(width):
                out[u, j] = rows[k, j]
