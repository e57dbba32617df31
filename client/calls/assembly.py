"""Rows back into the caller's order; gradients of the same id summed. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from ...proto.errors import InvalidRequest
from ...proto.jit import kernel
from ...proto.memory import address_of
from ...proto.spec import TableSpec
from ..cores import in_pieces
from .routing import Route, as_array

LARGEST = np.finfo(np.float32).max


class Arrived:
    """Rows that came in from several shards, each wherever its reply lies in memory: nothing is copied twice.

    Args:
        count: U, how many will come.
        width: columns of each, float32.

    Attributes:
        kept: what was put: (rows [M, width], their places).
    """

    def __init__(self, count: int, width: int) -> None:
        self._width = width
        self._where = np.zeros(count, np.int64)  # addresses
        self.kept: list[tuple[np.ndarray, slice | np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._where)

    def put(self, rows: np.ndarray, places: slice | np.ndarray) -> None:
        """Rows [M, width] float32, contiguous, are those at M places of the U."""
        begin = address_of(rows)
        size = 4 * self._width
        self._where[places] = np.arange(begin, begin + size * len(rows), size) if size else 0
        self.kept.append((rows, places))

    def spread(self, inverse: np.ndarray) -> np.ndarray:
        """[N, width] float32: the row at place inverse[k] for each k. All rows have been put."""
        assert self._where.all() or not self._width, "a row was never put"
        out = np.empty((len(inverse), self._width), np.float32)
        in_pieces(lambda b, e: copy_rows(self._where, inverse[b:e], out[b:e]), len(out), out.nbytes)
        return out


def _copy_row(_, address, out, k):
    """Copy out.shape[1] columns from a place in memory to out[k]."""

    def codegen(context, builder, signature, args):
        kind = signature.args[1]
        view = context.make_array(kind)(context, builder, args[1])
        target = cgutils.get_item_pointer(
            context, builder, kind, view, [args[2], args[2].type(0)], wraparound=False
        )
        source = builder.inttoptr(args[0], target.type)
        width = builder.extract_value(view.shape, 1)
        cgutils.raw_memcpy(builder, target, source, width, context.get_abi_sizeof(target.type.pointee))
        return context.get_dummy_value()

    return types.void(address, out, k), codegen


_copy: Any = intrinsic(_copy_row)


@kernel
def copy_rows(where, inverse, out):
    """Fill out [N, width] float32: row k is at address where[inverse[k]]."""
    for k in range(len(inverse)):
        _copy(where[inverse[k]], out, k)


def as_rows(values: object, ids: np.ndarray, spec: TableSpec, what: str) -> tuple[np.ndarray, float]:
    """Gradients or rows as [N, width] float32, checked, and the largest absolute value.

    Args:
        values: ids.shape + row_shape, any float or integer type.
        ids: as from `as_ids`.
        spec: the table's.
        what: what to call them in messages.

    Raises:
        InvalidRequest: wrong shape or type, NaN or infinity; says where.
    """
    rows = as_float32(values, ids.shape, "ids", spec, what)
    biggest = largest(rows)
    if not biggest <= LARGEST:
        n, column = (int(x[0]) for x in np.nonzero(~np.isfinite(rows)))
        raise InvalidRequest(
            f"{what} of id {int(ids.reshape(-1)[n])} (number {n} of the batch) is {rows[n, column]} "
            f"in column {column}: table {spec.name!r} takes finite numbers only"
        )
    return rows, biggest


def as_float32(values: object, shape: tuple[int, ...], of: str, spec: TableSpec, what: str) -> np.ndarray:
    """Values of shape + row_shape as [N, width] float32. Raises InvalidRequest for another shape, or no numbers.

    of: what has that shape, for the message.
    """
    array = as_array(values, what)
    wanted = shape + spec.row_shape
    if array.shape != wanted:
        raise InvalidRequest(
            f"{what} must have shape {wanted}: {of} {shape} and rows {spec.row_shape} of table {spec.name!r}; "
            f"got {array.shape}"
        )
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array.reshape(-1, spec.width)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidRequest(f"{what} must be numbers, got {array.dtype} (table {spec.name!r})")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32).reshape(math.prod(shape), spec.width)


def largest(rows: np.ndarray) -> float:
    """The largest absolute value; not finite if one is not. rows: float32, contiguous."""
    bits = rows.reshape(-1).view(np.uint32)
    found = max(in_pieces(lambda b, e: _largest(bits[b:e]), len(bits), bits.nbytes))
    return float(np.uint32(found).view(np.float32))


@kernel
def _largest(bits):
    # Floats without their sign are ordered as their bits are; NaN comes last. Written like this it is compiled to whole
    # vectors, five times as fast as with max() or an early exit.
    worst = np.uint32(0)
    for k in range(len(bits)):
        unsigned = np.uint32(bits[k] << np.uint32(1))
        if unsigned > worst:
            worst = unsigned
    return worst >> np.uint32(1)


def latest(rows: np.ndarray, route: Route) -> np.ndarray:
    """One row for each distinct id, [U, width] float32 by place: the last in the batch. rows: [N, width] float32."""
    order, begins = route.groups
    return rows[order[begins[1:] - 1]]
