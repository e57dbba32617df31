"""What a shard counts by table: all that was done, in a bounded number of series, which never fall."""

import numpy as np
import pytest

from rowloom.client import TableSpec
from rowloom.proto.codec import Pull
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.metrics import counters
from rowloom.server.metrics.counters import OTHER, Counters
from rowloom.server.shard import Shard


def by_table(counted: Counters, names: dict[int, str]) -> dict[str, tuple[int, int]]:
    return {m.table: (m.pulls, m.pulled_rows) for m in counted.messages(names)}


def test_a_table_that_nobody_has_used_counts_from_0():
    assert by_table(Counters(), {1: "users"}) == {"users": (0, 0)}


def test_a_pull_of_two_tables_counts_once_for_each_of_them_and_once_in_all():
    counted = Counters()
    counted.pulled([(1, 10), (2, 5)])
    counted.pulled([(1, 1)])
    assert (counted.pulls, counted.pulled_rows) == (2, 16)
    assert by_table(counted, {1: "users", 2: "items"}) == {"users": (2, 11), "items": (1, 5)}


def test_tables_beyond_the_limit_are_counted_together(monkeypatch):
    monkeypatch.setattr(counters, "MOST_TABLES", 2)
    counted = Counters()
    for number in (1, 2, 3, 4):
        counted.pulled([(number, 10)])
    names = {1: "a", 2: "b", 3: "c", 4: "d"}
    assert by_table(counted, names) == {"a": (1, 10), "b": (1, 10), OTHER: (2, 20)}


def test_what_was_counted_together_does_not_fall_when_one_of_the_tables_is_dropped(monkeypatch):
    monkeypatch.setattr(counters, "MOST_TABLES", 1)
    counted = Counters()
    counted.pulled([(1, 10)])
    counted.pulled([(2, 10)])
    assert by_table(counted, {1: "a"}) == {"a": (1, 10), OTHER: (1, 10)}
    # `a` goes, and `c` takes its place: it begins at 0, and the others stay.
    assert by_table(counted, {3: "c"}) == {"c": (0, 0), OTHER: (1, 10)}


@pytest.fixture
def shard():
    entries = [TableEntry(1, TableSpec("users", 100, dim=2)), TableEntry(2, TableSpec("items", 100, dim=2))]
    return Shard(Layout("c", 1, (ShardAddress(0, "x:1", 1),)), 0, entries)


def test_a_table_that_was_dropped_is_forgotten_and_the_next_one_of_its_name_begins_at_0(shard):
    shard.pull(Pull(shard.layout.header(0), [(1, np.arange(5))]))
    shard.drop_table(1)
    shard.create_table(TableEntry(3, TableSpec("users", 100, dim=2)))
    counts = {c.table: c.pulled_rows for c in shard.statistics().counts}
    assert counts == {"users": 0, "items": 0}
    assert shard.statistics().pulled_rows == 5
