"""How even a table would be over other shards, from ids that were seen; and what is said of it."""

import itertools

import numpy as np
import pytest

from rowloom.client import TableSpec
from rowloom.client.hottest import Hottest
from rowloom.deploy.observe.sampling import MOST_CALLS, PLACES, ROWS, pieces_of, places
from rowloom.deploy.operate.skew import CACHE, Seen, WeighedIds, skew_of
from rowloom.proto.layout import owner

RNG = np.random.default_rng(5)
V = 1_000_000


def table(partition: str = "mod", **more) -> TableSpec:
    return TableSpec("users", more.pop("num_embeddings", V), dim=2, partition=partition, **more)


def seen(asked: np.ndarray, rows: np.ndarray | None = None) -> Seen:
    ids, counts = np.unique(asked, return_counts=True)
    order = np.argsort(-counts)[:10]
    order = order[counts[order] > len(asked) / 100]
    hottest = Hottest(ids[order], counts[order] / len(asked), np.zeros(len(order), np.int64), len(asked), 0.0)
    whole = WeighedIds.of([(asked, float(len(asked)))])
    return Seen(
        whole, WeighedIds.of([(rows, float(len(rows)))]) if rows is not None else WeighedIds.of([]), hottest
    )


EVEN = RNG.integers(0, V, 8000)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16])
def test_ids_that_are_spread_evenly_are_no_reason_to_warn(n):
    for spec in (table("mod"), table("div"), table(hash_ids=True)):
        skew = skew_of(spec, n, seen(EVEN, EVEN))
        assert skew.busiest == pytest.approx(1.0, abs=0.2)
        assert skew.fullest == pytest.approx(1.0, abs=0.2)
        assert (skew.warning, skew.better) == ("", [])


def test_even_ids_on_an_even_number_of_shards_are_better_off_with_an_odd_one_a_hash_or_div():
    skew = skew_of(table("mod"), 4, seen(EVEN * 2 % V, EVEN * 2 % V))
    assert skew.busiest == pytest.approx(2.0, abs=0.1)
    assert {what for what, _ in skew.better} <= {
        "`partition: div`",
        "`hash_ids: true`",
        "3 shards",
        "5 shards",
    }
    assert len(skew.better) == 3
    assert all(would < 1.2 for _, would in skew.better)
    assert skew.warning.startswith(
        "table users: one of 4 shards would have 2.0 times the mean of pulls and pushes and 2.0 times the mean of rows "
        "(split by `mod`). Better: "
    )


def test_low_ids_under_div_are_better_off_with_mod():
    skew = skew_of(table("div"), 4, seen(EVEN // 4))
    assert skew.busiest == pytest.approx(4.0)
    assert "`partition: mod`" in dict(skew.better)
    assert skew.warning.endswith(
        " A split is an edit of the config, and `rowloom apply`: rows move while trainers go on."
    )


def test_one_id_that_is_half_of_all_is_for_a_cache_and_no_split_helps():
    hot = np.where(RNG.random(8000) < 0.5, 42, EVEN)
    skew = skew_of(table("mod"), 8, seen(hot, EVEN))
    assert skew.busiest == pytest.approx(4.5, abs=0.3)
    assert skew.better[0][0].startswith(CACHE)
    assert "hottest ids 42 (49." in skew.warning
    assert not any("partition" in what or "hash" in what for what, _ in skew.better)
    assert "apply" not in skew.warning


def test_open_ended_ids_are_never_told_to_take_div():
    skew = skew_of(table(num_embeddings=None), 2, seen(EVEN * 2))
    assert "`partition: div`" not in dict(skew.better)
    assert "`hash_ids: true`" in dict(skew.better)


def test_too_few_ids_say_nothing():
    skew = skew_of(table(), 4, seen(np.zeros(399, np.int64)))
    assert (skew.busiest, skew.fullest, skew.sampled, skew.warning) == (None, None, 399, "")
    assert skew_of(table(), 4, seen(np.zeros(400, np.int64))).busiest == 4.0


def test_what_each_shard_gives_stands_for_what_it_was_asked_for():
    busy, idle = np.arange(0, 8000, 2), np.arange(1, 8000, 2)
    asked = WeighedIds.of([(busy, 9_000_000.0), (idle, 1_000_000.0)])
    assert asked.unevenness(table(), 2) == pytest.approx(1.8)
    assert asked.size < 8000


@pytest.mark.parametrize(("before", "now"), [(3, 2), (2, 3), (8, 2), (4, 1), (5, 40)])
@pytest.mark.parametrize("partition", ["mod", "div"])
def test_rows_that_lie_one_old_owner_after_the_other_look_as_even_as_they_are(before, now, partition):
    old, spec = table(partition), table()
    every = np.arange(V)
    ids = every[np.argsort(owner(old, every, before), kind="stable")]
    held: list[tuple[np.ndarray, float]] = []
    for shard in range(now):
        mine = ids[owner(spec, ids, now) == shard]
        read = [mine[begin : begin + some] for begin, some in places(len(mine), pieces_of(now, 1), shard)]
        held.append((np.concatenate(read), float(len(mine))))
    rows = WeighedIds.of(held)
    assert rows.size > 0.9 * now * ROWS
    for other in (table("mod"), table("div"), table(hash_ids=True)):
        assert rows.unevenness(other, before) < 1.5


def test_few_rows_are_read_whole_and_many_at_places_that_do_not_overlap():
    assert places(ROWS, 64, 1) == [(0, ROWS)]
    assert [pieces_of(2, 2), pieces_of(2, 100), pieces_of(1000, 1)] == [PLACES // 2, MOST_CALLS // 200 - 1, 1]
    for count in (ROWS + 1, 100_000):
        read = places(count, 64, 1)
        assert len(read) == 64
        assert all(begin + some <= after for (begin, some), (after, _) in itertools.pairwise(read))
        assert read[-1][0] + read[-1][1] <= count
