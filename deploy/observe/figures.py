"""Figures of shards and tables for people: what no shard told is `-`, and a sum that lacks a shard is at least that."""

from __future__ import annotations

from typing import Any

from ..config.memory import in_bytes


def at_least(figure: str, whole: bool, known: bool = True) -> str:
    """A figure for people. whole: not `>=`, nothing was left out of it; known: not `-`, there is one at all."""
    return "-" if not known else figure if whole else f">= {figure}"


def told_by(shard: dict[str, Any]) -> dict[str, str]:
    """The cells that a shard itself tells; of one that tells nothing, dashes: it may hold all its rows."""
    cells = {
        "epoch": str(shard["epoch"]),
        ">rows": f"{shard['rows']:,}",
        ">bytes": in_bytes(shard["bytes"]),
        ">process": in_bytes(shard["resident_bytes"]),
        ">pull/s": f"{shard['pulled_rows_per_s']:,.0f}",
        ">push/s": f"{shard['pushed_rows_per_s']:,.0f}",
    }
    return cells if shard.get("counted", True) else dict.fromkeys(cells, "-")


def sizes_of(table: dict[str, Any]) -> tuple[str, str]:
    """Rows and bytes of a table of a `summary`, for people: at least what was counted, where a shard tells nothing."""
    whole = not table.get("uncounted_shards")
    known = whole or table["rows"] > 0
    return tuple(at_least(said, whole, known) for said in (f"{table['rows']:,}", in_bytes(table["bytes"])))  # type: ignore[return-value]
