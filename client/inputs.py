"""Ids, rows and gradients as callers give them, as checked arrays. Pure."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np

from ..proto.errors import InvalidRequest
from ..proto.jit import kernel
from ..proto.recipes import is_number, is_whole, shown
from ..proto.spec import TableSpec
from .cores import SMALL_BYTES, in_pieces

LARGEST = np.finfo(np.float32).max


def as_ids(ids: object, spec: TableSpec) -> np.ndarray:
    """Any array-like of integers as int64 of the same shape, checked.

    Raises:
        InvalidRequest: not integers, or an id out of range; names the first one and where it stands.
    """
    array = ids if type(ids) is np.ndarray else as_array(ids, "ids")
    if array.size == 0:  # no ids, whatever type their absence has: that of [] is float64
        array = np.empty(array.shape, np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidRequest(f"ids must be integers, got {array.dtype} (table {spec.name!r})")
    if array.dtype == np.int64 and array.flags.c_contiguous:
        if not _inside(array.reshape(-1), spec.id_limit - 1):
            _refuse_range(array, spec)
        return array
    if array.size and (int(array.min()) < 0 or int(array.max()) >= spec.id_limit):
        _refuse_range(array, spec)
    return np.ascontiguousarray(array, np.int64).reshape(array.shape)


def as_range(ids: Any, spec: TableSpec) -> np.ndarray:
    """The ids of a slice, as of a list of all ids; but ids are no places, so none counts from the end.

    Raises:
        InvalidRequest: no integers, one below 0, or no end of open-ended ids.
    """
    parts = (ids.start, ids.stop, ids.step)
    if any(part is not None and (not is_whole(part) or part < 0) for part in parts) or ids.step == 0:
        raise InvalidRequest(f"a slice of ids has whole numbers from 0 on, got {ids} (table {spec.name!r})")
    if spec.num_embeddings is None and ids.stop is None:
        raise InvalidRequest(f"table {spec.name!r} has open-ended ids: a slice of them needs an end")
    begin, end, step = (int(x) for x in ids.indices(spec.id_limit))
    return np.arange(begin, end, step)


def _refuse_range(array: np.ndarray, spec: TableSpec) -> None:
    flat = array.reshape(-1)
    k = int(np.flatnonzero((flat < 0) | (flat >= spec.id_limit))[0])
    where = tuple(int(i) for i in np.unravel_index(k, array.shape)) if array.ndim else ()
    raise InvalidRequest(
        f"ids{list(where) if where else ''} is {int(flat[k])}, table {spec.name!r} has ids in [0, {spec.id_limit})"
    )


def as_array(value: Any, what: str) -> np.ndarray:
    """Numpy arrays, lists, scalars and CPU tensors as numpy.

    Raises:
        InvalidRequest: ragged or foreign input, masked entries, tensors that are not dense; names `what`.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(value, what)  # pyright: ignore[reportUnknownArgumentType]
    if _is_tensor(type(value)):  # pyright: ignore[reportUnknownArgumentType]
        return _of_tensor(value, what)
    try:
        return np.asarray(_plain_list(value, what) if isinstance(value, list | tuple) else value)  # pyright: ignore[reportUnknownArgumentType]
    except InvalidRequest:
        raise
    except (ValueError, TypeError, RuntimeError) as e:  # whatever the container raises when it is read
        raise InvalidRequest(f"{what} must be an array: {e}") from e


def _is_tensor(kind: type) -> bool:
    """Whether it is torch's, without importing torch."""
    return hasattr(kind, "detach") and hasattr(kind, "cpu")


def _unmasked(value: np.ma.MaskedArray[Any, Any], what: str) -> np.ndarray:
    mask = np.ma.getmaskarray(value)
    if mask.any():
        where = [int(i[0]) for i in np.nonzero(np.atleast_1d(mask))] if value.ndim else []
        raise InvalidRequest(
            f"{what}{where or ''} is masked, and {int(mask.sum())} of {value.size} are: fill or drop them first"
        )
    return np.asarray(value.data)


def _of_tensor(value: Any, what: str) -> np.ndarray:
    with contextlib.suppress(TypeError, RuntimeError):
        return value.numpy()  # what most are asked for: a plain one in this machine's memory
    try:
        value = value.detach().cpu()
        for lazy in ("resolve_conj", "resolve_neg"):  # views that numpy cannot make
            value = getattr(value, lazy)() if hasattr(value, lazy) else value
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as e:
        kind = f"{getattr(value, 'layout', '')} {value.dtype}".strip()
        first = str(e).partition("\n")[0]
        raise InvalidRequest(
            f"{what} must be a dense tensor of a type that numpy has, got one of {kind}: {first}"
        ) from e


def _plain_list(value: Any, what: str) -> Any:
    """A list whose masked arrays and tensors are arrays; as it is if it has none."""
    return [_plain_item(v, what) for v in value] if _has_foreign(value) else value


def _plain_item(value: Any, what: str) -> Any:
    if isinstance(value, list | tuple):
        return _plain_list(value, what)
    return as_array(value, what) if _is_foreign(type(value)) else value  # pyright: ignore[reportUnknownArgumentType]


def _is_foreign(kind: type) -> bool:
    return _is_tensor(kind) or issubclass(kind, np.ma.MaskedArray)


def _has_foreign(value: Any) -> bool:
    kinds = set(map(type, value))  # in C: lists of ids are long
    if any(map(_is_foreign, kinds)):
        return True
    nested = any(issubclass(kind, list | tuple) for kind in kinds)
    return nested and any(_has_foreign(v) for v in value if isinstance(v, list | tuple))


def snapshot(value: Any, what: str) -> np.ndarray:
    """`as_array`, in memory of its own: the caller may change what was given. Raises InvalidRequest."""
    return np.array(as_array(value, what))


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
        n, column, value = _first_infinite(values, rows)
        raise InvalidRequest(
            f"{what} of id {int(ids.reshape(-1)[n])} (number {n} of the batch) is {value} "
            f"in column {column}: table {spec.name!r} takes finite numbers only, of float32"
        )
    return rows, biggest


def as_bag_grads(grads: object, shape: tuple[int, ...], spec: TableSpec) -> np.ndarray:
    """Gradients of bags as [B, width] float32, checked. shape: of the B bags. Raises InvalidRequest as `as_rows`."""
    rows = as_float32(grads, shape, "bags", spec, "grads")
    if not largest(rows) <= LARGEST:
        bag, column, value = _first_infinite(grads, rows)
        raise InvalidRequest(
            f"grads of bag {bag} is {value} in column {column}: table {spec.name!r} takes finite numbers only, "
            "of float32"
        )
    return rows


def _first_infinite(given: object, rows: np.ndarray) -> tuple[int, int, object]:
    """Where the first number is that float32 does not hold, and what it was before. rows: [N, width] of what came."""
    n, column = (int(x[0]) for x in np.nonzero(~np.isfinite(rows)))
    return n, column, as_array(given, "values").reshape(rows.shape)[n, column]


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
        return array.reshape(math.prod(shape), spec.width)
    if array.size == 0:
        return np.empty((math.prod(shape), spec.width), np.float32)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidRequest(f"{what} must be numbers, got {array.dtype} (table {spec.name!r})")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32).reshape(math.prod(shape), spec.width)


def as_positive(value: Any, what: str) -> float:
    """A number above 0 that float32 holds. Raises InvalidRequest, which names `what`."""
    if not is_number(value) or value <= 0:
        raise InvalidRequest(f"{what} must be above 0 and at most {LARGEST:.8g}, got {shown(value)}")
    return float(value)


def largest(rows: np.ndarray) -> float:
    """The largest absolute value; not finite if one is not. rows: float32, contiguous."""
    if rows.nbytes < SMALL_BYTES:
        return _largest(rows)
    flat = rows.reshape(-1)
    # Not max(), which may pass NaN over.
    return _largest(np.array(in_pieces(lambda b, e: _largest(flat[b:e]), len(flat), flat.nbytes), np.float32))


@kernel
def _largest(rows: np.ndarray) -> float:
    # Floats without their sign are ordered as their bits are; NaN comes last. Written like this it is compiled to whole
    # vectors, five times as fast as with max() or an early exit.
    bits = rows.reshape(-1).view(np.uint32)
    worst = np.uint32(0)
    for k in range(len(bits)):
        unsigned = np.uint32(bits[k] << np.uint32(1))
        if unsigned > worst:
            worst = unsigned
    return np.uint32(worst >> np.uint32(1)).view(np.float32)  # pyright: ignore[reportReturnType, reportUnknownArgumentType]


@kernel
def _inside(ids: np.ndarray, last: int) -> bool:
    outside = False
    for x in ids:
        outside |= (x < 0) | (x > last)
    return not outside
