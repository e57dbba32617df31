"""The lane's server without a shard: who connects without being one of ours, and what all of them may take together."""

import errno
import itertools
import mmap
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from waiting import PATIENCE_S, until

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.lane import OK, REFUSED, WELCOME, Hello, Reply, Request
from rowloom.server.carriers import lane_connection, lane_server, strangers
from rowloom.server.carriers.budget import Budget
from rowloom.server.carriers.lane_connection import LaneConnection
from rowloom.server.carriers.lane_server import LaneServer

MB = 1 << 20


@pytest.fixture
def server() -> Iterator[LaneServer]:
    """One that answers how long a message was."""
    server = LaneServer(
        lambda call: [len(call.data).to_bytes(8, "little")], "127.0.0.1", budget_bytes=64 * MB
    )
    yield server
    server.stop()


def connected(server: LaneServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.describe().port), PATIENCE_S)


def welcomed(server: LaneServer) -> socket.socket:
    end = connected(server)
    end.sendall(Hello(server.describe().key, 0).encode())
    assert end.recv(1) == WELCOME
    return end


def reply(end: socket.socket) -> tuple[int, bytes]:
    head = Reply.decode(end.recv(24, socket.MSG_WAITALL))
    return head.status, end.recv(head.length, socket.MSG_WAITALL)


def ask(end: socket.socket, size: int) -> tuple[int, bytes]:
    end.sendall(Request(0, size).encode() + bytes(size))
    return reply(end)


def answers(server: LaneServer, size: int = 100) -> bool:
    with welcomed(server) as end:
        return ask(end, size) == (OK, size.to_bytes(8, "little"))


def accept(server: LaneServer) -> bool:
    """Whether all its threads that accept are there."""
    return bool(server._accepting) and all(thread.is_alive() for thread in server._accepting)


def test_one_thread_that_cannot_be_started_once_ended_the_lanes_of_a_shard(server, monkeypatch) -> None:
    server.start()
    start, failed = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if thread.name == "rowloom-lane" and not failed:
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with connected(server) as end:
        end.sendall(Hello(server.describe().key, 0).encode())
        assert end.recv(1) == b""
    assert failed
    assert answers(server)
    until(lambda: not server._connections)


def test_an_error_that_nobody_foresaw_ends_one_connection_and_not_the_lanes_of_a_shard(
    server, monkeypatch, caplog
) -> None:
    add, taken = strangers.Strangers.add, []

    def failing(self: strangers.Strangers, end: socket.socket, now: float) -> None:
        taken.append(end)
        if len(taken) == 1:
            raise RuntimeError("an error of its own")
        add(self, end, now)

    monkeypatch.setattr(strangers.Strangers, "add", failing)
    server.start()
    with connected(server), connected(server):
        until(lambda: len(taken) == 2 or not accept(server))
        assert accept(server)
    taken[0].close()
    assert answers(server)
    assert "a connection of the row lane could not be taken" in caplog.text


def test_accept_once_spun_when_the_process_had_no_descriptors_left(server, monkeypatch, caplog) -> None:
    class Starved:
        """A listener that has no descriptors to give, until it is told."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener
            self.tries: list[float] = []
            self.free = False

        def accept(self):
            self.tries.append(time.monotonic())
            if not self.free:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name: str):
            return getattr(self._listener, name)

    starved = server._tcp = Starved(server._tcp)
    server.start()
    with connected(server) as end:
        end.sendall(Hello(server.describe().key, 0).encode())
        until(lambda: len(starved.tries) >= 4)
        pauses = np.diff(starved.tries)
        assert pauses.min() >= 0.9 * lane_server.BACK_OFF_S
        starved.free = True
        assert end.recv(1) == WELCOME
        for free in (False, True, False, True):  # each time that it had some again it said so anew
            starved.free = free
            tries = len(starved.tries)
            with connected(server):
                until(lambda tries=tries: len(starved.tries) > tries)
    assert len([r for r in caplog.records if "cannot accept" in r.message]) == 1


def test_a_server_that_has_no_descriptors_can_still_be_stopped(server, monkeypatch) -> None:
    monkeypatch.setattr(lane_server, "BACK_OFF_S", 3600.0)
    monkeypatch.setattr(server, "_take", lambda *_: server._starve(OSError(errno.EMFILE, "none")))
    server.start()
    with connected(server):
        until(lambda: server._told_s > 0)
        server.stop()
    assert not accept(server)


def test_connections_that_say_nothing_once_took_a_thread_each(server, monkeypatch) -> None:
    monkeypatch.setattr(strangers, "MOST_STRANGERS", 5)
    server.start()
    threads = threading.active_count()
    silent = [connected(server) for _ in range(40)]
    for end in silent[:35]:  # those that have waited longest went
        assert end.recv(1) == b""
    assert answers(server)
    assert threading.active_count() <= threads + 1
    for end in silent:
        end.close()


def test_a_stranger_is_shown_the_door_when_its_time_is_up(server, monkeypatch) -> None:
    monkeypatch.setattr(strangers, "HELLO_TIMEOUT_S", 0.01)
    server.start()
    with connected(server) as end:
        end.sendall(b"rowloom1")
        assert end.recv(1) == b""


def test_a_hello_may_come_in_pieces(server) -> None:
    server.start()
    with connected(server) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in Hello(server.describe().key, 0).encode():
            end.sendall(bytes([byte]))
        assert end.recv(1) == WELCOME
        assert ask(end, 10)[0] == OK


def test_heads_that_announce_much_once_took_memory_for_all_of_it(server, monkeypatch) -> None:
    monkeypatch.setattr(lane_connection, "OWN_BYTES", 4000)
    server.start()
    ends = [welcomed(server) for _ in range(6)]
    for end in ends:
        end.sendall(Request(0, 64 * MB).encode() + bytes(MB))
    until(lambda: server._budget.used >= 6 * (MB - lane_connection.FREE_BYTES + 1000))
    assert server._budget.used <= 6 * (4000 + 4 * MB)  # at most one step ahead of what has come
    for end in ends:
        end.close()
    until(lambda: server._budget.used == 0)


def test_messages_above_what_all_connections_may_hold_are_refused_and_the_connection_goes_on(
    server, monkeypatch
) -> None:
    monkeypatch.setattr(lane_connection, "BUDGET_WAIT_S", 0.01)
    server.start()
    with welcomed(server) as greedy, welcomed(server) as honest:
        greedy.sendall(Request(0, 50 * MB).encode() + bytes(49 * MB))
        until(lambda: server._budget.used > 59 * MB)
        status, error = ask(honest, 20 * MB)
        assert status == REFUSED
        found = pb.ErrorInfo.FromString(error)
        assert found.kind == pb.ErrorInfo.OVERLOADED
        assert f"of the {64 * MB} bytes" in found.message
        greedy.close()
        until(lambda: server._budget.used < 20 * MB)
        assert ask(honest, 20 * MB) == (OK, (20 * MB).to_bytes(8, "little"))


def test_what_waits_for_memory_gets_it_when_others_are_done(server, monkeypatch) -> None:
    monkeypatch.setattr(lane_connection, "BUDGET_WAIT_S", PATIENCE_S)
    server.start()
    with welcomed(server) as first, welcomed(server) as second:
        first.sendall(Request(0, 40 * MB).encode() + bytes(39 * MB))
        until(lambda: server._budget.used >= 49 * MB)
        sending = threading.Thread(
            target=second.sendall, args=(Request(0, 30 * MB).encode() + bytes(30 * MB),)
        )
        sending.start()
        first.sendall(bytes(MB))
        assert reply(first)[0] == OK
        assert reply(second)[0] == OK
        sending.join(PATIENCE_S)


def test_a_large_receive_buffer_is_given_back(server) -> None:
    server.start()
    with welcomed(server) as end:
        assert ask(end, 100)[0] == OK
        usual = server._budget.used
        assert ask(end, 40 * MB)[0] == OK
        assert ask(end, 100)[0] == OK
        assert server._budget.used == usual


def test_requests_that_follow_each_other_closely_are_told_apart_however_they_are_cut(monkeypatch) -> None:
    monkeypatch.setattr(lane_connection, "MOST_KEPT_BYTES", 1 << 20)  # buffers come and go
    server = LaneServer(lambda call: [zlib.crc32(call.data).to_bytes(8, "little")], "127.0.0.1")
    server.start()
    rng = np.random.default_rng(5)
    sizes = rng.choice(
        [0, 1, 500, 65_000, 65_503, 65_504, 65_505, 140_000, 2 * MB], 120, p=[0.12] * 8 + [0.04]
    )
    messages = [rng.bytes(int(size)) for size in sizes]
    stream = b"".join(Request(0, len(m)).encode() + m for m in messages)
    cuts = np.sort(rng.integers(0, len(stream), 150)).tolist()

    def send(end: socket.socket) -> None:
        for begin, stop in itertools.pairwise([0, *cuts, len(stream)]):
            end.sendall(stream[begin:stop])

    try:
        with welcomed(server) as end:
            sending = threading.Thread(target=send, args=(end,))
            sending.start()
            for message in messages:
                assert reply(end) == (OK, zlib.crc32(message).to_bytes(8, "little"))
            sending.join(PATIENCE_S)
    finally:
        server.stop()


@pytest.fixture
def others() -> Iterator[list[int]]:
    """How often another thread has run; it runs only while the one that asks lets go of the GIL."""
    ran, ended = [0], threading.Event()

    def run() -> None:
        while not ended.wait(1e-4):
            ran[0] += 1

    thread, interval = threading.Thread(target=run), sys.getswitchinterval()
    sys.setswitchinterval(60.0)  # nobody is made to let go of it
    thread.start()
    yield ran
    sys.setswitchinterval(interval)
    ended.set()
    thread.join(PATIENCE_S)


def lets_others_run(others: list[int], copy: Callable[[], object]) -> bool:
    """Whether another thread ever runs while this copies; it may take some tries until it is its turn."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        before = others[0]
        copy()
        if others[0] != before:
            return True
        threading.Event().wait(0.001)
    return False


def test_a_long_message_once_held_all_other_connections_while_its_buffer_grew(others) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = LaneConnection(ours, None, lambda call: [], Budget(1 << 40))

        def grow() -> None:
            connection._buffer = first
            assert connection._grow(16 * MB)
            assert len(connection._buffer) == 16 * MB

        first = np.arange(8 * MB, dtype=np.uint8).data
        assert lets_others_run(others, grow)
        assert connection._buffer[: 8 * MB] == first


def test_a_long_reply_once_held_all_other_connections_while_it_was_put_together(others) -> None:
    space, buffers = memoryview(bytearray(10 * MB)), [b"head", bytes(range(256)) * (32 << 10), b"tail"]
    assert lets_others_run(others, lambda: lane_connection._put(space, buffers))
    end = lane_connection._put(space, buffers)
    assert space[:end] == b"".join(buffers)


def test_a_message_that_stops_half_way_ends_its_connection(server, monkeypatch) -> None:
    monkeypatch.setattr(lane_connection, "STALL_S", 0.1)
    server.start()
    with welcomed(server) as end, welcomed(server) as idle:
        end.sendall(Request(0, 8 * MB).encode() + bytes(5 * MB))
        assert end.recv(1) == b""
        until(lambda: server._budget.used == 0)
        assert ask(idle, 100)[0] == OK  # nothing is no half message


def test_a_client_that_does_not_read_its_replies_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(lane_connection, "STALL_S", 0.1)
    server = LaneServer(lambda call: [bytes(9 * MB)], "127.0.0.1", budget_bytes=64 * MB)
    server.start()
    with welcomed(server) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        for _ in range(3):
            end.sendall(Request(0, 10).encode() + bytes(10))
        until(lambda: not server._connections)
        assert server._budget.used == 0
    server.stop()


def test_a_budget_is_never_overdrawn_and_those_who_wait_are_served() -> None:
    budget = Budget(10)
    assert budget.take(6, 0.0)
    assert budget.tight
    assert not budget.take(5, 0.0)
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(budget.take(5, PATIENCE_S)))
    waiting.start()
    budget.give(6)
    waiting.join(PATIENCE_S)
    assert taken == [True]
    assert budget.used == 5
    assert not budget.tight


def test_a_message_in_shared_memory_cannot_change_between_being_applied_and_being_logged() -> None:
    arena = mmap.mmap(-1, 1 << 16)
    seen: list[tuple[str, bytes, bytes]] = []

    def handle(call) -> list[bytes]:
        before = bytes(call.data)
        arena[: len(before)] = bytes(len(before))  # as its client might
        seen.append((call.method, before, bytes(call.data)))
        return []

    theirs, ours = socket.socketpair()
    with theirs, ours:
        connection = LaneConnection(ours, arena, handle, Budget(1 << 40), copied=(methods.PUSH, methods.STEP))
        for method, size in (("Pull", 9), ("Push", 40_000), ("Step", 50), ("Push", 60_000)):
            number = next(k for k, name in enumerate(methods.ROWS) if name.endswith(method))
            arena[:size] = b"x" * size
            theirs.sendall(Request(number, size, 0, 0, 0).encode())
            connection._got = connection._mine = 0
            assert connection._fill(lane_connection.REQUEST_BYTES)
            head = Request.decode(connection._buffer[: lane_connection.REQUEST_BYTES], len(arena))
            connection._mine = lane_connection.REQUEST_BYTES
            connection._answer(head, connection._message(head))
            method, before, after = seen[-1]
            assert before == b"x" * size
            assert (after == before) == (method != methods.PULL)
