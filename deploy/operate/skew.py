"""How even the load and the rows of a table would be over some number of shards, and what would be better. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...client.hottest import Hottest
from ...proto.layout import owner
from ...proto.spec import TableSpec

UNEVEN = 1.5  # times the mean that the busiest shard may do before it is said
PER_SHARD = 100  # ids that must have been looked at for each shard, or chance alone looks uneven
MOST_BETTER = 3  # ways that are named
HOT = 10  # ids whose leaving shows whether a cache would help
CACHE = "`connect(..., cache=HotRows(...))`"
LIVE = " A split is an edit of the config, and `rowloom apply`: rows move while trainers go on."


@dataclass(frozen=True, eq=False)
class WeighedIds:
    """Some ids, each of which stands for so many.

    Attributes:
        ids: [N] int64.
        weights: [N] float64, above 0.
    """

    ids: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[tuple[np.ndarray, float]]) -> WeighedIds:
        """From what each shard gives: (ids, what they stand for together)."""
        weights = [np.full(len(ids), stands / max(len(ids), 1)) for ids, stands in parts]
        return cls(
            np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in parts)]),
            np.concatenate([np.empty(0), *weights]),
        )

    @property
    def size(self) -> float:
        """How many ids of equal weight would say as much."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum()) if len(self.ids) else 0.0

    def unevenness(self, spec: TableSpec, n: int) -> float | None:
        """How many times the mean the fullest of n shards would have; None: too few ids to say."""
        if self.size < PER_SHARD * n:
            return None
        loads = np.bincount(owner(spec, self.ids, n), self.weights, n)
        return float(loads.max() / loads.mean())

    def without(self, ids: np.ndarray) -> WeighedIds:
        """The others."""
        stay = ~np.isin(self.ids, ids)
        return WeighedIds(self.ids[stay], self.weights[stay])


@dataclass(frozen=True)
class Seen:
    """What the shards know of a table.

    Attributes:
        asked: of the ids that are pulled and pushed.
        rows: of those whose rows exist.
        hottest: of the first.
    """

    asked: WeighedIds
    rows: WeighedIds
    hottest: Hottest


@dataclass(frozen=True)
class TableSkew:
    """How even a table would be.

    Attributes:
        table: its name.
        shards: over so many.
        busiest: pulls and pushes of the busiest shard, times the mean; None: too few ids were seen.
        fullest: rows of the fullest shard, times the mean; None: too few exist.
        sampled: ids that say so.
        better: (what would be better, how many times the mean the worst shard would have then), the best first.
        warning: in words; empty if it is even enough.
    """

    table: str
    shards: int
    busiest: float | None
    fullest: float | None
    sampled: int
    better: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    warning: str = ""


def skew_of(spec: TableSpec, n: int, seen: Seen) -> TableSkew:
    """How even a table would be over n shards, from the ids that were seen."""
    busiest, fullest = seen.asked.unevenness(spec, n), seen.rows.unevenness(spec, n)
    plain = TableSkew(spec.name, n, _rounded(busiest), _rounded(fullest), len(seen.asked.ids))
    worst = max(busiest or 0.0, fullest or 0.0)
    if worst <= UNEVEN:
        return plain
    better = _better(spec, n, seen, worst)
    if (fullest or 0.0) <= UNEVEN:
        better += _by_cache(spec, n, seen)
    better = sorted(better, key=lambda one: one[1])[:MOST_BETTER]
    return dataclasses.replace(plain, better=better, warning=_warning(spec, plain, seen, better))


def _better(spec: TableSpec, n: int, seen: Seen, worst: float) -> list[tuple[str, float]]:
    """What is even enough, or at least takes a fifth away."""
    found: list[tuple[str, float]] = []
    for what, other, count in _others(spec, n):
        would = [some.unevenness(other, count) for some in (seen.asked, seen.rows)]
        found.append((what, max((one for one in would if one is not None), default=worst)))
    return [(what, round(would, 2)) for what, would in found if would <= max(UNEVEN, 0.8 * worst)]


def _by_cache(spec: TableSpec, n: int, seen: Seen) -> list[tuple[str, float]]:
    """That clients keep the hottest ids, if the others are even."""
    would = seen.asked.without(seen.hottest.ids[:HOT]).unevenness(spec, n)
    if would is None or would > UNEVEN:
        return []
    return [(f"{CACHE} in clients that pull the hottest ids more often than they push them", round(would, 2))]


def _others(spec: TableSpec, n: int) -> Iterable[tuple[str, TableSpec, int]]:
    """Other ways to split it: in words, as a spec and a number of shards."""
    if spec.partition == "div":
        yield "`partition: mod`", dataclasses.replace(spec, partition="mod"), n
    elif spec.num_embeddings is not None and not spec.hash_ids:
        yield "`partition: div`", dataclasses.replace(spec, partition="div"), n
    if not spec.hash_ids:
        yield "`hash_ids: true`", dataclasses.replace(spec, partition="mod", hash_ids=True), n
    for count in (n - 1, n + 1):
        if count > 1:
            yield f"{count} shards", spec, count


def _warning(spec: TableSpec, skew: TableSkew, seen: Seen, better: list[tuple[str, float]]) -> str:
    how = "a hash of the id" if spec.hash_ids else f"`{spec.partition}`"
    said = [f"{skew.busiest:.1f} times the mean of pulls and pushes"] if (skew.busiest or 0) > UNEVEN else []
    said += [f"{skew.fullest:.1f} times the mean of rows"] if (skew.fullest or 0) > UNEVEN else []
    hot = seen.hottest.words()
    line = f"table {spec.name}: one of {skew.shards} shards would have {' and '.join(said)} (split by {how}"
    line += f"; hottest ids {hot})" if hot else ")"
    if not better:
        return f"{line}. No other split evens that out: few ids are asked for most of the time"
    ways = ", ".join(f"{what} ({would:.1f} times)" for what, would in better)
    edits = any(not what.startswith(CACHE) for what, _ in better)
    return f"{line}. Better: {ways}.{LIVE if edits else ''}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def to_json(skew: TableSkew) -> dict[str, Any]:
    """As `rowloom plan --json` prints it."""
    better = [{"what": what, "times_the_mean": would} for what, would in skew.better]
    return {**dataclasses.asdict(skew), "better": better}
