"""Rows pulled ahead: order, how far ahead, where errors come up, and that nothing is left behind."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from rowloom.client import SGD, Client, InvalidRequest, TableSpec, Zeros
from rowloom.client.prefetching import Prefetch

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())


@pytest.fixture
def table(client: Client):
    table = client.create_table(SPEC)
    table.assign(np.arange(100), np.repeat(np.arange(100.0)[:, None], 2, 1))
    return table


class Counted:
    """Batches that count how many were taken; `fails_at` raises instead of a batch."""

    def __init__(self, batches, fails_at: int | None = None) -> None:
        self.batches, self.fails_at, self.taken = list(batches), fails_at, 0

    def __iter__(self):
        for k, batch in enumerate(self.batches):
            if k == self.fails_at:
                raise KeyError("the source is broken")
            self.taken += 1
            yield batch


def answered(batch) -> tuple:
    done: Future = Future()
    done.set_result(batch * 10)
    return batch, done


@given(st.integers(0, 12), st.integers(1, 6))
def test_batches_come_in_order_and_never_more_than_depth_are_taken_ahead(n: int, depth: int) -> None:
    source = Counted(range(n))
    batches = Prefetch(source, answered, depth)
    assert source.taken == 0, "nothing happens before the first batch is asked for"
    for k, given_ in enumerate(batches):
        assert given_ == (k, k * 10)
        assert source.taken == min(n, k + 1 + depth)
    assert source.taken == n
    assert list(batches) == []


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 5), st.booleans())
def test_an_error_comes_in_the_place_of_its_batch_and_ends_the_iterator(
    n: int, fails_at: int, depth: int, in_source: bool
) -> None:
    def start(batch) -> tuple:
        if in_source or batch != fails_at:
            return answered(batch)
        failed: Future = Future()
        failed.set_exception(KeyError("the pull is broken"))
        return batch, failed

    batches = Prefetch(Counted(range(n), fails_at if in_source else None), start, depth)
    for k in range(min(n, fails_at)):
        assert next(batches) == (k, k * 10)
    if fails_at < n:
        with pytest.raises(KeyError, match="broken"):
            next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_pulls_of_depth_batches_are_under_way_while_one_is_used() -> None:
    pending: list[Future] = []

    def start(batch) -> tuple:
        pending.append(Future())
        pending[-1].set_running_or_notify_cancel()
        if not batch:
            pending[-1].set_result(0)
        return batch, pending[-1]

    batches = Prefetch(range(9), start, 3)
    assert next(batches) == (0, 0)
    assert [f.running() for f in pending] == [False, True, True, True]
    for f in pending[1:]:
        threading.Timer(0.05, f.set_result, [None]).start()
    batches.close()  # waits for those that run
    assert all(f.done() for f in pending)
    assert list(batches) == []


def test_closing_cancels_pulls_that_have_not_begun() -> None:
    pending: list[Future] = []

    def start(batch) -> tuple:
        pending.append(Future())
        if not batch:
            pending[-1].set_result(0)
        return batch, pending[-1]

    with Prefetch(range(9), start, 2) as batches:
        next(batches)
    assert [f.cancelled() for f in pending] == [False, True, True]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_rows_are_those_of_the_ids_whatever_their_shape(table, depth: int) -> None:
    rng = np.random.default_rng(depth)
    shapes = [(), (0,), (5,), (2, 3)] * 4
    source = [rng.integers(0, 100, shape) for shape in shapes]
    given_ = list(table.prefetch(iter(source), depth=depth))
    assert len(given_) == len(source)
    for expected, (ids, rows) in zip(source, given_, strict=True):
        np.testing.assert_array_equal(ids, expected)
        assert rows.shape == (*expected.shape, 2)
        np.testing.assert_array_equal(rows[..., 0], expected)


def test_a_source_may_use_one_array_for_all_its_batches(table) -> None:
    ids = np.empty(3, np.int64)

    def source():
        for k in range(10):
            ids[:] = k
            yield ids

    for k, (given_, rows) in enumerate(table.prefetch(source(), depth=3)):
        assert given_.tolist() == [k] * 3
        assert rows[:, 0].tolist() == [k] * 3


def test_several_tables_in_one_request(client: Client, table) -> None:
    other = client.create_table(TableSpec("u", 10, dim=(2, 2), initializer=Zeros()))
    other.assign([4], np.ones((1, 2, 2)))
    source = [{"t": [k, k + 1], "u": np.array([[4]])} for k in range(5)]
    for k, (ids, rows) in enumerate(client.prefetch(source)):
        assert ids["t"] == [k, k + 1]
        assert rows["t"][:, 0].tolist() == [k, k + 1]
        assert rows["u"].tolist() == [[[[1, 1], [1, 1]]]]


def test_a_push_is_seen_by_every_batch_that_is_pulled_after_it(table) -> None:
    """Rows are of the moment of their pull: at most `depth` batches after a push do not have it."""
    depth, behind = 2, []
    for k, (ids, rows) in enumerate(table.prefetch([[7]] * 20, depth=depth)):
        pushed = rows[0, 0] - 7
        behind.append(k - pushed)
        table.push(ids, -np.ones((1, 2)))
    assert all(0 <= b <= depth for b in behind), behind


def test_a_bad_batch_is_refused_in_its_place(table) -> None:
    batches = table.prefetch([[1], [2], [100], [3]], depth=3)
    assert [next(batches)[0] for _ in range(2)] == [[1], [2]]
    with pytest.raises(InvalidRequest, match=r"ids\[0\] is 100"):
        next(batches)
    assert list(batches) == []


def test_leaving_early_leaves_no_thread_once_the_client_is_closed(cluster) -> None:
    before = set(threading.enumerate())
    with cluster.connect() as client:
        table = client.create_table(SPEC)
        with table.prefetch(([k % 100] for k in range(10**9)), depth=4) as batches:
            for k, _ in enumerate(batches):
                if k == 3:
                    break
        assert list(batches) == []
    until(lambda: not [t for t in set(threading.enumerate()) - before if "pull" in t.name])


@pytest.mark.parametrize(
    ("source", "depth", "message"),
    [
        ([[1]], 0, "depth must be a whole number of at least 1, got 0"),
        ([[1]], 1.5, "depth must be .*got 1.5"),
        (7, 2, "an iterable of batches, got int"),
    ],
)
def test_wrong_arguments_are_refused_at_once(table, source, depth, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        table.prefetch(source, depth=depth)
