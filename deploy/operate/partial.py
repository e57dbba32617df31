"""What of a table can still be read where shards do not serve."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ...proto.layout import owner
from ...proto.partition import size_of
from ...proto.spec import TableSpec

BLOCK_IDS = 1 << 20


@dataclass(frozen=True)
class Readable:
    """The ids that living shards own.

    Attributes:
        ids: [N] int64, ascending.
        missing: by shard that does not serve, how many of the ids it owns.
    """

    ids: np.ndarray
    missing: dict[int, int]


def readable(spec: TableSpec, ids: np.ndarray | None, shards: int, living: Collection[int]) -> Readable:
    """Part ids by whether their shard serves.

    Args:
        spec: the table.
        ids: [N] integers, valid; None: all of a table that is not open-ended.
        shards: how many there are.
        living: indexes of those that serve.
    """
    count = len(ids) if ids is not None else int(spec.num_embeddings or 0)
    alive = np.zeros(shards, bool)
    alive[list(living)] = True
    kept: list[np.ndarray] = []
    lost = np.zeros(shards, np.int64)
    for begin in range(0, count, BLOCK_IDS):  # the owners of all ids at once would take as much memory again
        end = min(count, begin + BLOCK_IDS)
        block = np.arange(begin, end) if ids is None else np.asarray(ids[begin:end], np.int64)
        owners = owner(spec, block, shards)
        kept.append(block[alive[owners]])
        lost += np.bincount(owners[~alive[owners]], minlength=shards)
    missing = {shard: int(lost[shard]) for shard in range(shards) if not alive[shard]}
    return Readable(np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64), missing)


def left_out(spec: TableSpec, shards: int, living: Collection[int]) -> dict[int, int | None]:
    """By shard that does not serve, how many ids of the table it owns; None: their number has no end.

    spec, shards, living: as `readable` has them.
    """
    gone = [shard for shard in range(shards) if shard not in living]
    size = spec.num_embeddings
    if size is None:
        return dict.fromkeys(gone)
    if spec.hash_ids:  # then only counting tells
        return {**readable(spec, None, shards, living).missing}
    return {shard: size_of(shard, shards, spec.partition, size) for shard in gone}
