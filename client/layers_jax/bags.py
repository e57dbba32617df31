"""Bags of ids in JAX: what a caller may give as one, and its rows combined by JAX's own functions."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any, NamedTuple

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..inputs import as_array
from ..refusals import WrongType
from .over_tables import as_ids


class Bag(NamedTuple):
    """Ids of examples.

    Attributes:
        ids: [..., K] integers, K of each bag; or [N].
        offsets: [B] integers, where each bag of ids [N] begins; None for [..., K].
        weights: of the ids' shape, float32; None for 1.
    """

    ids: Any
    offsets: Any
    weights: Any


def bag_of(value: Any, what: str) -> Bag:
    """Ids, (ids, offsets) or (ids, offsets, weights). Raises InvalidRequest, which names `what`, and as `as_ids`."""
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 3:
        raise WrongType(
            f"{what} must be ids, (ids, offsets) or (ids, offsets, weights), got {len(parts)} of them"
        )
    given, offsets, weights = (*parts, None, None)[:3]
    ids = as_ids(given, what)
    offsets = None if offsets is None else as_ids(offsets, f"offsets of {what}")
    if offsets is None and ids.ndim < 2:
        raise InvalidRequest(f"{what} of shape {ids.shape} need offsets, which say where each bag begins")
    if offsets is not None and (ids.ndim, offsets.ndim) != (1, 1):
        raise InvalidRequest(f"{what}: offsets [B] go with ids [N]; got {offsets.shape} and {ids.shape}")
    return Bag(ids, offsets, None if weights is None else _weights(weights, ids, what))


def combined(rows: Any, bag: Bag, pooling: str, padding: int | None) -> Any:
    """The rows of each bag as one: [..., dim], or [B, dim]; zeros for a bag without ids.

    Args:
        rows: [..., K, dim] or [N, dim], float32.
        bag: the ids; those below 0 and `padding` are missing.
        pooling: "sum"; or "mean", which is the sum over the number of ids that are there, whatever their weights.
        padding: an id, or None.
    """
    there = bag.ids >= 0
    if padding is not None and padding <= jnp.iinfo(bag.ids.dtype).max:
        there &= bag.ids != padding
    weighted = rows if bag.weights is None else rows * bag.weights[..., None]
    # Chosen, not multiplied by 0: 0 times infinity is no 0.
    total = _summed(jnp.where(there[..., None], weighted, 0.0), bag)
    if pooling == "sum":
        return total
    return total / jnp.maximum(_summed(there[..., None].astype(jnp.float32), bag), 1.0)


def _summed(values: Any, bag: Bag) -> Any:
    """[..., K, width] to [..., width]; or [N, width] to [B, width]."""
    if bag.offsets is None:
        return values.sum(-2)
    count, places = len(bag.offsets), jnp.arange(len(values))
    segments = jnp.searchsorted(bag.offsets.astype(places.dtype), places, side="right") - 1
    return jax.ops.segment_sum(values, segments, count, indices_are_sorted=True)


def _weights(weights: Any, ids: Any, what: str) -> Any:
    array = (
        weights if isinstance(weights, jax.Array) else jnp.asarray(as_array(weights, f"weights of {what}"))
    )
    if array.shape != ids.shape:
        raise InvalidRequest(f"{what} must have a weight for each id: {ids.shape}, got shape {array.shape}")
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise WrongType(f"weights of {what} must be numbers, got {array.dtype}")
    return array.astype(jnp.float32)
