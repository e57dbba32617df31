"""Tables by shards: how many rows and bytes of each table each shard has, and how much it is asked for."""

from __future__ import annotations

from typing import Any

from ...proto import rowloom_pb2 as pb
from .rates import looks_of

MOST_CELLS = 6400  # that a page is sent each time that it asks
FEWEST_TABLES, MOST_TABLES = 10, 100


def matrix(now: pb.StatusReply, earlier: pb.StatusReply | None = None) -> dict[str, Any]:
    """The largest tables by shards; those for which there is no room are one more line, without a name.

    Args:
        now: as the coordinator gives it.
        earlier: the same a moment ago; rates are from then to now. None: since each shard started.

    Returns:
        `shards`, their indexes; `tables`, each with its `name` (None: several are left out, see `tables_left_out`) and
        its `cells`, one for each shard: [rows, bytes, rows that were pulled and pushed a second], or None of a shard
        that does not tell.
    """
    looks = looks_of(now, earlier)
    held = {
        s.shard.index: {t.table: (t.rows, t.bytes) for t in s.statistics.tables}
        for s in now.shards
        if s.shard.index in looks
    }
    rows: list[tuple[str, list[list[float] | None]]] = []
    for entry in now.tables:
        name = entry.spec.name
        cells = [
            [*held[s.shard.index].get(entry.number, (0, 0)), _asked(looks[s.shard.index], name)]
            if s.shard.index in looks
            else None
            for s in now.shards
        ]
        rows.append((name, cells))
    most = min(max(MOST_CELLS // max(len(now.shards), 1), FEWEST_TABLES), MOST_TABLES)
    shown = {name for name, _ in sorted(rows, key=_bytes, reverse=True)[:most]}
    tables: list[dict[str, Any]] = [{"name": name, "cells": cells} for name, cells in rows if name in shown]
    left_out = [cells for name, cells in rows if name not in shown]
    if left_out:
        tables.append({"name": None, "cells": [_summed(column) for column in zip(*left_out, strict=True)]})
    return {"shards": [s.shard.index for s in now.shards], "tables": tables, "tables_left_out": len(left_out)}


def _asked(look: Any, name: str) -> float:
    return round(look.per_s(sum(look.counts.get(name, {}).values())), 1)


def _bytes(row: tuple[str, list[list[float] | None]]) -> float:
    return sum(cell[1] for cell in row[1] if cell is not None)


def _summed(column: tuple[list[float] | None, ...]) -> list[float] | None:
    """Of one shard; it tells of all tables, or of none."""
    told = [cell for cell in column if cell is not None]
    return [round(sum(values), 1) for values in zip(*told, strict=True)] if told else None
