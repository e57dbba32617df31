"""How long calls took, by kind and table."""

import threading

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.server.metrics import traffic
from rowloom.server.metrics.traffic import BOUNDS_S, NO_TABLE, SEVERAL, SEVERAL_TABLES, Traffic, only

NAMES = {1: "users", 2: "items"}


def said(some: Traffic, names: dict[int, str] = NAMES) -> dict[tuple[str, str], pb.CallTraffic]:
    return {(m.call, m.table): m for m in some.messages(names)}


def test_a_call_is_counted_under_the_first_bound_that_it_does_not_exceed():
    some = Traffic()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 99.0):
        some.add(methods.PULL, 1, seconds, 0, 0)
    counts = said(some)["pull", "users"].counts
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)


def test_bytes_and_seconds_are_added_up_by_kind_and_table():
    some = Traffic()
    some.add(methods.PULL, 1, 0.25, 10, 1000)
    some.add(methods.PULL_BAGS, 1, 0.5, 20, 2000)
    some.add(methods.PUSH, 2, 1.0, 5000, 3)
    some.add(methods.STATISTICS, NO_TABLE, 1.0, 1, 9)
    found = said(some)
    assert set(found) == {("pull", "users"), ("push", "items"), ("control", "")}
    pulls = found["pull", "users"]
    assert (pulls.seconds, pulls.received_bytes, pulls.sent_bytes) == (0.75, 30, 3000)


def test_a_call_of_several_tables_counts_once():
    assert only((1, ...), (2, ...)) == SEVERAL_TABLES
    assert only((1, ...), (1, ...)) == 1
    assert only() == NO_TABLE
    some = Traffic()
    some.add(methods.STEP, SEVERAL_TABLES, 0.1, 1, 1)
    assert set(said(some)) == {("step", SEVERAL)}


def test_tables_beyond_the_limit_share_their_times_until_one_of_the_others_is_gone(monkeypatch):
    monkeypatch.setattr(traffic, "MOST_TABLES", 1)
    some = Traffic()
    for number in (1, 2, 3):
        some.add(methods.PULL, number, 0.1, 1, 1)
    assert {table: sum(m.counts) for (_, table), m in said(some, {**NAMES, 3: "x"}).items()} == {
        "users": 1,
        "(other)": 2,
    }
    said(some, {2: "items"})
    some.add(methods.PULL, 2, 0.1, 1, 1)
    assert {table for _, table in said(some, {2: "items"})} == {"items", "(other)"}


def test_calls_of_many_threads_are_each_counted_once_and_few_notes_are_kept():
    some = Traffic()

    def calls() -> None:
        for _ in range(2000):
            some.add(methods.PULL, 1, 0.1, 1, 2)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = [sum(said(some)["pull", "users"].counts) for _ in range(20) if said(some)]
    for thread in threads:
        thread.join()
    assert len(some._notes) <= traffic._MOST_NOTES
    found = said(some)["pull", "users"]
    assert (sum(found.counts), found.received_bytes, found.sent_bytes) == (8000, 8000, 16000)
    assert seen == sorted(seen)
