"""Replies that are held back: until rows have moved, or until the log is safe."""

import errno
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from waiting import PATIENCE_S, until

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Block, PartName, Pull, Push
from rowloom.proto.errors import Moving, PushUnresolved, Unavailable
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server import host as host_module
from rowloom.server.call import GRPC, LANE, Answer, Call, Caller
from rowloom.server.durable.disk import Disk
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLogs
from rowloom.server.serve import MOST_HELD, Server
from rowloom.server.shard import Shard
from rowloom.server.states import Serving

LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
ENTRY = TableEntry(1, TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))


@pytest.fixture
def server() -> Iterator[Server]:
    """One that serves, and listens to nobody."""
    server = Server(carrier="grpc")
    server._host.state = Serving(Shard(LAYOUT, 0, [ENTRY]))
    yield server
    server.stop(0)


def freeze(server: Server, on: bool, turn: int) -> None:
    request = pb.FreezeRequest(cluster_id="c", epoch=1, on=on, turn=turn)
    server.answer(Call(methods.FREEZE, request.SerializeToString(), Caller(GRPC)))


def push(seq: int, carrier: str = LANE) -> Call:
    tables = [(1, np.array([3]), Block(np.ones((1, 2), np.float32)))]
    request = Push(LAYOUT.header(0), 7, (PartName(1, 0, seq),), push=seq, tables=tables)
    return Call(methods.PUSH, joined(request.encode()), Caller(carrier))


class Later:
    """Answers of a server, each in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._threads: list[threading.Thread] = []
        self.answers: list[bytes | Exception] = []

    def ask(self, call: Call) -> None:
        def run() -> None:
            try:
                self.answers.append(joined(self._server.answer(call)))
            except Exception as e:
                self.answers.append(e)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def all(self) -> list[bytes | Exception]:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        return self.answers


def waiters(server: Server) -> int:
    with server._lock:
        return len(server._moved._waiters)  # type: ignore[attr-defined]


def test_pushes_that_wait_for_rows_to_move_go_on_when_they_have(server, monkeypatch) -> None:
    monkeypatch.setattr(host_module, "MOVING_HOLD_S", 3600.0)
    freeze(server, True, 1)
    later = Later(server)
    for seq in range(1, 7):
        later.ask(push(seq))
    until(lambda: waiters(server) == 6)
    assert not later.answers
    freeze(server, False, 2)
    assert [pb.PushReply.FromString(a).duplicate for a in later.all()] == [False] * 6
    assert server._host.shard.counters.pushes == 6


def test_a_push_that_has_waited_long_enough_is_told_to_come_back(server) -> None:
    freeze(server, True, 1)
    refused, began = server._host.refused, time.monotonic()
    with pytest.raises(Moving):
        server.answer(push(1))
    assert time.monotonic() - began >= host_module.MOVING_HOLD_S
    assert server._host.refused == refused + 1


def test_pushes_that_wait_leave_threads_of_grpc_to_what_ends_their_wait(server, monkeypatch) -> None:
    monkeypatch.setattr(host_module, "MOVING_HOLD_S", 3600.0)
    freeze(server, True, 1)
    later = Later(server)
    for seq in range(1, MOST_HELD + 1):
        later.ask(push(seq, GRPC))
    later.ask(push(100, LANE))
    until(lambda: waiters(server) == MOST_HELD + 1)
    with pytest.raises(Moving):
        server.answer(push(200, GRPC))
    freeze(server, False, 2)
    assert len(later.all()) == MOST_HELD + 1
    assert server._held == 0
    assert pb.PushReply.FromString(joined(server.answer(push(300, GRPC)))).duplicate is False


class SlowDisk(Disk):
    """Syncs when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.syncs = 0

    def fdatasync(self, handle: int) -> None:
        self.syncs += 1
        assert self.go.wait(PATIENCE_S)
        super().fdatasync(handle)


@pytest.fixture
def logged(tmp_path) -> Iterator[tuple[Server, SlowDisk]]:
    disk = SlowDisk()
    server = Server(logs=ShardLogs(str(tmp_path), Mode.DISK, segment_bytes=1 << 16, disk=disk))
    adopt = pb.AdoptRequest(layout=LAYOUT.to_message(), fresh=True, tables=[ENTRY.to_message()], turn=1)
    server.answer(Call(methods.ADOPT, adopt.SerializeToString(), Caller(GRPC)))
    yield server, disk
    disk.go.set()
    server.stop(0)


def test_a_push_is_acknowledged_when_it_is_on_disk(logged) -> None:
    server, disk = logged
    disk.go.clear()
    syncs = disk.syncs
    later = Later(server)
    later.ask(push(1))
    until(lambda: disk.syncs > syncs)
    assert server._host.shard.counters.pushes == 1
    assert not later.answers
    later.ask(push(1))  # a duplicate is no safer than its first copy
    until(lambda: server._host.shard.counters.duplicates == 1)
    assert not later.answers
    disk.go.set()
    assert sorted(pb.PushReply.FromString(a).duplicate for a in later.all()) == [False, True]


def test_a_server_that_stops_says_that_the_outcome_is_not_known(logged, monkeypatch) -> None:
    server, _ = logged
    monkeypatch.setattr(server._host, "handle", lambda call: Answer([b""], after=1 << 40))
    later = Later(server)
    later.ask(push(1))
    until(lambda: server._host.journal._users == 1)
    stopping = threading.Thread(target=server.stop, args=(0,))
    stopping.start()
    (answer,) = later.all()
    assert isinstance(answer, PushUnresolved)
    stopping.join(PATIENCE_S)


def test_a_disk_that_is_full_ends_pushes_and_no_pull(logged, monkeypatch) -> None:
    server, disk = logged

    def full(handle: int, buffers: Sequence, place: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert pb.PushReply.FromString(joined(server.answer(push(1)))).duplicate is False
    monkeypatch.setattr(disk, "pwritev", full)
    with pytest.raises(PushUnresolved, match="No space left on device"):
        server.answer(push(2))
    with pytest.raises(Unavailable, match="its log failed: No space left on device"):
        server.answer(push(3))
    assert server._host.shard.counters.pushes == 2
    pull = joined(Pull(LAYOUT.header(0), [(ENTRY.number, np.arange(3))]).encode())
    assert server.answer(Call(methods.PULL, pull, Caller(GRPC)))


def test_each_process_keys_the_hashes_of_its_tables_with_a_number_of_its_own() -> None:
    """Who knew the key could choose ids that all collide, and a call would take seconds."""
    keys = set()
    for _ in range(2):
        server = Server(carrier="grpc")
        request = pb.AdoptRequest(layout=LAYOUT.to_message(), fresh=True, tables=[ENTRY.to_message()], turn=1)
        server.answer(Call(methods.ADOPT, request.SerializeToString(), Caller(GRPC)))
        shard = server._host.shard
        assert shard is not None
        keys.add(shard.tables[1]._rows._index.where[2])
        server.stop(0)
    assert len(keys - {0}) == 2
