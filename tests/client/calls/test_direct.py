"""Small calls over the lane: the same answers, and the usual way when something is not plain."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from stopping import until_stopped

from rowloom.client import (
    SGD,
    Adam,
    Client,
    InvalidRequest,
    Normal,
    PushUnresolved,
    TableSpec,
    Unavailable,
    Zeros,
    connect,
)
from rowloom.client.calls import plans as module
from rowloom.client.calls.direct import Direct
from rowloom.client.calls.session import Session
from rowloom.client.carriers.lane import MOST_BYTES, Lane
from rowloom.deploy import local_cluster
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry

SPEC = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
LAYOUT = Layout("cluster", 7, tuple(ShardAddress(i, f"h:{i}") for i in range(3)))


class Ways:
    """Counts the calls that were done directly, in whole."""

    def __init__(self, monkeypatch) -> None:
        self.direct = 0
        pull, push = Direct.pull, Direct.push

        def counted_pull(*arguments):
            rows = pull(*arguments)
            self.direct += rows is not None
            return rows

        def counted_push(*arguments):
            outcome = push(*arguments)
            self.direct += outcome is not None and not outcome.left
            return outcome

        monkeypatch.setattr(Direct, "pull", counted_pull)
        monkeypatch.setattr(Direct, "push", counted_push)

    def taken(self) -> int:
        """How many since the last time."""
        count, self.direct = self.direct, 0
        return count


@pytest.fixture
def ways(monkeypatch) -> Ways:
    return Ways(monkeypatch)


@pytest.fixture(params=["auto", "tcp"])
def client(request, cluster) -> Iterator[Client]:
    with cluster.connect(carrier=request.param) as client:
        yield client


def test_what_is_plain_goes_the_direct_way_and_the_rest_the_usual_one(client: Client, ways: Ways) -> None:
    table, other = client.create_table(SPEC), client.create_table(TableSpec("u", 1000, dim=4))
    rounded = client.create_table(TableSpec("r", 1000, dim=4, wire="bfloat16"))
    ids, grads = np.arange(50), np.ones((50, 4), np.float32)
    ways.taken()
    for plain in (
        lambda: table.pull(ids),
        lambda: table.pull([3, 3, 5]),
        lambda: table.pull(np.int32(7)),
        lambda: table.push(ids, grads),
        lambda: table.push([1], [[1, 2, 3, 4]]),
        lambda: table.step(ids, grads, ids),
        lambda: client.step({"t": (ids, grads)}, {"u": ids}),
        lambda: client.pull({"t": ids}),
        lambda: rounded.pull(ids, wire="float32"),
        lambda: table.pull([]),
        lambda: table.push([], np.empty((0, 4))),
        lambda: client.pull({"t": ids, "u": ids[:3], "r": []}, wire="float32"),
        lambda: client.push({"t": (ids, grads), "u": (ids[:0], grads[:0])}),
        lambda: client.step({"t": (ids, grads), "u": (ids[:3], grads[:3])}, {"u": ids}),
        lambda: client.step({}, {"u": ids}),
        lambda: client.step({"t": (ids, grads)}, {}),
    ):
        plain()
        assert ways.taken() == 1
    for usual in (
        lambda: client.pull({"t": ids, "r": ids}),  # one of them travels as bfloat16
        lambda: client.push({"t": (ids, grads), "r": (ids, grads)}),
        lambda: table.pull(ids, wire="float16"),
        lambda: rounded.push(ids, grads),
        lambda: table.assign(ids, grads),
        lambda: table.renorm(ids, 1.0),
    ):
        usual()
        assert ways.taken() == 0
    assert other.pull(ids).shape == (50, 4)


def test_a_call_that_is_too_much_for_one_shard_goes_the_usual_way(client: Client, ways: Ways) -> None:
    width = 1024
    table = client.create_table(
        TableSpec("wide", 10**6, dim=width, optimizer=SGD(lr=1.0), initializer=Zeros())
    )
    most = MOST_BYTES // (4 * width + 8)
    ids = np.arange(0, 2 * (most + 1), 2)  # all of them shard 0's
    ways.taken()
    for count, expected in ((most, 1), (most + 1, 0)):
        table.push(ids[:count], np.ones((count, width), np.float32))
        assert ways.taken() == expected
        rows = table.pull(ids[:count])
        assert ways.taken() == expected
    assert (rows[:most] == -2).all()
    assert (rows[most:] == -1).all()


def test_the_largest_step_fits_into_the_space_of_a_lane(client: Client, ways: Ways) -> None:
    for width in (1, 1024):
        spec = TableSpec(f"w{width}", 10**7, dim=width, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        most = min(MOST_BYTES // (4 * width + 8), module.MOST_IDS)
        ids = np.arange(0, 2 * most, 2)  # all of them shard 0's
        ways.taken()
        rows = table.step(ids, np.ones((most, width), np.float32), ids)
        assert ways.taken() == 1
        assert (rows == -1).all()


def test_a_table_that_is_given_twice_is_pushed_in_the_usual_way_and_both_count(
    client: Client, ways: Ways
) -> None:
    entry = client.create_table(SPEC)._entry
    ways.taken()
    client.push_entries([(entry, [1, 2], np.ones((2, 4))), (entry, [2, 3], np.ones((2, 4)))])
    assert ways.taken() == 0
    rows = client.pull_entries([(entry, [1, 2]), (entry, [2, 3])])
    assert ways.taken() == 1
    assert [part[:, 0].tolist() for part in rows] == [[-1, -2], [-2, -1]]


def test_a_cluster_with_an_endless_name_is_asked_in_the_usual_way() -> None:
    session = Session(["h:0"], 5, random.Random(0), time.monotonic, threading.Lock())
    for name, expected in (("c" * 1000, True), ("c" * 1001, False)):
        session.layout = Layout(name, 7, LAYOUT.shards)
        plan = Direct(lambda: None)._plan(session.layout, TableEntry(1, SPEC), None)
        assert (plan is not None) == expected


def test_a_reply_that_is_not_as_expected_is_asked_for_again(client: Client, ways: Ways, monkeypatch) -> None:
    table = client.create_table(SPEC)
    monkeypatch.setattr(module, "rows_in", lambda *_: -1)
    assert (table.step([1, 2], np.ones((2, 4)), [1, 2, 3])[:, 0] == [-1, -1, 0]).all()
    assert (table.pull([1, 2, 3])[:, 0] == [-1, -1, 0]).all()


@pytest.mark.parametrize("wrong", [[-1], [1000], [1.5], ["x"]])
def test_wrong_ids_are_refused_with_the_same_words(client: Client, wrong: list) -> None:
    table = client.create_table(SPEC)
    with pytest.raises(InvalidRequest) as direct:
        table.pull(wrong)
    with pytest.raises(InvalidRequest) as usual:
        table.pull(wrong, wire="int8")
    assert str(direct.value) == str(usual.value)
    for grads in (np.ones((1, 3)), np.full((1, 4), np.nan), np.full((1, 4), np.inf)):
        with pytest.raises(InvalidRequest):
            table.push([1], grads)
    with pytest.raises(InvalidRequest, match="summed gradient of id 1"):
        table.push([1, 1], np.full((2, 4), 3e38))
    assert (table.pull([1]) == 0).all()


def test_a_frozen_table_takes_no_gradients(client: Client) -> None:
    table = client.create_table(TableSpec("still", 10, dim=2, frozen=True))
    with pytest.raises(InvalidRequest, match="frozen"):
        table.push([1], np.ones((1, 2)))


def test_a_layout_that_changed_is_found_out_and_every_push_counts_once(
    cluster, client: Client, ways: Ways
) -> None:
    table = client.create_table(SPEC)
    adam = client.create_table(TableSpec("adam", 1000, dim=4, optimizer=Adam(), initializer=Normal()))
    ids, grads = np.arange(100), np.ones((100, 4), np.float32)
    for pushed, shards in enumerate((3, 1, 4, 2), 1):
        cluster.scale(shards)
        table.push(ids, grads)
        adam.push(ids[:1], grads[:1])  # to all shards: it counts steps
        assert (table.pull(ids) == -pushed).all()
        ways.taken()
        assert (table.pull(ids) == -pushed).all()
        assert ways.taken() == 1
    assert {counts["tables"]["adam"]["step"] for counts in client.statistics()} == {4}


def test_a_server_without_a_lane_is_asked_in_the_usual_way_without_delay(ways: Ways, monkeypatch) -> None:
    from rowloom.client.carriers.lane import Lanes

    with local_cluster(2, tables=[SPEC]) as cluster, connect(cluster.address) as client:
        taken = []
        take = Lanes.take
        monkeypatch.setattr(Lanes, "take", lambda *a: taken.append(a) or take(*a))
        table = client.table("t")
        table.pull(np.arange(10))
        for shard in client._session.layout.shards:
            client._transport._lanes._without[shard.address] = time.monotonic() + 60
        ways.taken()
        table.push(np.arange(10), np.ones((10, 4)))
        assert (table.pull(np.arange(10)) == -1).all()
        assert ways.taken() == 0


@pytest.mark.parametrize("carrier", ["auto", "tcp"])
def test_a_push_whose_answer_never_comes_counts_at_most_once_and_says_so(carrier: str) -> None:
    with local_cluster(2, processes=True, tables=[SPEC]) as cluster:
        with connect(cluster.address, carrier=carrier, timeout_s=1.5) as client:
            table = client.table("t")
            table.push(np.arange(10), np.ones((10, 4)))
            pids = [cluster.launcher.pid(key) for key in cluster.launcher._running]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                for pid in pids:
                    until_stopped(pid)
                with pytest.raises(PushUnresolved) as error:
                    table.push(np.arange(10), np.ones((10, 4)))
                assert (error.value.acked_rows, error.value.unknown_rows) == (0, 10)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
        with connect(cluster.address) as client:
            counts = -client.table("t").pull(np.arange(10))[:, 0]
            for shard in range(2):
                assert len(set(counts[shard::2])) == 1
                assert counts[shard] in (1, 2)


def test_connections_that_break_at_any_moment_leave_every_push_applied_once(
    client: Client, ways: Ways, monkeypatch
) -> None:
    """One, two or three tables a call, against plain arrays."""
    rng, ask, hear = np.random.default_rng(0), Lane.ask, Lane.hear

    def breaks() -> None:
        if rng.random() < 0.05:
            raise ConnectionResetError("broken on purpose")

    def ask_or_break(lane: Lane, *arguments) -> None:
        breaks()
        ask(lane, *arguments)
        breaks()

    def hear_or_break(lane: Lane, until: float):
        breaks()
        place = hear(lane, until)
        breaks()
        return place

    monkeypatch.setattr(Lane, "ask", ask_or_break)
    monkeypatch.setattr(Lane, "hear", hear_or_break)
    truth = {f"t{k}": np.zeros((40, k + 1), np.float32) for k in range(3)}
    for name, rows in truth.items():
        client.create_table(
            TableSpec(name, 40, dim=rows.shape[1], optimizer=SGD(lr=1.0), initializer=Zeros())
        )
    ways.taken()
    for _ in range(300):
        some = rng.permutation(list(truth))[: rng.integers(1, 4)]
        grads, wanted = {}, {}
        for name in some:
            ids = rng.integers(0, 40, rng.integers(0, 9))
            grads[name] = ids, rng.integers(-3, 4, (len(ids), truth[name].shape[1])).astype(np.float32)
            wanted[name] = rng.integers(0, 40, (2, 3))
        kind = rng.integers(3)
        if kind:
            for name, (ids, values) in grads.items():
                np.subtract.at(truth[name], ids, values)
        if kind == 1:
            client.push(grads)
            continue
        rows = client.step(grads, wanted) if kind else client.pull(wanted)
        for name, ids in wanted.items():
            np.testing.assert_array_equal(rows[name], truth[name][ids])
    assert 100 < ways.taken() < 290


@pytest.mark.parametrize("carrier", ["auto", "tcp"])
def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(carrier: str) -> None:
    spec = TableSpec("t", 100, dim=4, initializer=Normal(std=1.0))
    with local_cluster(1, processes=True, tables=[spec]) as cluster:
        with connect(cluster.address) as other:
            expected = other.table("t").pull(np.arange(100))
        with connect(cluster.address, carrier=carrier, timeout_s=1.0) as client:
            table = client.table("t")
            table.pull(np.arange(10))
            pid = cluster.launcher.pid(next(iter(cluster.launcher._running)))
            os.kill(pid, signal.SIGSTOP)
            try:
                until_stopped(pid)
                with pytest.raises(Unavailable):
                    table.pull(np.arange(10))
            finally:
                os.kill(pid, signal.SIGCONT)
            client.timeout_s = 30.0
            for first in (10, 20, 30):
                np.testing.assert_array_equal(
                    table.pull(np.arange(first, first + 10)), expected[first : first + 10]
                )


def test_pulls_of_many_threads_do_not_share_a_lane(client: Client) -> None:
    table = client.create_table(TableSpec("n", 1000, dim=8, initializer=Normal(std=1.0)))
    expected = table.pull(np.arange(1000))
    failed = []

    def pull(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            ids = rng.integers(0, 1000, 200)
            if not np.array_equal(table.pull(ids), expected[ids]):
                failed.append(ids)

    threads = [threading.Thread(target=pull, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert isinstance(next(iter(client._transport._lanes._free.values()))[0]._end, socket.socket)
