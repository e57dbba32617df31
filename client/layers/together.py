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
    tables: dict[Key, Table] = {}
    pieces: dict[Key, list[tuple[np.ndarray, np.ndarray]]] = {}
    for table, ids, grads in given:
        # Since its layer was made, perhaps: it trains nothing, as a weight without gradient.
        if table.spec.frozen:
            continue
        # A batch of padding only is a step of a framework's optimizers, and so of the table's.
        if len(ids) or table.spec.optimizer.counts_steps:
            tables[key_of(table)] = table
            pieces.setdefault(key_of(table), []).append((ids, grads))
    entries: dict[int, list[tuple[Any, np.ndarray, np.ndarray]]] = {}
    for key, some in pieces.items():
        ids, grads = _joined([ids for ids, _ in some]), _joined([g for _, g in some])
        rows = grads.reshape(len(ids), *tables[key].spec.row_shape)
        entries.setdefault(key[0], []).append((tables[key].entry, ids, rows))
    clients = {id(table.client): table.client for table in tables.values()}
    for number, some in entries.items():
        clients[number].push_entries(some)


def key_of(table: Table) -> Key:
    """Of which table this is a handle."""
    return id(table.client), table.name


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """All as one; not copied if there is one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
