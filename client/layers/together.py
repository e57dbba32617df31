"""Pulls and pushes of several tables in one call: what layers of every framework do at each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..table import Table

# A table's client and name: two handles of one table are the same table.
Key = tuple[int, str]


def pull_together(wanted: Sequence[tuple[Table, np.ndarray]]) -> list[np.ndarray]:
    """Rows of each, [N] + row_shape: one call for all tables of a client, each table in it once.

    Args:
        wanted: tables, any of them several times, and ids [N].

    Raises:
        as `Table.pull`.
    """
    places: dict[Key, list[int]] = {}
    for place, (table, _) in enumerate(wanted):
        places.setdefault(key_of(table), []).append(place)
    rows: list[Any] = [None] * len(wanted)
    for number in dict.fromkeys(number for number, _ in places):
        mine = [some for (owner, _), some in places.items() if owner == number]
        entries = [(wanted[some[0]][0].entry, _joined([wanted[place][1] for place in some])) for some in mine]
        client = wanted[mine[0][0]][0].client
        for some, pulled in zip(mine, client.pull_entries(entries), strict=True):
            begin = 0
            for place in some:
                end = begin + len(wanted[place][1])
                rows[place] = pulled[begin:end]
                begin = end
    return rows


def push_together(given: Iterable[tuple[Table, np.ndarray, np.ndarray]]) -> None:
    """One push for all: a table that is named several times takes one step, and each shard gets one request.

    Args:
        given: tables, ids [N] and gradients [N, ...] of as many numbers as the rows have.

    Raises:
        as `Table.push`.
    """
    pieces: dict[Key, tuple[Table, list[np.ndarray], list[np.ndarray]]] = {}
    for table, ids, grads in given:
        spec = table.spec
        # Frozen since its layer was made, perhaps: it trains nothing, as a weight without gradient.
        # A batch of padding only is a step of a framework's optimizers, and so of the table's.
        if not spec.frozen and (len(ids) or spec.optimizer.counts_steps):
            _, all_ids, all_grads = pieces.setdefault(key_of(table), (table, [], []))
            all_ids.append(ids)
            all_grads.append(grads)
    clients: dict[int, tuple[Any, list[tuple[Any, np.ndarray, np.ndarray]]]] = {}
    for table, all_ids, all_grads in pieces.values():
        entry, ids = table.entry, _joined(all_ids)
        rows = _joined(all_grads).reshape(len(ids), *entry.spec.row_shape)
        clients.setdefault(id(table.client), (table.client, []))[1].append((entry, ids, rows))
    for client, some in clients.values():
        client.push_entries(some)


def key_of(table: Table) -> Key:
    """Of which table this is a handle."""
    return id(table.client), table.name


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """All as one; not copied if there is one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
