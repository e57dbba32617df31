"""Rows that a client keeps: never older than allowed, never behind its own pushes, counted as they should be."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowloom.client import (
    SGD,
    Adam,
    Client,
    HotRows,
    InvalidRequest,
    Normal,
    TableNotFound,
    TableSpec,
    Zeros,
)
from rowloom.client.cache.row_cache import RowCache

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())


# ------------------------------------------------------------------------------------------- the structure alone

steps = st.one_of(
    st.tuples(st.just("pull"), st.sets(st.integers(0, 5), max_size=4)),
    st.tuples(st.just("begin"), st.sets(st.integers(0, 5), max_size=4)),
    st.tuples(st.just("end"), st.integers(0, 3)),
    st.tuples(st.just("push"), st.sets(st.integers(0, 5), max_size=2)),
    st.tuples(st.just("other"), st.sets(st.integers(0, 5), max_size=4)),
    st.tuples(st.just("wait"), st.floats(0.1, 3.0)),
    st.tuples(st.just("clear"), st.none()),
)
ages = st.one_of(
    st.tuples(st.integers(0, 3), st.none()),
    st.tuples(st.none(), st.floats(0.5, 5.0)),
    st.tuples(st.integers(0, 3), st.floats(0.5, 5.0)),
)


class Model:
    """The shards as a log of (moment, pushes, id): every row's history, against which what is served is judged."""

    def __init__(self, capacity: int, max_pushes: int | None, max_s: float | None) -> None:
        self.cache = RowCache(HotRows(capacity, max_pushes, max_s), 1)
        self.capacity, self.max_pushes, self.max_s = capacity, max_pushes, max_s
        self.value = np.zeros(6)
        self.history = {i: [(0.0, 0, 0.0)] for i in range(6)}  # (since when, since which push, value)
        self.own = np.zeros(6)  # the value after this client's last push
        self.now, self.pushes, self.asked = 0.0, 0, []
        self.hits = self.misses = 0

    def begin(self, ids) -> None:
        ids = np.array(sorted(ids), np.int64)
        taken = self.cache.take(ids, self.now)
        self.hits += len(ids) - len(taken.missing)
        self.misses += len(taken.missing)
        missing = set(taken.missing.tolist())
        for u, i in enumerate(ids):
            if u not in missing:
                self.judge(int(i), float(taken.rows[u, 0]))
        # The answer is made now and arrives when the pull ends.
        self.asked.append((ids, taken, self.value[ids[taken.missing]][:, None].astype(np.float32)))

    def end(self, k: int) -> None:
        if self.asked:
            ids, taken, rows = self.asked.pop(k % len(self.asked))
            self.cache.fill(ids, taken, rows)
            np.testing.assert_array_equal(taken.rows[taken.missing], rows)

    def change(self, ids, own: bool) -> None:
        for i in ids:
            self.value[i] += 1
            self.history[i].append((self.now, self.pushes, self.value[i]))
        if own:
            self.pushes += 1
            self.own[list(ids)] = self.value[list(ids)]
            self.cache.pushed(np.array(sorted(ids), np.int64))

    def judge(self, i: int, served: float) -> None:
        assert served >= self.own[i], "its own pushes are seen"
        newer = [(s, p) for s, p, value in self.history[i] if value == served + 1]
        if newer:  # it was overwritten then, and is no older than allowed
            since_s, since_pushes = newer[0]
            assert self.max_s is None or self.now - since_s <= self.max_s
            assert self.max_pushes is None or self.pushes - since_pushes <= self.max_pushes


@settings(max_examples=300)
@given(st.lists(steps, min_size=15, max_size=50), st.integers(1, 20), ages)
def test_what_is_served_is_never_older_than_allowed_nor_behind_own_pushes(history, capacity, age) -> None:
    model = Model(capacity, *age)
    for kind, what in history:
        if kind == "pull":
            model.begin(what)
            model.end(len(model.asked) - 1)
        elif kind == "begin":
            model.begin(what)
        elif kind == "end":
            model.end(what)
        elif kind in ("push", "other"):
            model.change(what, kind == "push")
        elif kind == "wait":
            model.now += what
        else:
            model.cache.clear()
            assert len(model.cache) == 0
        assert len(model.cache) <= capacity
    assert (model.cache.hits, model.cache.misses) == (model.hits, model.misses)


def test_what_was_used_least_recently_is_driven_out() -> None:
    cache = RowCache(HotRows(4, max_age_s=1.0), 1)  # one set of four places
    ids = np.arange(4)
    cache.fill(ids, (taken := cache.take(ids, 0.0)), np.zeros((len(taken.missing), 1), np.float32))
    assert len(cache.take(np.array([0, 1, 3]), 0.0).missing) == 0
    cache.fill(np.array([9]), cache.take(np.array([9]), 0.0), np.ones((1, 1), np.float32))
    assert cache.take(np.array([0, 1, 3, 9]), 0.0).missing.tolist() == []
    assert cache.take(np.array([2]), 0.0).missing.tolist() == [0]


def test_an_answer_from_before_a_push_is_not_kept_after_it() -> None:
    cache, ids = RowCache(HotRows(10, max_age_pushes=5), 1), np.array([1])
    before = cache.take(ids, 0.0)
    cache.pushed(ids)
    cache.fill(ids, before, np.array([[7]], np.float32))
    between = cache.take(ids, 0.0)
    assert between.missing.tolist() == [0]
    cache.pushed(ids)
    after = cache.take(ids, 0.0)
    cache.fill(ids, between, np.array([[8]], np.float32))
    assert cache.take(ids, 0.0).missing.tolist() == [0]
    cache.fill(ids, after, np.array([[9]], np.float32))
    assert len(cache) == 0, "another pull has reserved the place since"


def test_a_pull_that_fails_leaves_no_row() -> None:
    cache = RowCache(HotRows(10, max_age_pushes=5), 1)
    cache.take(np.array([1, 2]), 0.0)  # no answer ever comes
    assert len(cache) == 0
    assert cache.take(np.array([1, 2]), 0.0).missing.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity_rows": 0, "max_age_s": 1}, "capacity_rows must be at least 1, got 0"),
        ({"capacity_rows": 5}, "give max_age_pushes or max_age_s"),
        ({"capacity_rows": 5, "max_age_pushes": -1}, "max_age_pushes must be None or at least 0, got -1"),
        ({"capacity_rows": 5, "max_age_s": 0}, "max_age_s must be None or above 0, got 0"),
        ({"capacity_rows": 5, "max_age_s": float("nan")}, "max_age_s must be .*nan"),
    ],
)
def test_wrong_limits_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        HotRows(**arguments)


# --------------------------------------------------------------------------------------------------- on a cluster


def connected(cluster, **limits) -> Client:
    return cluster.connect(cache=HotRows(**{"capacity_rows": 1000, "max_age_pushes": 1000, **limits}))


def asked_of_shards(client: Client) -> int:
    return sum(shard["pulled_rows"] for shard in client.statistics())


def test_without_one_nothing_is_kept(client: Client) -> None:
    table = client.create_table(SPEC)
    table.pull([1])
    table.pull([1])
    assert asked_of_shards(client) == 2
    assert client.cache_statistics() == {}
    with pytest.raises(InvalidRequest, match="cache must be None or such as HotRows"):
        Client(["h:1"], cache=5)  # type: ignore[arg-type]


def test_rows_are_served_in_the_callers_order_and_counted(cluster) -> None:
    with connected(cluster) as client:
        table = client.create_table(SPEC)
        scalar = client.create_table(TableSpec("s", 50, dim=(), initializer=Normal(seed=1)))
        table.assign(np.arange(100), np.repeat(np.arange(100.0)[:, None], 2, 1))
        expected = scalar.pull(np.arange(50))
        asked = asked_of_shards(client)
        rng = np.random.default_rng(0)
        for shape in [(), (0,), (7,), (3, 5)] * 3:
            ids = rng.integers(0, 40, shape)
            rows = client.pull({"t": ids, "s": ids})
            np.testing.assert_array_equal(rows["t"][..., 1], ids)
            np.testing.assert_array_equal(rows["s"], expected[ids])
            assert rows["t"].shape == (*ids.shape, 2)
        statistics = client.cache_statistics()
        assert statistics["s"]["misses"] == 50
        assert statistics["t"]["hits"] + statistics["t"]["misses"] == statistics["s"]["hits"]
        assert asked_of_shards(client) - asked == statistics["t"]["misses"] == statistics["t"]["rows"] <= 40
        assert statistics["t"]["hit_rate"] == pytest.approx(
            statistics["t"]["hits"] / (statistics["t"]["hits"] + statistics["t"]["misses"])
        )


def test_pulled_rows_belong_to_the_caller(cluster) -> None:
    with connected(cluster) as client:
        table = client.create_table(SPEC)
        for _ in range(3):
            rows = table.pull([1, 2])
            assert (rows == 0).all()
            rows += 7


def test_another_trainers_push_is_seen_within_the_bound_and_ones_own_at_once(cluster, client: Client) -> None:
    other = client.create_table(SPEC)
    with connected(cluster, max_age_pushes=3) as mine:
        table = mine.table("t")
        table.pull([1, 2])
        other.push([1, 2], -np.ones((2, 2)))
        for k in range(8):
            behind = 0 if k > 3 else 1
            assert table.pull([1])[0, 0] == 1 - behind, k
            table.push([2], -np.ones((1, 2)))
            assert table.pull([2])[0, 0] == k + 2
        table.assign([2], [[50, 50]])
        assert table.pull([2])[0, 0] == 50
        table.renorm([2], 5.0)
        np.testing.assert_allclose(np.linalg.norm(table.pull([2])), 5.0, rtol=1e-5)


def test_seconds_bound_the_age_too(cluster, client: Client, monkeypatch) -> None:
    other = client.create_table(SPEC)
    with connected(cluster, max_age_pushes=None, max_age_s=10.0) as mine:
        now = [0.0]
        monkeypatch.setattr(mine._hot, "_clock", lambda: now[0])
        table = mine.table("t")
        table.pull([1])
        other.push([1], -np.ones((1, 2)))
        now[0] = 10.0
        assert table.pull([1])[0, 0] == 0
        now[0] = 10.1
        assert table.pull([1])[0, 0] == 1


def test_a_new_layout_rate_or_table_drops_what_was_kept(cluster) -> None:
    with connected(cluster) as client:
        table = client.create_table(SPEC)
        table.pull([1, 2])
        cluster.scale(3)
        client.refresh()
        table.pull([1, 2])
        assert client.cache_statistics()["t"]["misses"] == 4
        table.set_lr(0.5)
        table.pull([1, 2])
        assert client.cache_statistics()["t"]["misses"] == 6
        client.drop_table("t")
        assert client.cache_statistics() == {}
        with pytest.raises(TableNotFound):
            table.pull([1])
        again = client.create_table(TableSpec("t", 100, dim=2, initializer=Normal()))
        assert (again.pull([1]) != 0).all()


def test_a_push_to_a_table_where_all_rows_move_drops_all(cluster, client: Client) -> None:
    spec = TableSpec("d", 20, dim=2, optimizer=Adam(lr=0.1, mode="dense"), initializer=Normal())
    plain = client.create_table(spec)
    with connected(cluster) as mine:
        table = mine.table("d")
        for k in range(4):
            table.push([k], np.ones((1, 2)))
            np.testing.assert_array_equal(table.pull(range(20)), plain.pull(range(20)))


def test_a_call_with_a_wire_type_of_its_own_neither_reads_nor_fills_it(cluster) -> None:
    with connected(cluster) as client:
        table = client.create_table(TableSpec("t", 10, dim=2, initializer=Normal(), wire="int8"))
        rounded = table.pull([1])
        exact = table.pull([1], wire="float32")
        assert (exact != rounded).any()
        np.testing.assert_array_equal(table.pull([1], wire="int8"), rounded)
        assert client.cache_statistics()["t"]["hits"] == 1


def test_a_bad_call_changes_nothing_in_it(cluster) -> None:
    with connected(cluster) as client:
        table = client.create_table(SPEC)
        table.pull([1])
        for call in (lambda: table.pull([100]), lambda: table.push([100], [[1, 1]])):
            with pytest.raises(InvalidRequest, match="is 100"):
                call()
        table.pull([1])
        assert client.cache_statistics()["t"]["hits"] == 1


def test_threads_that_share_it_see_their_own_pushes_and_no_half_rows(cluster) -> None:
    """Each thread owns a few rows, which only it pushes to; all threads pull all rows all the time."""
    with connected(cluster, capacity_rows=16, max_age_pushes=5) as client:
        table = client.create_table(TableSpec("t", 32, dim=8, optimizer=SGD(lr=1.0), initializer=Zeros()))
        failures: list[BaseException] = []

        def work(me: int) -> None:
            try:
                rng = np.random.default_rng(me)
                mine = np.arange(me, 32, 4)
                pushed = np.zeros(32)
                for _ in range(60):
                    some = rng.choice(mine, 3, replace=False)
                    table.push(some, -np.ones((3, 8)))
                    pushed[some] += 1
                    rows = table.pull(rng.permutation(32)[:20] if rng.random() < 0.5 else mine)
                    assert (rows == rows[:, :1]).all(), "a row is of one moment"
                    np.testing.assert_array_equal(table.pull(mine)[:, 0], pushed[mine])
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        assert client.cache_statistics()["t"]["hits"] > 0
