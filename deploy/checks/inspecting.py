"""Rows as their shards hold them: the owner, the place there, weights and slots, and whether they were ever trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...proto import partition
from ...proto.layout import Layout, owner
from ...proto.spec import TableEntry, TableSpec
from ..operate.reader import Reader

STEP_BASE = 1 << 24  # of the two numbers of a step, as `server/optimizers/replay.py` writes them


@dataclass(frozen=True)
class InspectedRow:
    """One row.

    Attributes:
        id: of it.
        shard: that owns it.
        address: of that shard.
        index: its place among the ids of that shard, counted from 0; None: ids are dealt by a hash.
        trained: it exists on its shard: it was pushed to or assigned. Else it has its initial value.
        slots: what the optimizer keeps beside it, each [width] float32, as they lie; none if it was never trained.
        reached: the step that slots and stored weights have reached, where the optimizer changes rows that a push does
            not name; None: of other optimizers, and of rows that were never trained.
        values: [width] float32, as a pull gives them.
    """

    id: int
    shard: int
    address: str
    index: int | None
    trained: bool
    slots: tuple[np.ndarray, ...]
    reached: int | None
    values: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """As `rowloom inspect --json` prints it."""
        return {
            "id": self.id,
            "shard": self.shard,
            "address": self.address,
            "index": self.index,
            "trained": self.trained,
            "row": self.values.tolist(),
            "slots": [slot.tolist() for slot in self.slots],
            "row_step": self.reached,
        }


def owners_of_ids(spec: TableSpec, ids: Sequence[int], layout: Layout) -> list[int]:
    """The shard of each id that the table has; the others are left out."""
    known = np.array([id for id in ids if 0 <= id < spec.id_limit], np.int64)
    return owner(spec, known, layout.n).tolist()


def inspect_rows(
    reader: Reader, entry: TableEntry, ids: Sequence[int], pulled: np.ndarray
) -> list[InspectedRow]:
    """What their shards hold of some ids. Raises RowloomError.

    Args:
        reader: of the cluster.
        entry: the table.
        ids: that it has.
        pulled: their rows, [N, ...] float32, in that order.
    """
    shards, places = owners_of_ids(entry.spec, ids, reader.layout), _places(entry.spec, ids, reader.layout.n)
    found: list[InspectedRow] = []
    for id, shard, place, values in zip(ids, shards, places, pulled, strict=True):
        where = reader.layout.shards[shard]
        slots = reader.slots_of(entry, where, id)
        kept, reached = _split(entry.spec, slots or ())
        found.append(InspectedRow(id, shard, where.address, place, slots is not None, kept, reached, values))
    return found


def _places(spec: TableSpec, ids: Sequence[int], n: int) -> list[int] | list[None]:
    if spec.hash_ids:
        return [None] * len(ids)
    return partition.local_of(np.array(ids, np.int64), n, spec.partition, spec.num_embeddings).tolist()


def _split(spec: TableSpec, slots: Sequence[np.ndarray]) -> tuple[tuple[np.ndarray, ...], int | None]:
    """The slots, and what the last one says of a dense optimizer: the step, as two numbers that float32 holds."""
    if not spec.optimizer.dense or not slots:
        return tuple(slots), None
    high, low = slots[-1].tolist()
    return tuple(slots[:-1]), int(high) * STEP_BASE + int(low)
