"""gRPC's server without a shard: calls whose message never comes, and threads that are not to be had."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from half_calls import HalfCalls
from waiting import PATIENCE_S, until

from rowloom.proto import methods
from rowloom.proto.channel import LOOKAHEAD_BYTES, Channels
from rowloom.proto.errors import NoAnswer
from rowloom.server.call import Call
from rowloom.server.carriers import grpc_server, receiving
from rowloom.server.carriers.grpc_server import THREADS, GrpcServer
from rowloom.server.carriers.pool import Pool
from rowloom.server.carriers.receiving import MOST_MESSAGES

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
    until(lambda: len(server._receiving._there) == THREADS)
    assert answers(server)
    assert len(server._receiving._there) == THREADS
    silent.close()
    until(lambda: not server._receiving._there)


def test_calls_without_a_message_make_way_when_they_hold_every_thread(monkeypatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.01)
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 3600.0)
    monkeypatch.setattr(receiving, "GREEDY_S", 3600.0)
    monkeypatch.setattr(grpc_server, "MOST_THREADS", MOST_MESSAGES + 10)
    server = served()
    silent = HalfCalls(address(server), methods.HEALTH)
    for _ in range(MOST_MESSAGES + 20):
        silent.start(100)
    until(lambda: server._pool.waiting)
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 0.05)
    assert answers_at_last(server)
    assert server._pool._threads <= MOST_MESSAGES + 10
    silent.close()
    server.stop(0)


def test_connections_that_hold_all_places_once_kept_another_one_waiting_for_seconds(monkeypatch) -> None:
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 3600.0)
    monkeypatch.setattr(receiving, "GREEDY_S", 3600.0)
    server = served()
    with contextlib.ExitStack() as ends:
        for _ in range(MOST_MESSAGES - 2):
            silent = ends.enter_context(HalfCalls(address(server), methods.HEALTH))
            for _ in range(3):
                silent.start(100)
        until(lambda: len(server._receiving._there) == 3 * (MOST_MESSAGES - 2))
        assert not server._receiving._places.free
        monkeypatch.setattr(receiving, "GREEDY_S", 0.05)
        for _ in range(5):
            assert answers(server)
    until(lambda: not server._receiving._there)
    assert server._receiving._places.free == MOST_MESSAGES
    server.stop(0)


def test_one_connection_that_holds_all_threads_makes_way_at_once(monkeypatch) -> None:
    monkeypatch.setattr(receiving, "CROWDED_STALL_S", 3600.0)
    monkeypatch.setattr(grpc_server, "MOST_THREADS", MOST_MESSAGES + 10)
    server = served()
    with HalfCalls(address(server), methods.HEALTH) as silent:
        for _ in range(60):
            silent.start(100)
        until(lambda: len(server._receiving._there) >= MOST_MESSAGES)
        for _ in range(5):
            assert answers(server)
    server.stop(0)


def test_no_more_messages_are_held_at_once_and_calls_under_way_are_never_broken_off(monkeypatch) -> None:
    go_on, under_way = threading.Event(), []

    def answer(call: Call) -> list[bytes]:
        under_way.append(call)
        go_on.wait(PATIENCE_S)
        return [bytes(call.data)]

    server = GrpcServer(methods.HEALTH.__eq__, answer, host="127.0.0.1", port=0)
    server.start()
    one, all_of_it = MOST_MESSAGES // 2, 30  # what a connection may have, and what it wants
    with grpc.insecure_channel(address(server)) as channel:
        calls = [channel.unary_unary(methods.HEALTH).future(b"x" * 100) for _ in range(all_of_it)]
        until(lambda: len(server._receiving._there) == all_of_it - one)
        assert len(under_way) == one
        monkeypatch.setattr(receiving, "STALL_S", 0.0)
        until(lambda: sum(call.done() for call in calls) == all_of_it - one)
        go_on.set()
        until(lambda: all(call.done() for call in calls))
        assert sum(call.exception() is None for call in calls) == one
    assert len(under_way) == one
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
    most = MOST_MESSAGES // 2  # of one connection
    half = HalfCalls(address(server), methods.HEALTH)
    for _ in range(most):
        half.start(8 * MB)
    until(lambda: len(server._receiving._there) == most)
    others = [half.start(8 * MB) for _ in range(6)]
    half.send(6 * MB, 0.5, full=most)
    assert sum(n == 6 * MB for n in half.sent.values()) == most
    assert sum(half.sent[stream] for stream in others) <= len(others) * LOOKAHEAD_BYTES
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
    until(lambda: len(server._receiving._there) == 1)
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


def test_a_job_whose_thread_is_starting_once_counted_as_one_without(monkeypatch) -> None:
    go, start = threading.Event(), threading.Thread.start

    def late(thread: threading.Thread) -> None:
        run = thread.run
        thread.run = lambda: (go.wait(PATIENCE_S), run())[1]
        start(thread)

    pool = Pool(2, 2, "rowloom-test-pool")
    monkeypatch.setattr(threading.Thread, "start", late)
    jobs = [pool.submit(pow, k, 2) for k in range(2)]
    assert pool.waiting == 0
    jobs.append(pool.submit(pow, 2, 2))
    assert pool.waiting == 1
    monkeypatch.undo()
    go.set()
    assert [job.result(PATIENCE_S) for job in jobs] == [0, 1, 4]
    assert pool.waiting == 0
    pool.shutdown()
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
