"""What differs between two snapshots: tables, rows, slots.

Why it is so. The rows of two snapshots do not lie in the same order, and neither fits into memory. Of each row only its
id and 64 bits for its values and for each slot are kept, of a part of the ids at a time: so many parts that one of them
is small enough. Each part is a pass over both snapshots. Two rows that differ are taken for equal with a chance of
2**-64.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..jit import kernel
from ..partition import mix
from ..spec import TableEntry
from .folder import Scratch
from .snapshot import StoredSnapshot, open_snapshot

PART_BYTES = 256 << 20  # of ids and digests of one snapshot that are in memory
FIRST_IDS = 10


class TableDifference(NamedTuple):
    """How a table differs.

    Attributes:
        name: of the table.
        spec: what differs in its spec, number, learning rate or step, in words; or that one snapshot lacks it.
        only_first: rows that only the first snapshot has.
        only_second: rows that only the second one has.
        values: rows that both have, with other values.
        slots: for each slot, rows that both have and in which it differs.
        differing: rows that both have and that differ in anything.
        ids: a few of all these rows: the smallest ids of those that were found first.
    """

    name: str
    spec: tuple[str, ...] = ()
    only_first: int = 0
    only_second: int = 0
    values: int = 0
    slots: tuple[int, ...] = ()
    differing: int = 0
    ids: tuple[int, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.spec or self.only_first or self.only_second or self.differing)


class _Part(NamedTuple):
    """Some rows of a table: ids [N] int64, sorted, and digests [N, 1 + slots] uint64."""

    ids: np.ndarray
    digests: np.ndarray


def difference(
    first: str | os.PathLike[str], second: str | os.PathLike[str], part_bytes: int = PART_BYTES
) -> tuple[TableDifference, ...]:
    """How two snapshots differ, bit by bit; empty if they have the same tables with the same rows and slots.

    Args:
        first: a snapshot's folder, as `open_snapshot`.
        second: another one.
        part_bytes: about how much is remembered of each at a time.

    Raises:
        SnapshotCorrupt: one of them is damaged.
        InvalidRequest: nothing here can read such a URL.
        Unavailable: the store does not answer.
    """
    a, b = open_snapshot(first), open_snapshot(second)
    found = [_table(a, b, name, part_bytes) for name in sorted({*a.tables, *b.tables})]
    return tuple(table for table in found if not table.same)


def _table(a: StoredSnapshot, b: StoredSnapshot, name: str, part_bytes: int) -> TableDifference:
    if name not in b.tables:
        return TableDifference(name, ("only in the first",), only_first=a.rows(name))
    if name not in a.tables:
        return TableDifference(name, ("only in the second",), only_second=b.rows(name))
    spec = _spec(a.tables[name], b.tables[name], a.steps[name], b.steps[name])
    kinds = [e.spec.optimizer.slot_widths(e.spec.width) for e in (a.tables[name], b.tables[name])]
    if kinds[0] != kinds[1] or a.tables[name].spec.width != b.tables[name].spec.width:
        return TableDifference(name, (*spec, "the rows cannot be compared"))
    slots = len(kinds[0])
    parts = 1 + max(a.rows(name), b.rows(name)) * 8 * (2 + slots) // part_bytes
    total = TableDifference(name, spec, slots=(0,) * slots)
    for k in range(parts):
        total = _plus(total, _part(a, name, slots, k, parts), _part(b, name, slots, k, parts))
    return total


def _spec(a: TableEntry, b: TableEntry, step_a: int, step_b: int) -> tuple[str, ...]:
    pairs = [("number", a.number, b.number), ("lr", a.current_lr, b.current_lr), ("step", step_a, step_b)]
    more = [f"{what}: {x} in the first, {y} in the second" for what, x, y in pairs if x != y]
    spec = a.spec.differences(b.spec)
    return (
        *[w.replace(" here, ", " in the first, ").removesuffix("there") + "in the second" for w in spec],
        *more,
    )


def _part(snapshot: StoredSnapshot, name: str, slots: int, k: int, parts: int) -> _Part:
    """Those rows whose mixed ids leave k when they are divided by the number of parts."""
    ids, digests = [np.empty(0, np.int64)], [np.empty((0, 1 + slots), np.uint64)]
    for block in snapshot.read(name, scratch=Scratch()):
        if parts > 1:
            block = block.where(mix(block.ids).astype(np.uint64) % np.uint64(parts) == k)
        ids.append(np.array(block.ids))
        digests.append(np.stack([_digests(column) for column in (block.values, *block.slots)], axis=1))
    together = np.concatenate(ids)
    order = np.argsort(together, kind="stable")
    return _Part(together[order], np.concatenate(digests)[order])


def _digests(rows: np.ndarray) -> np.ndarray:
    """[N] uint64 for rows [N, columns] float32."""
    out = np.empty(len(rows), np.uint64)
    _digest_rows(np.ascontiguousarray(rows).view(np.uint32), out)
    return out


@kernel
def _digest_rows(words: np.ndarray, out: np.ndarray):
    """Two rounds of multiply and shift for each word, as in MurmurHash; out: [N] uint64."""
    for row in range(len(words)):
        digest: Any = np.uint64(0x9E3779B97F4A7C15)
        for column in range(words.shape[1]):
            digest = (digest ^ np.uint64(words[row, column])) * np.uint64(0xFF51AFD7ED558CCD)
            digest = (digest ^ (digest >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
            digest ^= digest >> np.uint64(29)
        out[row] = digest


def _plus(total: TableDifference, a: _Part, b: _Part) -> TableDifference:
    """What was found so far, and what differs in one more part."""
    _, at_a, at_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    differs = a.digests[at_a] != b.digests[at_b]
    anywhere = differs.any(axis=1)
    only_a, only_b = np.delete(a.ids, at_a), np.delete(b.ids, at_b)
    ids = np.sort(np.concatenate([only_a, only_b, a.ids[at_a][anywhere]]))[:FIRST_IDS]
    counts = differs.sum(axis=0).tolist()
    return TableDifference(
        total.name,
        total.spec,
        total.only_first + len(only_a),
        total.only_second + len(only_b),
        total.values + counts[0],
        _added(total.slots, counts[1:]),
        total.differing + int(anywhere.sum()),
        (*total.ids, *ids.tolist())[:FIRST_IDS],
    )


def _added(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
