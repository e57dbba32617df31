"""Bags of ids: which ids an example has, with which weights; sparse and ragged. Values; no I/O.

Letters: N entries (one id of one bag), B bags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest
from ..inputs import as_array
from ..refusals import WrongType


@dataclass(frozen=True)
class SparseIds:
    """Ids, or weights, at some places of a larger shape, as `tf.SparseTensor`.

    Attributes:
        indices: [N, rank] int64, where each value stands, in row-major order.
        values: [N].
        dense_shape: [rank] int64.

    Raises:
        InvalidRequest: shapes that do not fit, or an index outside of dense_shape.

    Example:
        >>> SparseIds([[0, 0], [2, 1]], [7, 3], [3, 2]).values  # example 1 has no ids
        array([7, 3])
    """

    indices: Any
    values: Any
    dense_shape: Any

    def __post_init__(self) -> None:
        indices = integers(self.indices, "indices")
        values = _array(self.values)
        shape = integers(self.dense_shape, "dense_shape")
        if indices.size == 0:
            indices = indices.reshape(0, shape.size)
        if (
            shape.ndim != 1
            or indices.ndim != 2
            or indices.shape != (values.size, shape.size)
            or values.ndim != 1
        ):
            raise InvalidRequest(
                "indices must be [N, rank], values [N], dense_shape [rank]; got "
                f"{indices.shape}, {values.shape}, {shape.shape}"
            )
        outside = ((indices < 0) | (indices >= shape)).any(axis=1)
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            raise InvalidRequest(
                f"indices[{k}] is {indices[k].tolist()}, outside of dense_shape {shape.tolist()}"
            )
        for name, value in (("indices", indices), ("values", values), ("dense_shape", shape)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, as `tf.RaggedTensor`: row k is values[row_splits[k] : row_splits[k + 1]].

    Attributes:
        values: [N, ...], or Ragged itself.
        row_splits: [B + 1] int64, from 0 to N, never falling.

    Raises:
        InvalidRequest: row_splits that are no such thing.

    Example:
        >>> Ragged([7, 3, 5], [0, 2, 2, 3])  # [[7, 3], [], [5]]
        Ragged(values=array([7, 3, 5]), row_splits=array([0, 2, 2, 3]))
    """

    values: Any
    row_splits: Any

    def __post_init__(self) -> None:
        splits = integers(self.row_splits, "row_splits")
        inner = ragged_of(self.values)
        values = _array(self.values) if inner is None else inner
        size = len(values.row_splits) - 1 if isinstance(values, Ragged) else len(values)
        if (
            splits.ndim != 1
            or not splits.size
            or splits[0] != 0
            or splits[-1] != size
            or (np.diff(splits) < 0).any()
        ):
            raise InvalidRequest(f"row_splits must rise from 0 to {size}, got {splits.tolist()}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "row_splits", splits)


@dataclass(frozen=True)
class Bags:
    """Entries by bag.

    Attributes:
        ids: [N] integers.
        segments: [N] int64, the bag of each entry, never falling.
        weights: [N] floats, or None for all 1.
        shape: of the bags; B is its product.
    """

    ids: np.ndarray
    segments: np.ndarray
    weights: np.ndarray | None
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """B."""
        return math.prod(self.shape)

    def only(self, keep: np.ndarray) -> Bags:
        """The entries that a mask [N] keeps; the same bags."""
        weights = None if self.weights is None else self.weights[keep]
        return Bags(self.ids[keep], self.segments[keep], weights, self.shape)


def ragged_of(value: Any) -> Ragged | None:
    """The value if it is ragged (ours, or anything with values and row_splits, such as TensorFlow's), else None."""
    if isinstance(value, Ragged):
        return value
    if hasattr(value, "row_splits") and hasattr(value, "values"):
        return Ragged(value.values, value.row_splits)
    return None


def bags_of(sp_ids: Any, sp_weights: Any = None) -> Bags:
    """One bag for each index of the first axis up to the last one that has an id, as TensorFlow counts them.

    Raises:
        WrongType (a TypeError): neither sparse nor ragged, or weights of another kind than the ids.
        InvalidRequest: ids that are no integers, weights that stand elsewhere, indices that are not in order.
    """
    bags = _read(sp_ids, sp_weights, flat=False)
    last = int(bags.segments[-1]) + 1 if bags.segments.size else 0
    return Bags(bags.ids, bags.segments, bags.weights, (last,))


def bags_in(ids: Any, offsets: Any = None, weights: Any = None) -> Bags:
    """Bags as users of torch and TensorFlow have them.

    Args:
        ids: Ragged or SparseIds, or TensorFlow's own: a bag for each row of the last axis. Or an array [..., L]: L ids
            in each bag. Or [N], with offsets.
        offsets: [B] integers, where each bag begins, as `torch.nn.EmbeddingBag` has them: the first is 0, and the last
            bag ends with the ids. Only with ids [N].
        weights: a number for each id, of the ids' kind and shape; None for 1.

    Raises:
        InvalidRequest: what does not fit; also a TypeError for a wrong type.
    """
    if isinstance(ids, Bags):
        return ids
    if ragged_of(ids) is not None or _sparse_of(ids) is not None:
        if offsets is not None:
            raise InvalidRequest(f"offsets go with ids [N], not with {type(ids).__name__}")
        return _read(ids, weights, flat=True)
    array = integers(ids, "ids")
    if weights is not None:
        weights = _weights(as_array(weights, "weights"), array.shape, "weights").reshape(-1)
    if offsets is None:
        if array.ndim < 2:
            raise InvalidRequest(f"ids of shape {array.shape} need offsets, which say where each bag begins")
        shape = array.shape[:-1]
        segments = np.repeat(np.arange(math.prod(shape)), array.shape[-1])
    else:
        begins = begins_of(offsets, array)
        shape = begins.shape
        segments = np.repeat(np.arange(len(begins)), np.diff(begins, append=array.size))
    return Bags(array.reshape(-1), segments, weights, shape)


def begins_of(offsets: Any, ids: np.ndarray) -> np.ndarray:
    """Where bags of ids [N] begin: [B] int64. Raises InvalidRequest for what is no such thing."""
    begins = integers(offsets, "offsets")
    if ids.ndim != 1 or begins.ndim != 1:
        raise InvalidRequest(f"offsets [B] go with ids [N]; got {begins.shape} and {ids.shape}")
    ends = np.append(begins, ids.size)
    if ends[0] != 0 or (np.diff(ends) < 0).any():
        raise InvalidRequest(f"offsets must rise from 0 to at most {ids.size}, got {begins.tolist()}")
    return begins


def safe_bags_of(sp_ids: Any, sp_weights: Any, combiner: str, default_id: int | None) -> Bags:
    """A bag for each row of the last axis, without what is missing: see `lookup.safe_lookup_sparse`."""
    bags = _read(sp_ids, sp_weights, flat=True)
    bags = bags.only(bags.ids >= 0)
    if combiner != "sum" and bags.weights is not None:
        bags = bags.only(bags.weights > 0)
    if default_id is None:
        return bags
    empty = np.setdiff1d(np.arange(bags.count), bags.segments)
    segments = np.concatenate([bags.segments, empty])
    order = np.argsort(segments, kind="stable")
    ids = np.concatenate([bags.ids, np.full(len(empty), default_id, bags.ids.dtype)])[order]
    weights = bags.weights
    if weights is not None:
        weights = np.concatenate([weights, np.ones(len(empty), weights.dtype)])[order]
    return Bags(ids, segments[order], weights, bags.shape)


def _read(sp_ids: Any, sp_weights: Any, *, flat: bool) -> Bags:
    """Bags over all axes but the last (flat), or over the first one."""
    ragged = ragged_of(sp_ids)
    if ragged is not None:
        return _from_ragged(ragged, sp_weights)
    ids = _sparse_of(sp_ids)
    if ids is None:
        raise WrongType(f"sp_ids must be SparseIds or Ragged, got {type(sp_ids).__name__}")
    shape = tuple(int(d) for d in (ids.dense_shape[:-1] if flat else ids.dense_shape[:1]))
    columns = ids.indices[:, : len(shape)]
    segments = np.zeros(len(columns), np.int64)
    if columns.size:
        segments = np.asarray(np.ravel_multi_index(tuple(columns.T), shape), np.int64)
    if (np.diff(segments) < 0).any():
        k = int(np.flatnonzero(np.diff(segments) < 0)[0]) + 1
        raise InvalidRequest(f"indices must be in row-major order; indices[{k}] is {ids.indices[k].tolist()}")
    weights = None
    if sp_weights is not None:
        other = _sparse_of(sp_weights)
        if other is None:
            raise WrongType(f"sp_weights must be None or SparseIds, got {type(sp_weights).__name__}")
        # As in TensorFlow only the number of weights counts: they belong to the ids in their order.
        weights = _weights(other.values, (len(segments),))
    return Bags(integers(ids.values, "sp_ids.values"), segments, weights, shape)


def _from_ragged(ids: Ragged, sp_weights: Any) -> Bags:
    if isinstance(ids.values, Ragged) or ids.values.ndim != 1:
        raise InvalidRequest("sp_ids must be [B, (ids)]: ragged in one axis, with values [N]")
    weights = None
    if sp_weights is not None:
        other = ragged_of(sp_weights)
        if other is None:
            raise WrongType(f"sp_weights must be None or Ragged as sp_ids, got {type(sp_weights).__name__}")
        weights = _weights(other.values, (len(ids.values),))
    count = len(ids.row_splits) - 1
    segments = np.repeat(np.arange(count), np.diff(ids.row_splits))
    return Bags(integers(ids.values, "sp_ids.values"), segments, weights, (count,))


def _sparse_of(value: Any) -> SparseIds | None:
    if isinstance(value, SparseIds):
        return value
    if all(hasattr(value, name) for name in ("indices", "values", "dense_shape")):
        return SparseIds(value.indices, value.values, value.dense_shape)
    return None


def _weights(values: Any, shape: tuple[int, ...], what: str = "sp_weights") -> np.ndarray:
    weights = as_array(values, f"{what}.values")
    if weights.shape != shape:
        size = math.prod(shape) if len(shape) == 1 else shape
        raise InvalidRequest(f"{what} must have a value for each id: {size}, got shape {weights.shape}")
    if weights.dtype.kind in "iub" or not weights.size:
        return weights.astype(np.float32)
    if weights.dtype.kind != "f" and weights.dtype.name != "bfloat16":
        raise WrongType(f"{what} must be numbers, got {weights.dtype}")
    return weights


def _array(values: Any) -> np.ndarray:
    """Values as an array; an empty list is one of integers."""
    array = as_array(values, "values")
    return array if array.size or hasattr(values, "dtype") else array.astype(np.int64)


def integers(value: Any, what: str) -> np.ndarray:
    """An array-like of integers as int64. Raises WrongType, which names `what`."""
    array = as_array(value, what)
    if array.size == 0:
        return np.empty(array.shape, np.int64)  # none, whatever type their absence has: that of [] is float64
    if array.dtype.kind not in "iu":
        raise WrongType(f"{what} must be integers, got {array.dtype}")
    return array.astype(np.int64)
