"""TensorFlow's embedding lookups over tables, in plain numpy: rows of ids, bags of ids combined, and their gradients.

`params` is a `Table`, an array [V, *row_shape], or a list of either: the shards of one larger table, as TensorFlow's
partitioned variables are. Gradients are (ids, grads), one for each entry: what `Table.push` takes, and for a list of
tables `push` here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..proto.errors import InvalidRequest
from .inputs import as_array
from .lookups.bags import Bags, Ragged, SparseIds, bags_of, integers, ragged_of, safe_bags_of
from .lookups.pooling import (
    check_combiner,
    clipped,
    clipped_gradient,
    pooled,
    pooled_gradient,
    segment_sum,
    weights_gradient,
)
from .lookups.sharded import Sharded, is_table
from .refusals import WrongType
from .untraced import untraced

__all__ = [
    "Ragged",
    "SparseIds",
    "lookup",
    "lookup_gradient",
    "lookup_sparse",
    "lookup_sparse_gradient",
    "lookup_sparse_weights_gradient",
    "push",
    "safe_lookup_sparse",
    "safe_lookup_sparse_gradient",
    "weighted_sum",
    "weighted_sum_gradient",
]

Gradient = tuple[np.ndarray, np.ndarray]


@untraced
def lookup(params: Any, ids: Any, partition_strategy: str = "mod", max_norm: float | None = None) -> Any:
    """Rows of ids, as `tf.nn.embedding_lookup`.

    Args:
        params: see the module.
        ids: integers of any shape, a scalar too; or ragged.
        partition_strategy: how a list's shards share the ids: "mod" or "div". Of one table or array it says nothing.
        max_norm: longer rows are scaled to this norm (over all axes of a row) in the result; the table stays.

    Returns:
        ids.shape + row_shape, of the params' type; Ragged for ragged ids.

    Raises:
        InvalidRequest: no params, shards that do not fit together, an id that is out of range or no integer.

    Example:
        >>> lookup([np.array([0.0, 2.0]), np.array([1.0])], [2, 1, 0])  # three rows that are numbers, over two shards
        array([2., 1., 0.])
    """
    ragged = ragged_of(ids)
    if ragged is not None:
        return Ragged(lookup(params, ragged.values, partition_strategy, max_norm), ragged.row_splits)
    array = integers(ids, "ids")
    source = Sharded(params, partition_strategy)
    return clipped(source.gather(array.reshape(-1)), max_norm).reshape(array.shape + source.row_shape)


@untraced
def lookup_gradient(
    params: Any, ids: Any, upstream: Any, partition_strategy: str = "mod", max_norm: float | None = None
) -> Gradient:
    """The gradient of `lookup`.

    Args:
        params: as there; read only with max_norm.
        ids: as there.
        upstream: the gradient of the result, of its shape; for ragged ids ragged, or of the shape of their values.
        partition_strategy: as there.
        max_norm: as there.

    Returns:
        ids [N] int64 and grads [N, *row_shape], one for each id, in order.
    """
    ragged = ragged_of(ids)
    if ragged is not None:
        above = ragged_of(upstream)
        inner = upstream if above is None else above.values
        return lookup_gradient(params, ragged.values, inner, partition_strategy, max_norm)
    array = integers(ids, "ids")
    source = Sharded(params, partition_strategy)
    grads = _fitting(upstream, array.shape + source.row_shape).reshape(array.size, *source.row_shape)
    return _through_clip(source, array.reshape(-1), grads, max_norm)


@untraced
def lookup_sparse(
    params: Any,
    sp_ids: Any,
    sp_weights: Any = None,
    combiner: str | None = None,
    max_norm: float | None = None,
    *,
    partition_strategy: str = "mod",
) -> np.ndarray:
    """The rows of each example's ids combined, as `tf.nn.embedding_lookup_sparse`.

    Args:
        params: see the module.
        sp_ids: SparseIds or Ragged, or TensorFlow's own; an example is an index of the first axis.
        sp_weights: of the same kind, a weight w for each id, or None for 1.
        combiner: "sum" is the sum of w * row; "mean" (None is that too) divides it by the sum of w; "sqrtn" by the
            root of the sum of w squared. Divided by 0 is 0.
        max_norm: longer rows are scaled to this norm before they are weighted.
        partition_strategy: as `lookup`.

    Returns:
        [B, *row_shape]. An example without ids is zeros, but those behind the last one with ids are left out; see
        `safe_lookup_sparse`.

    Raises:
        InvalidRequest: as `lookup`; an unknown combiner; indices out of order.
        TypeError: sp_ids or sp_weights are of the wrong kind.
    """
    combiner = check_combiner(combiner)
    return _pooled(Sharded(params, partition_strategy), bags_of(sp_ids, sp_weights), combiner, max_norm)


@untraced
def lookup_sparse_gradient(
    params: Any,
    sp_ids: Any,
    sp_weights: Any,
    upstream: Any,
    combiner: str | None = None,
    max_norm: float | None = None,
    *,
    partition_strategy: str = "mod",
) -> Gradient:
    """The gradient of `lookup_sparse` for the rows: arguments as there, and the result's gradient `upstream`.

    Returns:
        ids [N] int64 and grads [N, *row_shape], one for each value of sp_ids, in order.
    """
    combiner = check_combiner(combiner)
    source = Sharded(params, partition_strategy)
    return _pooled_gradient(source, bags_of(sp_ids, sp_weights), upstream, combiner, max_norm)


@untraced
def lookup_sparse_weights_gradient(
    params: Any,
    sp_ids: Any,
    sp_weights: Any,
    upstream: Any,
    combiner: str | None = None,
    max_norm: float | None = None,
    *,
    partition_strategy: str = "mod",
) -> np.ndarray:
    """The gradient of `lookup_sparse` for the weights: [N], one for each. Arguments as `lookup_sparse_gradient`."""
    combiner = check_combiner(combiner)
    source = Sharded(params, partition_strategy)
    bags = bags_of(sp_ids, sp_weights)
    rows = clipped(source.gather(bags.ids), max_norm)
    return weights_gradient(rows, _fitting(upstream, bags.shape + source.row_shape), bags, combiner)


@untraced
def safe_lookup_sparse(
    params: Any,
    sp_ids: Any,
    sp_weights: Any = None,
    combiner: str | None = "mean",
    default_id: int | None = None,
    *,
    max_norm: float | None = None,
    partition_strategy: str = "div",
) -> np.ndarray:
    """`lookup_sparse` for real data, as `tf.nn.safe_embedding_lookup_sparse`: missing ids and empty examples are fine.

    Negative ids are missing. So are ids whose weight is 0 or less, unless the combiner is "sum". An example without
    ids is zeros, or the row of default_id with weight 1.

    Args:
        params: see the module.
        sp_ids: SparseIds of any rank, whose last axis is combined; or Ragged.
        sp_weights: as `lookup_sparse`.
        combiner: as `lookup_sparse`.
        default_id: what an example without ids looks up, or None.
        max_norm: as `lookup_sparse`; for the row of default_id too.
        partition_strategy: as `lookup`; note that the default is "div" here, as in TensorFlow.

    Returns:
        dense_shape[:-1] + row_shape.

    Raises:
        InvalidRequest, TypeError: as `lookup_sparse`.
    """
    combiner = check_combiner(combiner)
    bags = safe_bags_of(sp_ids, sp_weights, combiner, default_id)
    return _pooled(Sharded(params, partition_strategy), bags, combiner, max_norm)


@untraced
def safe_lookup_sparse_gradient(
    params: Any,
    sp_ids: Any,
    sp_weights: Any,
    upstream: Any,
    combiner: str | None = "mean",
    default_id: int | None = None,
    *,
    max_norm: float | None = None,
    partition_strategy: str = "div",
) -> Gradient:
    """The gradient of `safe_lookup_sparse` for the rows; arguments as there.

    Returns:
        ids and grads as `lookup_sparse_gradient`, of the ids that are not missing, and of default_id.
    """
    combiner = check_combiner(combiner)
    bags = safe_bags_of(sp_ids, sp_weights, combiner, default_id)
    return _pooled_gradient(Sharded(params, partition_strategy), bags, upstream, combiner, max_norm)


@untraced
def weighted_sum(table: Any, examples: Any, features: Any, values: Any, n: int) -> np.ndarray:
    """What a wide model or a factorization machine adds up: for each example the sum of value * row of its features.

    Args:
        table: params as in the module; rows of one column make a linear model.
        examples: [N] integers in [0, n), in any order.
        features: [N] ids.
        values: [N] floats.
        n: number of examples.

    Returns:
        [n, *row_shape].

    Raises:
        InvalidRequest: shapes that differ, or an example out of range.
    """
    return _pooled(Sharded(table, "mod"), _entries(examples, features, values, n), "sum", None)


@untraced
def weighted_sum_gradient(examples: Any, features: Any, values: Any, upstream: Any) -> Gradient:
    """The gradient of `weighted_sum`: for each distinct feature the sum of value * upstream of its examples.

    Args:
        examples: as there.
        features: as there.
        values: as there.
        upstream: [n, *row_shape].

    Returns:
        ids [U] int64, distinct and rising, and grads [U, *row_shape].
    """
    above = as_array(upstream, "upstream")
    bags = _entries(examples, features, values, len(above))
    distinct, inverse = np.unique(bags.ids, return_inverse=True)
    return distinct, segment_sum(pooled_gradient(above, bags, "sum"), inverse.reshape(-1), len(distinct))


@untraced
def push(params: Any, ids: Any, grads: Any, partition_strategy: str = "mod") -> None:
    """Push gradients to a table, or to the tables of a list, each its own.

    Args:
        params: tables.
        ids: [N], as the gradient functions return them.
        grads: [N, *row_shape].
        partition_strategy: as for the lookup.

    Raises:
        TypeError: an array among the params.
        RowloomError: as `Table.push`.
    """
    source = Sharded(params, partition_strategy)
    for k, shard in enumerate(source.shards):
        if not is_table(shard):
            raise WrongType(f"params must be tables to push to, params[{k}] is {type(shard).__name__}")
    array = integers(ids, "ids").reshape(-1)
    rows = _fitting(grads, array.shape + source.row_shape, "grads")
    for table, (local, some) in zip(source.shards, source.split(array, rows), strict=True):
        if len(local):
            table.push(local, some)


def _pooled(source: Sharded, bags: Bags, combiner: str, max_norm: float | None) -> np.ndarray:
    rows = clipped(source.gather(bags.ids), max_norm)
    return pooled(rows, bags, combiner).reshape(bags.shape + source.row_shape)


def _pooled_gradient(
    source: Sharded, bags: Bags, upstream: Any, combiner: str, max_norm: float | None
) -> Gradient:
    above = _fitting(upstream, bags.shape + source.row_shape).reshape(bags.count, *source.row_shape)
    return _through_clip(source, bags.ids, pooled_gradient(above, bags, combiner), max_norm)


def _through_clip(source: Sharded, ids: np.ndarray, grads: np.ndarray, max_norm: float | None) -> Gradient:
    if max_norm is not None:
        grads = clipped_gradient(source.gather(ids), grads, max_norm)
    return ids, grads


def _entries(examples: Any, features: Any, values: Any, n: int) -> Bags:
    rows, ids = integers(examples, "examples"), integers(features, "features")
    weights = as_array(values, "values")
    if not rows.shape == ids.shape == weights.shape == (rows.size,):
        raise InvalidRequest(
            f"examples, features and values must be [N] each, got {rows.shape}, {ids.shape}, {weights.shape}"
        )
    wrong = (rows < 0) | (rows >= n)
    if wrong.any():
        k = int(wrong.argmax())
        raise InvalidRequest(f"examples[{k}] is {rows[k]}, there are {n} examples")
    return Bags(ids, rows, weights, (n,))


def _fitting(values: Any, shape: tuple[int, ...], what: str = "upstream") -> np.ndarray:
    array = as_array(values, what)
    if array.shape != shape:
        raise InvalidRequest(f"{what} must have the shape {shape}, got {array.shape}")
    return array
