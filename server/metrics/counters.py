"""What a shard has done since its process started, in all and by table. They outlive a move of rows.

Why it is so. A cluster may have any number of tables, and a monitoring system must not: each one is a series, on each
shard. So only so many tables have counts of their own, in the order in which they are used, and all others share one.
What was counted together stays there, or a count would fall and be taken for a server that started anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ...proto import rowloom_pb2 as pb

MOST_TABLES = 100  # that have counts and times of their own
OTHER = "(other)"  # no table's name: those have no parentheses


@dataclass(slots=True)
class TableCounters:
    """What was done for one table: requests that named it, and their rows."""

    pulls: int = 0
    pulled_rows: int = 0
    pushes: int = 0
    pushed_rows: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass
class Counters:
    """What a shard has done since it started. Callers hold its lock.

    Attributes:
        tables: by number, of those that have counts of their own.
        other: of all others.
    """

    pulls: int = 0
    pulled_rows: int = 0
    pushes: int = 0
    pushed_rows: int = 0
    duplicates: int = 0
    tables: dict[int, TableCounters] = field(default_factory=dict[int, TableCounters])
    other: TableCounters = field(default_factory=TableCounters)

    def of(self, number: int) -> TableCounters:
        """Where a table that exists is counted."""
        found = self.tables.get(number)
        if found is None:
            if len(self.tables) >= MOST_TABLES:
                return self.other
            found = self.tables[number] = TableCounters()
        return found

    def pulled(self, rows: Iterable[tuple[int, int]]) -> None:
        """A pull was answered. rows: (table, how many)."""
        self.pulls += 1
        for number, count in rows:
            table = self.tables.get(number) or self.of(number)
            table.pulls += 1
            table.pulled_rows += count
            self.pulled_rows += count

    def pushed(self, rows: Iterable[tuple[int, int]]) -> None:
        """A request of a push was applied. rows: (table, how many)."""
        self.pushes += 1
        for number, count in rows:
            table = self.of(number)
            table.pushes += 1
            table.pushed_rows += count
            self.pushed_rows += count

    def repeated(self, numbers: Iterable[int]) -> None:
        """A request of a push had been applied before. numbers: of the tables that it named and that exist."""
        self.duplicates += 1
        for number in numbers:
            self.of(number).duplicates += 1

    def rejected(self, numbers: Iterable[int]) -> None:
        """A request of a push ended in an error. numbers: as of `repeated`."""
        for number in numbers:
            self.of(number).rejected += 1

    def messages(self, names: Mapping[int, str]) -> Iterator[pb.TableCounts]:
        """The counts by table. names: of the tables that exist; those of others are forgotten."""
        for number in [number for number in self.tables if number not in names]:
            del self.tables[number]
        for number in names:
            self.of(number)  # what nobody has used yet counts from 0
        for number, table in self.tables.items():
            yield _message(names[number], table)
        if len(names) > len(self.tables) or self.other != TableCounters():
            yield _message(OTHER, self.other)


def _message(name: str, table: TableCounters) -> pb.TableCounts:
    return pb.TableCounts(
        table=name,
        pulls=table.pulls,
        pulled_rows=table.pulled_rows,
        pushes=table.pushes,
        pushed_rows=table.pushed_rows,
        duplicates=table.duplicates,
        rejected=table.rejected,
    )
