"""What must be in a snapshot: every push that was acked before, and each later one on all shards or on none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import numpy as np
from simulation.tables import ROWS, Added, Counters, Table

from rowloom.deploy.control.hold import GONE_S
from rowloom.deploy.control.state import KnownSnapshot
from rowloom.proto.snapshots.snapshot import StoredSnapshot, open_snapshot


@dataclass
class Pushed:
    """A push of a client, and what became of it: "under way", "acked", "failed", or "unresolved".

    began_s, ended_s: when.
    """

    added: list[Added]
    began_s: float
    became: str = "under way"
    ended_s: float = math.inf

    def end(self, became: str, now: float) -> None:
        """It has ended."""
        self.became, self.ended_s = became, now

    @property
    def in_part(self) -> bool:
        """Whether a part of it may be in a snapshot: its client gave it up, or took so long that it seemed to have."""
        return self.became == "unresolved" or (
            self.became == "acked" and self.ended_s - self.began_s > GONE_S
        )


@dataclass
class Cuts:
    """Snapshots of one history.

    Args:
        tables: of it.
        clients: how many push, one push after the other each.

    Attributes:
        pushed: by client, its pushes in order.
        taken: each snapshot with what was known when it was asked for, and how much each client had pushed at its end.
    """

    tables: Sequence[Table]
    clients: int
    pushed: list[list[Pushed]] = field(init=False)
    taken: list[tuple[str, Before, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pushed = [[] for _ in range(self.clients)]

    def push(self, client: int, marks: Sequence[Any], now: float) -> Pushed:
        """A client is about to push."""
        found = Pushed([mark for mark in marks if isinstance(mark, Added)], now)
        self.pushed[client].append(found)
        return found

    def before(self) -> Before:
        """What is known now."""
        every = np.arange(ROWS)
        ended = [sum(push.became != "under way" for push in pushes) for pushes in self.pushed]
        return Before(ended, [table.look(every) for table in self.tables])

    def take(self, known: KnownSnapshot, before: Before) -> None:
        """A snapshot was taken."""
        self.taken.append((known.url, before, [len(pushes) for pushes in self.pushed]))

    def check(self) -> None:
        """All of them; when no push is under way any more."""
        for url, before, until in self.taken:
            snapshot = open_snapshot(url)
            rows = [_rows(snapshot, table) for table in self.tables]
            for table, values, least in zip(self.tables, rows, before.looks, strict=True):
                table.check(np.arange(ROWS), values, least)
            for client in range(self.clients):
                self._check_whole(client, rows, before.ended[client], until[client])

    def _check_whole(self, client: int, rows: list[np.ndarray], ended: int, until: int) -> None:
        """Some of its pushes must be in it to the end, and none of those that follow."""
        counters = [
            (t, r[:, client]) for t, r in zip(self.tables, rows, strict=True) if isinstance(t, Counters)
        ]
        pushes = self.pushed[client][:until]
        least = {t.spec.name: np.zeros(ROWS) for t, _ in counters}
        maybe = {t.spec.name: np.zeros(ROWS) for t, _ in counters}
        for number, push in enumerate(pushes):
            if push.in_part and (push.became == "unresolved" or number >= ended):
                _add(maybe, push, client)
        for number in range(until + 1):
            if number >= ended and all(
                (least[t.spec.name] <= found).all()
                and (found <= least[t.spec.name] + maybe[t.spec.name]).all()
                for t, found in counters
            ):
                return
            if (
                number < until
                and pushes[number].became == "acked"
                and not (number >= ended and pushes[number].in_part)
            ):
                _add(least, pushes[number], client)
        raise AssertionError(f"a push of client {client} is in a snapshot on some shards and not on others")

    def forget(self, base: str) -> None:
        """Remove what lies under a URL."""
        fs, path = fsspec.core.url_to_fs(base)
        for name in [name for name in fs.store if name.startswith(path)]:
            del fs.store[name]


@dataclass(frozen=True)
class Before:
    """By client, how many pushes had ended; by table, what its rows were at least."""

    ended: list[int]
    looks: list[Any]


def _add(sums: dict[str, np.ndarray], push: Pushed, client: int) -> None:
    for added in push.added:
        sums[added.table.spec.name] += added.added[:, client]


def _rows(snapshot: StoredSnapshot, table: Table) -> np.ndarray:
    """All of a table's rows in a snapshot, [ROWS, width]; zeros where there is none, as in the table."""
    places = {key: place for place, key in enumerate(table.keys.tolist())}
    rows = np.zeros((ROWS, table.width), np.float32)
    for block in snapshot.read(table.spec.name):
        rows[[places[key] for key in block.ids.tolist()]] = block.values
    return rows
