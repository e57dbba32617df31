"""The row lane: when it is used, what else may arrive at it, and what is left when either side goes."""

import contextlib
import gc
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from stopping import stop
from waiting import PATIENCE_S, least_seconds, until

from rowloom.client import SGD, PushUnresolved, TableSpec, Unavailable, Zeros, connect
from rowloom.client.calls import exchange, outages
from rowloom.client.carriers import grpc_wire, lane_wire
from rowloom.client.carriers.lanes import WINDOW_S
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import parse
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.lane import (
    ARENA_BYTES,
    NOWHERE,
    REQUEST_BYTES,
    WELCOME,
    Hello,
    Reply,
    Request,
)

SPEC = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)


@pytest.fixture
def cluster():
    with local_cluster(shards=2, tables=[SPEC]) as cluster:
        yield cluster


def lanes(client) -> int:
    """How many free lanes a client has."""
    found = client._transport._lanes
    return 0 if found is None else sum(map(len, found._free.values()))


def describe(cluster) -> pb.LaneReply:
    """The lane of some shard."""
    server = next(iter(cluster.launcher._running.values()))
    return server._lane.describe()


def welcomed(description: pb.LaneReply) -> socket.socket:
    """A connection that has said hello, over TCP."""
    end = socket.create_connection(("127.0.0.1", description.port), 60)
    end.sendall(Hello(description.key, 0).encode())
    assert end.recv(1) == WELCOME
    return end


@pytest.mark.parametrize("carrier", ["auto", "grpc"])
def test_a_shard_that_holds_its_connection_and_does_not_answer_is_named_before_its_attempt_ends(
    cluster, carrier: str, monkeypatch
) -> None:
    for module, name in ((exchange, "PATIENCE_S"), (outages, "PATIENCE_S"), (grpc_wire, "LOOK_S")):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(lane_wire, "LOOK_S", 0.01)
    monkeypatch.setattr(exchange, "ATTEMPT_TIMEOUT_S", 600.0)
    told = threading.Event()
    with connect(cluster.address, carrier=carrier, timeout_s=600.0) as client:
        table = client.table("t")
        table.pull(IDS)
        client._session.outages.tell = lambda level, text: told.set()
        first = cluster.launcher._running[0]
        with first._lock:
            pending = table.pull_async(IDS)
            assert told.wait(PATIENCE_S)
            assert not pending.done()
        pending.result()


@pytest.mark.parametrize(("carrier", "expected"), [("auto", 2), ("tcp", 2), ("grpc", 0)])
def test_rows_ride_on_the_lane_that_was_asked_for(cluster, carrier: str, expected: int) -> None:
    with connect(cluster.address, carrier=carrier) as client:
        table = client.table("t")
        table.push(IDS, np.ones((100, 4)))
        assert (table.pull(IDS) == -1).all()
        assert lanes(client) == expected
        if carrier == "auto":
            free = client._transport._lanes._free
            assert all(lane._arena_bytes == ARENA_BYTES for some in free.values() for lane in some)


def test_a_server_that_offers_no_lane_is_reached_over_grpc() -> None:
    config = parse({"name": "plain", "shards": 1, "launcher": "local", "carrier": "grpc"})
    launcher = ProcessLauncher(config)
    try:
        from rowloom.deploy.embedded import LocalCluster

        with LocalCluster(config, launcher) as cluster, cluster.connect() as client:
            table = client.create_table(SPEC)
            table.push(IDS, np.ones((100, 4)))
            assert (table.pull(IDS) == -1).all()
            assert lanes(client) == 0
    finally:
        launcher.close()


def test_a_lane_that_breaks_is_mended_and_its_push_counts_once(cluster) -> None:
    with connect(cluster.address) as client:
        table = client.table("t")
        table.push(IDS, np.ones((100, 4)))
        for _ in range(3):
            for free in client._transport._lanes._free.values():
                for lane in free:
                    lane._end.shutdown(socket.SHUT_RDWR)
            table.push(IDS, np.ones((100, 4)))
        assert (table.pull(IDS) == -4).all()


def test_a_client_that_falls_silent_half_way_through_a_message_holds_nobody_up(cluster) -> None:
    with connect(cluster.address) as client, welcomed(describe(cluster)) as silent:
        silent.sendall(Request(1, 1000).encode() + b"half")
        client.table("t").push(IDS, np.ones((100, 4)))
        assert (client.table("t").pull(IDS) == -1).all()


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"x",
        b"GET / HTTP/1.1\r\n\r\n" + b" " * 64,
        Hello(b"\0" * 16, 0).encode(),
        Hello(b"\0" * 16, 1 << 62).encode(),
        b"\xff" * 4096,
    ],
)
def test_strangers_are_shown_the_door(cluster, junk: bytes) -> None:
    address = ("127.0.0.1", describe(cluster).port)
    # A connection that is closed with our bytes unread is reset.
    with contextlib.suppress(ConnectionError), socket.create_connection(address, 60) as end:
        end.sendall(junk)
        with contextlib.suppress(OSError):  # reset already: not connected
            end.shutdown(socket.SHUT_WR)
        assert end.recv(100) == b""
    with connect(cluster.address) as client:
        assert (client.table("t").pull(IDS) == 0).all()
        assert lanes(client) == 2


@pytest.mark.parametrize(
    "head",
    [
        b"\xff" * REQUEST_BYTES,
        Request(9, 10).encode(),
        Request(0, 1 << 31).encode(),
        Request(0, 10, offset=0).encode(),
        Request(0, 10, reply_offset=0, reply_bytes=64).encode(),
    ],
)
def test_a_head_that_lies_ends_its_connection_and_no_other(cluster, head: bytes) -> None:
    with connect(cluster.address) as client, welcomed(describe(cluster)) as end:
        end.sendall(head)
        assert end.recv(100) == b""
        assert (client.table("t").pull(IDS) == 0).all()


def test_garbage_for_a_message_is_refused_and_the_connection_goes_on(cluster) -> None:
    rng = np.random.default_rng(0)
    with welcomed(describe(cluster)) as end:
        for method in (0, 1, 2, 0, 1, 2):
            junk = rng.bytes(int(rng.integers(0, 200)))
            end.sendall(Request(method, len(junk)).encode() + junk)
            reply = Reply.decode(end.recv(24, socket.MSG_WAITALL))
            error = pb.ErrorInfo.FromString(end.recv(reply.length, socket.MSG_WAITALL))
            assert reply.status == 1
            assert error.kind in (pb.ErrorInfo.INVALID_REQUEST, pb.ErrorInfo.WRONG_CLUSTER)


@pytest.mark.parametrize("sealed", [True, False])
def test_shared_memory_that_could_shrink_is_refused(cluster, sealed: bool) -> None:
    """A server that reads from memory which its client has cut off is killed by SIGBUS."""
    import fcntl

    description = describe(cluster)
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 4096)
    if sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(60)
        end.connect("\0" + description.unix_address)
        socket.send_fds(end, [Hello(description.key, 4096).encode()], [descriptor])
        assert end.recv(1) == (WELCOME if sealed else b"")
    os.close(descriptor)


@pytest.mark.parametrize("carrier", ["auto", "tcp"])
def test_a_shard_that_stops_answering_is_given_up_at_the_deadline(carrier: str) -> None:
    with local_cluster(shards=2, processes=True, tables=[SPEC]) as cluster:
        with connect(cluster.address, carrier=carrier) as client:
            table = client.table("t")
            table.push(IDS, np.ones((100, 4)))
            client.timeout_s = 2.0
            pid = cluster.launcher.pid(next(iter(cluster.launcher._running)))
            stop(pid)
            try:
                with pytest.raises(PushUnresolved):
                    table.push(IDS, np.ones((100, 4)))

                def pull() -> None:
                    with pytest.raises(Unavailable):
                        table.pull(IDS)

                assert least_seconds(pull, 6.0) < 6.0
            finally:
                os.kill(pid, signal.SIGCONT)
        with connect(cluster.address, carrier=carrier) as client:
            counts = -client.table("t").pull(IDS)[:, 0]
            for shard in range(2):  # whole on each shard, once or not at all
                assert len(set(counts[shard::2])) == 1
                assert counts[shard] in (1, 2)


class Clock:
    """One that is moved by hand, from now on."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


def test_a_burst_of_threads_leaves_no_lanes_and_no_threads_of_the_server_behind(cluster) -> None:
    servers = list(cluster.launcher._running.values())

    def connections() -> int:
        return sum(len(server._lane._connections) for server in servers)

    with connect(cluster.address) as client:
        clock = client._transport._lanes._clock = Clock()
        table = client.table("t")
        together = threading.Barrier(64)
        take = client._transport._lanes.take

        def take_together(address: str, until: float, **more):
            lane = take(address, until, **more)
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(PATIENCE_S)
            return lane

        client._transport._lanes.take = take_together
        threads = [threading.Thread(target=table.pull, args=(IDS,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lanes(client) == connections() == 2 * 64
        client._transport._lanes.take = take
        for _ in range(10):  # they may come again
            table.pull(IDS)
        assert lanes(client) == 2 * 64
        for _ in range(4):
            clock.now += WINDOW_S
            table.pull(IDS)
        assert lanes(client) == 2
        until(lambda: connections() == 2)
        assert (table.pull(IDS) == 0).all()


def test_lanes_to_a_shard_that_nobody_asks_any_more_are_closed(cluster) -> None:
    with connect(cluster.address) as client:
        clock = client._transport._lanes._clock = Clock()
        table = client.table("t")
        table.pull(IDS)
        assert lanes(client) == 2
        for _ in range(4):
            clock.now += WINDOW_S
            table.pull([0])  # one shard has it
        assert lanes(client) == 1
        assert len(client._transport._lanes._use) == 1
        assert (table.pull(IDS) == 0).all()


def test_threads_that_go_on_together_keep_their_lanes(cluster) -> None:
    with connect(cluster.address) as client:
        found, table = client._transport._lanes, client.table("t")
        clock = found._clock = Clock()
        table.pull(IDS)
        [address, *_] = found._free
        for _ in range(20):
            taken = [found.take(address, time.monotonic() + 20) for _ in range(3)]
            assert len(set(map(id, taken))) == 3
            for lane in taken:
                found.give_back({address: lane})
            clock.now += WINDOW_S * 0.7
            assert len(found._free[address]) == 3


def test_a_lane_that_is_in_use_for_long_counts_as_long_as_it_is(cluster) -> None:
    with connect(cluster.address) as client:
        found, table = client._transport._lanes, client.table("t")
        clock = found._clock = Clock()
        table.pull(IDS)
        [address, *_] = found._free
        long = [found.take(address, time.monotonic() + 20) for _ in range(2)]
        for _ in range(5):
            clock.now += WINDOW_S
            table.pull([0, 1])
        for lane in long:
            found.give_back({address: lane})
        assert len(found._free[address]) == 3
        for _ in range(3):
            clock.now += WINDOW_S
            table.pull(IDS)
        assert len(found._free[address]) == 1


@pytest.mark.parametrize("carrier", ["auto", "tcp"])
def test_a_shard_that_stops_for_a_second_during_a_push_breaks_no_lane(carrier: str) -> None:
    """Sockets of lanes have a short timeout for receiving; sending into a full one is no reason to give it up."""
    spec = TableSpec("wide", 40_000, dim=64, optimizer=SGD(lr=1.0), initializer=Zeros())
    ids, grads = np.arange(34_000), np.ones((34_000, 64), np.float32)
    with (
        local_cluster(shards=1, processes=True, tables=[spec]) as cluster,
        connect(cluster.address, carrier=carrier, timeout_s=200.0) as client,
    ):
        table = client.table("wide")
        table.push(ids, grads)
        [[lane]] = client._transport._lanes._free.values()
        pid = cluster.launcher.pid(next(iter(cluster.launcher._running)))
        for size in (34_000, 34_000, 10):
            going_on = threading.Timer(1.0, os.kill, (pid, signal.SIGCONT))
            try:
                stop(pid)
            finally:
                began = time.monotonic()
                going_on.start()
            table.push(ids[:size], grads[:size])
            assert time.monotonic() - began > 0.9
            going_on.join()
        rows = table.pull(ids)
        assert (rows[:10] == -4).all()
        assert (rows[10:] == -3).all()
        [[after]] = client._transport._lanes._free.values()
        assert after is lane
        assert [shard["pushes"] for shard in client.statistics()] == [4]


@pytest.mark.slow
def test_nothing_is_left_of_either_side() -> None:
    def held() -> tuple[int, int]:
        """How many descriptors this process has, and how many pieces of shared memory. Others may have some too."""
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count(" /memfd:") + maps.count(" /dev/shm/")

    with local_cluster(shards=1, tables=[SPEC]) as cluster:  # what libraries open once
        cluster.connect().table("t").pull(IDS)
    gc.collect()
    descriptors, shared = held()
    for _ in range(3):
        with local_cluster(shards=2, processes=True, tables=[SPEC]) as cluster, cluster.connect() as client:
            client.table("t").pull(IDS)
            for key in list(cluster.launcher._running):
                os.kill(cluster.launcher.pid(key), signal.SIGKILL)
    gc.collect()
    # A channel of gRPC may take its time.
    until(lambda: held()[0] <= descriptors + 4 and held()[1] <= shared)
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("rowloom-lane")])


def test_heads_survive_the_way_there_and_back_and_refuse_the_rest() -> None:
    request = Request(2, 7, 100, 200, 50)
    assert Request.decode(request.encode(), 300) == request
    assert Reply.decode(Reply(0, 5).encode()) == Reply(0, 5, NOWHERE)
    with pytest.raises(InvalidRequest, match="outside"):
        Request.decode(request.encode(), 240)
    with pytest.raises(InvalidRequest, match="malformed"):
        Reply.decode(Reply(0, 5, 10).encode(), 14)
