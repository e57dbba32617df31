"""Which shard owns an id, and what the id is called there.

Two strategies, as TensorFlow has them (`tf.nn.embedding_lookup`): `mod` deals ids out like cards, `div` cuts
the id range into n runs of nearly equal length, the longer ones first. Every function is pure and vectorised.
V is the number of embeddings, n the number of shards.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Strategy = Literal["mod", "div"]


def mix(ids: np.ndarray) -> np.ndarray:
    """A 63-bit hash of each id, for ids that share factors with n.

    ids: [N] int64 >= 0. Returns [N] int64 >= 0.
    The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    """
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def shard_of(ids: np.ndarray, n: int, strategy: Strategy, num_embeddings: int | None = None) -> np.ndarray:
    """The shard of each id.

    Args:
        ids: [N] int64, each in [0, V).
        n: number of shards, at least 1.
        strategy: "mod" or "div".
        num_embeddings: V; only `div` needs it.

    Returns:
        [N] int64, each in [0, n).
    """
    if strategy == "mod":
        return ids % n
    q, r = _division(num_embeddings, n)
    if n == 1:  # Also because q + 1 would be no int64 when V is the largest one.
        return np.zeros_like(ids)
    longer = ids // (q + 1)
    # With V < n the runs are r ids of length one and then nothing: q is 0 and every id is in a longer run.
    return longer if q == 0 else np.maximum(longer, (ids - r) // q)


def local_of(ids: np.ndarray, n: int, strategy: Strategy, num_embeddings: int | None = None) -> np.ndarray:
    """The place of each id in its shard, counted from 0. Arguments as `shard_of`. Returns [N] int64."""
    if strategy == "mod":
        return ids // n
    shards = shard_of(ids, n, strategy, num_embeddings)
    return ids - offset(shards, n, num_embeddings)


def id_of(
    shard: int, locals_: np.ndarray, n: int, strategy: Strategy, num_embeddings: int | None = None
) -> np.ndarray:
    """The way back: ids of places in a shard. locals_: [N] int64. Returns [N] int64."""
    if strategy == "mod":
        return locals_ * n + shard
    return locals_ + offset(np.int64(shard), n, num_embeddings)


def offset(shard: Any, n: int, num_embeddings: int | None) -> Any:
    """The first id of a shard under `div`: i*q + min(i, r). shard: scalar or array."""
    q, r = _division(num_embeddings, n)
    return shard * q + np.minimum(shard, r)


def size_of(shard: int, n: int, strategy: Strategy, num_embeddings: int) -> int:
    """How many ids a shard owns. `strategy` does not matter: both give the first V % n shards one more."""
    del strategy
    q, r = _division(num_embeddings, n)
    return q + (shard < r)


def _division(num_embeddings: int | None, n: int) -> tuple[int, int]:
    if num_embeddings is None:
        raise ValueError("div needs num_embeddings: a table of open-ended ids can only be split by mod")
    return divmod(num_embeddings, n)
