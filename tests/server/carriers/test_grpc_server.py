"""gRPC's server without a shard: calls whose message never comes, and threads that are not to be had."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from half_calls import FIRST_WINDOW, HalfCalls
from waiting import PATIENCE_S, until

from rowloom.proto import methods
from rowloom.proto.channel import Channels
from rowloom.proto.errors import NoAnswer
from rowloom.server.carriers import grpc_server, receiving
from rowloom.server.carriers.grpc_server import THREADS, GrpcServer
from rowloom.server.carriers.pool import Pool
from rowloom.server.carriers.receiving import MOST_RECEIVING

MB = 1 << 20


def served() -> GrpcServer:
    server = GrpcServer(methods.HEALTH.__eq__, lambda call: [call.data], host="127.0.0.1", port=0)
    server.start()
    return server


@pytest.fixture
def server() -> Iterator[GrpcServer]:
    """One that answers with the message."""
    server = served()
    yield server
    server.stop(0)


def address(server: GrpcServer) -> str:
    return f"127.0.0.1:{server.port}"


def answers(server: GrpcServer, data: bytes = b"hello") -> bool:
    with Channels() as channels:
        return channels.call(address(server), methods.HEALTH, data, PATIENCE_S) == data


def test_eight_calls_without_a_message_once_blocked_a_server(server) -> None:
    silent = HalfCalls(address(server), methods.HEALTH)
    for _ in range(THREADS):
        silent.start(0)
    until(lambda: len(server._receiving._since) == THREADS)
    assert answers(server)
    assert len(server._receiving._since) == THREADS
    silent.close()
    until(lambda: not server._receiving._since)


def test_calls_without_a_message_make_way_when_they_hold_every_thread(monkeypatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.01)
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 3600.0)
    server = served()
    silent = HalfCalls(address(server), methods.HEALTH)
    for _ in range(THREADS + MOST_RECEIVING + 10):
        silent.start(100)
    until(lambda: server._pool.waiting)
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 0.05)
    assert answers_at_last(server)
    assert server._pool._threads <= THREADS + MOST_RECEIVING
    silent.close()
    server.stop(0)


def test_a_message_that_does_not_come_is_not_waited_for_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.01)
    monkeypatch.setattr(receiving, "STALL_S", 0.05)
    server = served()
    with grpc.insecure_channel(address(server)) as channel:
        go_on = threading.Event()
        held = channel.stream_unary(methods.HEALTH).future(iter(go_on.wait, True))
        with pytest.raises(grpc.RpcError) as caught:
            held.result(PATIENCE_S)
        assert caught.value.code() == grpc.StatusCode.CANCELLED  # type: ignore[attr-defined]
        go_on.set()
    monkeypatch.undo()
    assert answers(server)
    server.stop(0)


def test_messages_that_stop_half_way_once_filled_the_memory_also_where_nobody_received(
    server, monkeypatch
) -> None:
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 3600.0)
    threads = THREADS + MOST_RECEIVING
    half = HalfCalls(address(server), methods.HEALTH)
    for _ in range(threads):
        half.start(2 * MB)
    until(lambda: len(server._receiving._since) == threads)
    others = [half.start(2 * MB) for _ in range(20)]
    half.send(MB, 0.5, full=threads)
    assert sum(n == MB for n in half.sent.values()) == threads
    assert all(half.sent[stream] <= FIRST_WINDOW for stream in others)
    half.close()


def test_a_large_message_comes_through(server) -> None:
    assert answers(server, bytes(range(256)) * (16 * MB // 256))


def test_a_call_that_ends_without_a_message_is_told_so(server) -> None:
    with grpc.insecure_channel(address(server)) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(methods.HEALTH)(iter(()), timeout=PATIENCE_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert "one message" in caught.value.details()  # type: ignore[attr-defined]


def connected(server: GrpcServer, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) for _ in range(count)]


def is_closed(end: socket.socket) -> bool:
    """Whether the server has, or soon does."""
    with contextlib.suppress(ConnectionError):
        while end.recv(1000):  # what a server says first
            pass
    return True


def test_the_number_of_connections_was_once_bounded_by_descriptors_only(monkeypatch) -> None:
    monkeypatch.setattr(grpc_server, "MOST_CONNECTIONS", 20)
    monkeypatch.setattr(grpc_server, "HELLO_TIMEOUT_S", 3600.0)
    server = served()
    with contextlib.ExitStack() as ends:
        there = [ends.enter_context(end) for end in connected(server, 20)]
        beyond = [ends.enter_context(end) for end in connected(server, 30)]
        assert all(map(is_closed, beyond))
        for end in there:  # whoever is gone makes place
            end.close()
        assert answers_at_last(server)
    server.stop(0)


def test_a_connection_that_says_nothing_once_stayed_for_two_minutes(monkeypatch) -> None:
    monkeypatch.setattr(grpc_server, "HELLO_TIMEOUT_S", 0.1)
    server = served()
    with connected(server, 1)[0] as end:
        assert is_closed(end)
    assert answers_at_last(server)  # also where its own hello takes longer than that
    server.stop(0)


def answers_at_last(server: GrpcServer) -> bool:
    """Whether it does, once it has seen that others are gone."""

    def tried() -> bool:
        with contextlib.suppress(NoAnswer):
            return answers(server)
        return False

    until(tried)
    return True


def threads(name: str) -> int:
    return sum(t.name == name for t in threading.enumerate())


def test_a_thread_that_could_not_be_started_once_ended_grpc(monkeypatch, caplog) -> None:
    start = threading.Thread.start
    server = served()
    assert answers(server)  # there is one

    def limited(thread: threading.Thread) -> None:
        if thread.name == "rowloom-rpc":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    silent = HalfCalls(address(server), methods.HEALTH)
    silent.start(0)
    until(lambda: len(server._receiving._since) == 1)
    silent.start(0)
    until(lambda: server._pool.waiting == 1)
    silent.close()
    assert answers(server)
    monkeypatch.undo()
    assert answers(server)
    assert len([r for r in caplog.records if "have to wait" in r.message]) == 1
    server.stop(0)


def test_a_pool_has_no_more_threads_than_it_may_and_runs_every_job() -> None:
    pool, go = Pool(3, 3, "rowloom-test-pool"), threading.Event()
    held = [pool.submit(go.wait) for _ in range(3)]
    later = [pool.submit(pow, k, 2) for k in range(10)]
    until(lambda: pool.waiting == 10)
    assert threads("rowloom-test-pool") == 3
    go.set()
    assert [job.result(PATIENCE_S) for job in later] == [k * k for k in range(10)]
    assert [job.result(PATIENCE_S) for job in held] == [True] * 3
    failing = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(PATIENCE_S)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(int)
    until(lambda: threads("rowloom-test-pool") == 0)


def test_threads_for_a_crowd_of_calls_once_stayed_for_ever() -> None:
    pool, go = Pool(10, 2, "rowloom-test-crowd"), threading.Event()
    crowd = [pool.submit(go.wait) for _ in range(10)]
    assert threads("rowloom-test-crowd") == 10
    go.set()
    assert [job.result(PATIENCE_S) for job in crowd] == [True] * 10
    until(lambda: threads("rowloom-test-crowd") == 2)
    later = [pool.submit(pow, k, 2) for k in range(20)]
    assert [job.result(PATIENCE_S) for job in later] == [k * k for k in range(20)]
    pool.shutdown()
    until(lambda: threads("rowloom-test-crowd") == 0)
