"""What principals have of what quotas bound, of all shards together: for programs, and for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...proto import rowloom_pb2 as pb
from ...server.access.quotas import KINDS, Quotas
from ..config.config import from_json
from ..config.memory import in_bytes


def quota_summary(status: pb.StatusReply) -> list[dict[str, Any]]:
    """For each principal that has something, or whose quotas are named: what it has, its quota, and the fullest shard.

    `fullest` is the largest part of its share that any shard has: at 1 that shard refuses new rows.
    """
    uses = [use for shard in status.shards for use in shard.statistics.quotas]
    quotas = from_json(status.config).quotas.values() if status.config else Quotas()
    names = (
        {use.principal for use in uses} | {entry.owner for entry in status.tables} | set(quotas.principals)
    )
    return [
        {
            "principal": name,
            **{
                what: {
                    "used": _tables(status, name) if what == "tables" else _used(uses, name, what),
                    "quota": getattr(quotas.of(name), what),
                    "fullest": _fullest(uses, name, what),
                    "refused": sum(u.refused for u in _of(uses, name, what)),
                }
                for what in KINDS
            },
        }
        for name in sorted(names - {""})
    ]


def _of(uses: Sequence[pb.QuotaUse], name: str, what: str) -> list[pb.QuotaUse]:
    return [use for use in uses if (use.principal, use.what) == (name, what)]


def _used(uses: Sequence[pb.QuotaUse], name: str, what: str) -> int:
    return sum(use.used for use in _of(uses, name, what))


def _tables(status: pb.StatusReply, name: str) -> int:
    return sum(entry.owner == name for entry in status.tables)


def _fullest(uses: Sequence[pb.QuotaUse], name: str, what: str) -> float | None:
    """None: there is no bound on any shard."""
    parts = [
        use.used / use.limit if use.limit else 1.0 for use in _of(uses, name, what) if use.HasField("limit")
    ]
    return round(max(parts), 3) if parts else None


def quota_cells(one: dict[str, Any]) -> dict[str, str]:
    """One of a `quota_summary` for people, by column: what is had, of how much, and how full the fullest shard is."""
    return {"principal": one["principal"]} | {f">{what}": _cell(what, one[what]) for what in KINDS}


def _cell(what: str, had: dict[str, Any]) -> str:
    def worded(value: int) -> str:
        return in_bytes(value) if what == "bytes" else f"{value:,}"

    if had["quota"] is None:
        return worded(had["used"])
    said = f"{worded(had['used'])} of {worded(had['quota'])}"
    return said if had["fullest"] is None else f"{said} (fullest shard {had['fullest']:.0%})"
