"""Bags of ids in Keras: as matrices of ids and weights, and their rows combined."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import keras  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest

# Keras types what its operations return as "a tensor or None"; they never return None.
ops: Any = keras.ops
COMBINERS = ("sum", "mean", "sqrtn")


def bag_of(glue: Any, feature: str, value: Any, *, every_weight: bool) -> tuple[Any, Any]:
    """Ids [batch, K], -1 where there is none, and their weights, 0 where there is none.

    Args:
        glue: the backend's.
        feature: its name.
        value: ids, or (ids, weights).
        every_weight: ids with weights of 0 or less are there; else they are missing.

    Raises:
        InvalidRequest: ids that are no matrix.
    """
    ids, weights = value if isinstance(value, list | tuple) else (value, None)
    ids = glue.whole(glue.padded(ids, -1))
    if len(ids.shape) != 2:
        raise InvalidRequest(f"feature {feature!r}: ids must be [batch, K], got shape {tuple(ids.shape)}")
    real = ids >= 0
    if weights is None:
        weights = ops.cast(real, "float32")
    else:
        weights = ops.cast(glue.padded(weights, 0), "float32")
        if not every_weight:
            real = ops.logical_and(real, weights > 0)
        weights = ops.where(real, weights, 0.0)
    return ops.where(real, ids, -1), weights


def without(ids: Any, weights: Any, padding: int) -> tuple[Any, Any]:
    """A bag in which one id is missing."""
    real = ops.not_equal(ids, padding)
    return ops.where(real, ids, -1), ops.where(real, weights, 0.0)


def with_default(ids: Any, weights: Any, default_id: int) -> tuple[Any, Any]:
    """One more column: the default id with weight 1 where an example has no ids."""
    empty = ops.logical_not(ops.any(ids >= 0, axis=1, keepdims=True))
    extra = ops.where(empty, ops.cast(default_id, "int64"), ops.cast(-1, "int64"))
    return (
        ops.concatenate([ids, extra], axis=1),
        ops.concatenate([weights, ops.cast(empty, "float32")], axis=1),
    )


def combined(rows: Any, weights: Any, combiner: str, max_norm: float | None = None) -> Any:
    """[batch, K, dim] and [batch, K] to [batch, dim]."""
    if max_norm is not None:
        squares = ops.sum(rows * rows, axis=-1, keepdims=True)
        # The gradient of a root at 0 is infinite; there the row is zeros and stays so.
        norm = ops.sqrt(ops.where(squares > 0, squares, 1.0))
        rows = rows * (max_norm / ops.maximum(norm, max_norm))
    total = ops.sum(rows * ops.expand_dims(weights, -1), axis=1)
    if combiner == "sum":
        return total
    if combiner == "mean":
        size = ops.sum(weights, axis=1, keepdims=True)
    else:
        squares = ops.sum(weights * weights, axis=1, keepdims=True)
        size = ops.sqrt(ops.where(squares > 0, squares, 1.0))
    return total / ops.where(size > 0, size, 1.0)
