"""Calls over each carrier: one way for all of them, the same answers, and what happens when something breaks."""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from stopping import stop
from waiting import least_seconds

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
    connection,
)
from rowloom.client.calls import assembly, cutting
from rowloom.client.calls.operation import Event
from rowloom.client.carriers import lane as lane_module
from rowloom.client.carriers.lane import Lane
from rowloom.client.carriers.lanes import Lanes
from rowloom.client.carriers.transport import LANE_SIZES
from rowloom.deploy import local_cluster

SPEC = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())


@pytest.fixture(params=["auto", "tcp"])
def client(request, cluster) -> Iterator[Client]:
    with cluster.connect(carrier=request.param) as client:
        yield client


def files_visited(call: Callable[[], object]) -> set[str]:
    """Which files of the client a call runs through."""
    seen: set[str] = set()

    def profile(frame, event: str, _: object) -> None:
        if event == "call" and (found := re.search(r"/client/(.*\.py)$", frame.f_code.co_filename)):
            seen.add(found[1])

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


def test_every_pull_and_every_push_visits_the_same_files_on_every_carrier(cluster) -> None:
    """There was a direct way for what is small and plain, and a usual one for the rest: two codes for one job."""
    carriers = {"carriers/lane.py", "carriers/lanes.py", "carriers/lane_wire.py", "carriers/grpc_wire.py"}
    carriers.add("carriers/recent_peak.py")
    ids, grads, visited = np.arange(50), np.ones((50, 4), np.float32), {}
    many, rows = np.arange(300_000), np.ones((300_000, 4), np.float32)
    for carrier in ("auto", "tcp", "grpc"):
        with cluster.connect(carrier=carrier) as client:
            table = client.create_table(TableSpec("t", 10**6, dim=4))
            other = client.create_table(TableSpec("u", 1000, dim=4, wire="bfloat16"))
            for warm in (table, other):  # lanes are opened
                warm.step(ids, grads, ids)
            calls = {
                "pull": lambda t=table: t.pull(ids),
                "pull of one": lambda t=table: t.pull(7),
                "pull of many": lambda t=table: t.pull(many),
                "pull as int8": lambda t=table: t.pull(ids, wire="int8"),
                "pull of two tables": lambda c=client: c.pull({"t": ids, "u": ids}),
                "push": lambda t=table: t.push(ids, grads),
                "push of many": lambda t=table: t.push(many, rows),
                "push as bfloat16": lambda t=table: t.push(ids, grads, wire="bfloat16"),
                "push of two tables": lambda c=client: c.push({"t": (ids, grads), "u": (ids, grads)}),
                "push of rows": lambda t=table: t.assign(ids, grads),
            }
            for name, call in calls.items():
                visited[carrier, name] = files_visited(call)
    for kind in ("pull", "push"):
        decides = [seen - carriers for (_, name), seen in visited.items() if name.startswith(kind)]
        # A client is asked by name, a table by handle; rows to assign are there already, gradients are summed; gRPC
        # takes nothing but bytes. From Python 3.12 on what is compiled is not seen, and rows need no more of routing.
        optional = {"client.py", "cores.py", "calls/routing.py"}
        optional |= {"calls/" + name for name in ("wire_types.py", "values.py", "sums.py", "operation.py")}
        optional |= {"calls/assembly.py"} if kind == "push" else set()
        every, common = set.union(*decides), set.intersection(*decides)
        assert every - common <= optional
        assert {"calls/operations.py", "calls/exchange.py", "calls/requests.py"} <= decides[0]
    for (carrier, name), seen in visited.items():
        assert ("carriers/lane.py" in seen) == (carrier != "grpc"), name
        assert ("carriers/grpc_wire.py" in seen) == (carrier == "grpc"), name


def test_a_call_that_is_too_much_for_one_request_to_a_shard_is_cut(client: Client) -> None:
    width = 1024
    table = client.create_table(
        TableSpec("wide", 10**6, dim=width, optimizer=SGD(lr=1.0), initializer=Zeros())
    )
    most = LANE_SIZES.whole // (4 * width + 8)
    ids = np.arange(0, 2 * (most + 1), 2)  # all of them shard 0's
    for count in (most, most + 1):
        table.push(ids[:count], np.ones((count, width), np.float32))
        rows = table.pull(ids[:count])
    assert (rows[:most] == -2).all()
    assert (rows[most:] == -1).all()


def test_a_call_of_more_tables_than_a_shard_takes_at_once_is_cut(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "MOST_TABLES", 2)
    names, ids, grads = [f"t{k}" for k in range(5)], np.arange(10), np.ones((10, 4), np.float32)
    for name in names:
        client.create_table(replace(SPEC, name=name))
    client.push({name: (ids, (k + 1) * grads) for k, name in enumerate(names)})
    rows = client.step(
        {name: (ids, (k + 1) * grads) for k, name in enumerate(names)}, dict.fromkeys(names, ids)
    )
    for k, name in enumerate(names):
        assert (rows[name] == -2 * (k + 1)).all()
    assert all((one == rows[name]).all() for name, one in client.pull(dict.fromkeys(names, ids)).items())


def test_the_largest_step_has_room_on_a_lane(client: Client) -> None:
    for width in (1, 1024):
        spec = TableSpec(f"w{width}", 10**7, dim=width, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        most = LANE_SIZES.whole // (4 * width + 8)
        ids = np.arange(0, 2 * most, 2)  # all of them shard 0's
        rows = table.step(ids, np.ones((most, width), np.float32), ids)
        assert (rows == -1).all()


def test_of_a_table_that_is_given_twice_both_count(client: Client) -> None:
    entry = client.create_table(SPEC)._entry
    client.push_entries([(entry, [1, 2], np.ones((2, 4))), (entry, [2, 3], np.ones((2, 4)))])
    rows = client.pull_entries([(entry, [1, 2]), (entry, [2, 3])])
    assert [part[:, 0].tolist() for part in rows] == [[-1, -2], [-2, -1]]


def test_a_call_that_a_lane_has_no_room_for_travels_through_its_socket(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(lane_module, "BUFFER_BYTES", 3000)
    monkeypatch.setattr(lane_module, "ARENA_BYTES", 4096)
    table = client.create_table(SPEC)
    ids = np.arange(1000)
    table.push(ids, np.ones((1000, 4)))
    assert (table.step(ids, np.ones((1000, 4)), ids) == -2).all()
    assert (table.pull(ids[:3]) == -2).all()


def test_a_reply_of_another_servers_making_is_read_by_the_codec(client: Client, monkeypatch) -> None:
    table = client.create_table(SPEC)
    monkeypatch.setattr(assembly, "rows_in", lambda *_: -1)
    assert (table.step([1, 2], np.ones((2, 4)), [1, 2, 3])[:, 0] == [-1, -1, 0]).all()
    assert (table.pull([1, 2, 3])[:, 0] == [-1, -1, 0]).all()


def test_a_reply_that_makes_no_sense_is_asked_for_again(client: Client, monkeypatch) -> None:
    table = client.create_table(SPEC)
    receive, garbled = Lane.receive, []

    def garble(lane: Lane, *, block: bool):
        found = receive(lane, block=block)
        if found is not None and len(garbled) < 3:
            garbled.append(found)
            return Event(found.tag, np.full(5, 255, np.uint8))
        return found

    monkeypatch.setattr(Lane, "receive", garble)
    assert (table.step([1, 2], np.ones((2, 4)), [1, 2, 3])[:, 0] == [-1, -1, 0]).all()
    assert len(garbled) == 3


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


def test_a_layout_that_changed_is_found_out_and_every_push_counts_once(cluster, client: Client) -> None:
    table = client.create_table(SPEC)
    adam = client.create_table(TableSpec("adam", 1000, dim=4, optimizer=Adam(), initializer=Normal()))
    ids, grads = np.arange(100), np.ones((100, 4), np.float32)
    for pushed, shards in enumerate((3, 1, 4, 2), 1):
        cluster.scale(shards)
        table.push(ids, grads)
        adam.push(ids[:1], grads[:1])  # to all shards: it counts steps
        assert (table.pull(ids) == -pushed).all()
        assert (table.pull(ids) == -pushed).all()
    assert {counts["tables"]["adam"]["step"] for counts in client.statistics()} == {4}


def test_a_server_without_a_lane_is_asked_over_grpc_without_delay_and_the_others_on_theirs(
    monkeypatch,
) -> None:
    with local_cluster(2, tables=[SPEC]) as cluster, connect(cluster.address) as client:
        taken = []
        take = Lanes.take
        monkeypatch.setattr(Lanes, "take", lambda *a, **how: taken.append(a) or take(*a, **how))
        table = client.table("t")
        table.pull(np.arange(10))
        lanes = client._transport._lanes
        without, other = (shard.address for shard in client._session.layout.shards)
        lanes._without[without] = time.monotonic() + 3600
        for lane in lanes._free.pop(without):
            lane.close()
        table.push(np.arange(10), np.ones((10, 4)))
        assert (table.pull(np.arange(10)) == -1).all()
        assert set(lanes._free) == {other}
        assert {address for _, address, _ in taken[2:]} == {without, other}


@pytest.mark.parametrize("carrier", ["auto", "tcp"])
def test_a_push_whose_answer_never_comes_counts_at_most_once_and_says_so(carrier: str) -> None:
    with local_cluster(2, processes=True, tables=[SPEC]) as cluster:
        with connect(cluster.address, carrier=carrier) as client:
            table = client.table("t")
            table.push(np.arange(10), np.ones((10, 4)))
            client.timeout_s = 1.5
            pids = [cluster.launcher.pid(key) for key in cluster.launcher._running]
            try:
                for pid in pids:
                    stop(pid)
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


@pytest.mark.parametrize("carrier", ["auto", "tcp", "grpc"])
def test_pushes_of_other_threads_do_not_wait_for_a_shard_that_they_do_not_need(carrier: str) -> None:
    with (
        local_cluster(2, processes=True, tables=[SPEC]) as cluster,
        connect(cluster.address, carrier=carrier) as client,
    ):
        table = client.table("t")
        table.push([0, 1], np.ones((2, 4)))
        pid = cluster.launcher.pid(0)
        errors = []

        def push_to_the_stopped() -> None:
            try:
                table.push([0], np.ones((1, 4)))
            except PushUnresolved as e:
                errors.append(e)

        def in_three_threads() -> list[threading.Thread]:
            threads = [threading.Thread(target=push_to_the_stopped) for _ in range(3)]
            for thread in threads:
                thread.start()
            return threads

        def given_up() -> None:
            for thread in in_three_threads():
                thread.join()

        try:
            stop(pid)
            waiting = in_three_threads()
            for _ in range(20):
                table.push([1], np.ones((1, 4)))
            assert all(thread.is_alive() for thread in waiting)
            os.kill(pid, signal.SIGCONT)
            for thread in waiting:
                thread.join()
            assert not errors
            stop(pid)
            client.timeout_s = 2.0
            # Of 3 threads with 4 seconds each, the last once took 16: their pushes queued.
            assert least_seconds(given_up, 2 * client.timeout_s) < 2 * client.timeout_s
            assert len(errors) in (3, 6, 9)
        finally:
            os.kill(pid, signal.SIGCONT)
        client.timeout_s = 60.0
        assert (table.pull([1]) == -21).all()


def test_a_shorter_timeout_was_as_much_longer_as_kernels_had_been_compiled_before_the_call(
    client: Client, monkeypatch
) -> None:
    # What a call spends on compiling does not count; what came before counted too, for a minute after `connect`.
    asked: list[float] = []
    monkeypatch.setattr(connection, "compiled_s", lambda since: asked.append(since) or 0.0)
    client.timeout_s = 0.5
    client._session.compiled_s(100.0)
    assert asked == [99.5]


def test_threads_that_push_at_once_count_every_step(client: Client) -> None:
    """A shard takes an identity's pushes in order, so threads that push at once need one each."""
    table = client.create_table(TableSpec("a", 100, dim=2, optimizer=Adam(lr=0.0), initializer=Zeros()))

    def push() -> None:
        for _ in range(50):
            table.push(np.arange(10), np.ones((10, 2)))

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [shard["tables"]["a"]["step"] for shard in client.statistics()] == [200, 200]
    assert len(client._session.pushers) <= 4


def test_connections_that_break_at_any_moment_leave_every_push_applied_once(
    client: Client, monkeypatch
) -> None:
    """One, two or three tables a call, against plain arrays."""
    rng, send, receive = np.random.default_rng(0), Lane.send, Lane.receive
    broken = []

    def breaks() -> None:
        if rng.random() < 0.05:
            broken.append(1)
            raise ConnectionResetError("broken on purpose")

    def send_or_break(lane: Lane, *arguments) -> None:
        send(lane, *arguments)
        breaks()

    def receive_or_break(lane: Lane, *, block: bool):
        breaks()
        return receive(lane, block=block)

    monkeypatch.setattr(Lane, "send", send_or_break)
    monkeypatch.setattr(Lane, "receive", receive_or_break)
    truth = {f"t{k}": np.zeros((40, k + 1), np.float32) for k in range(3)}
    for name, rows in truth.items():
        client.create_table(
            TableSpec(name, 40, dim=rows.shape[1], optimizer=SGD(lr=1.0), initializer=Zeros())
        )
    for _ in range(200):
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
    assert len(broken) > 10


@pytest.mark.parametrize("carrier", ["auto", "tcp"])
def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(carrier: str) -> None:
    spec = TableSpec("t", 100, dim=4, initializer=Normal(std=1.0))
    with local_cluster(1, processes=True, tables=[spec]) as cluster:
        with connect(cluster.address) as other:
            expected = other.table("t").pull(np.arange(100))
        with connect(cluster.address, carrier=carrier) as client:
            table = client.table("t")
            table.pull(np.arange(10))
            client.timeout_s = 1.0
            pid = cluster.launcher.pid(next(iter(cluster.launcher._running)))
            try:
                stop(pid)
                with pytest.raises(Unavailable):
                    table.pull(np.arange(10))
            finally:
                os.kill(pid, signal.SIGCONT)
            client.timeout_s = 60.0
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
