"""Who connects to the lane's Unix socket without being one of ours, and what it can hand over there."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from waiting import PATIENCE_S, until

from rowloom.proto.lane import HAS_ARENAS, HELLO_BYTES, OK, WELCOME, Hello, Reply, Request
from rowloom.server.carriers import lane_server
from rowloom.server.carriers.lane_server import LaneServer

pytestmark = pytest.mark.skipif(not HAS_ARENAS, reason="the Unix socket is for shared memory")
WRONG = Hello(bytes(16), 0).encode()


@pytest.fixture
def server() -> Iterator[LaneServer]:
    """One that listens and is not started: what it finds to be closed, nobody else has any more."""
    server = LaneServer(lambda call: [bytes(call.data)], "127.0.0.1")
    yield server
    server.stop()


@pytest.fixture
def slow() -> Iterator["SlowToClose"]:
    with SlowToClose() as slow:
        yield slow


class SlowToClose:
    """Makes sockets whose last close takes an hour, or until this is left."""

    def __enter__(self) -> "SlowToClose":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[socket.socket] = []
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._listener.close()

    def end(self) -> None:
        """Those that are being closed are closed."""
        for peer in self._peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets it
            peer.close()
        self._peers.clear()

    def hand_over(self, to: socket.socket, data: bytes, count: int = 1) -> None:
        """Send so many of them, which nobody else has then."""
        given = [self._one() for _ in range(count)]
        socket.send_fds(to, [data], given)
        for descriptor in given:
            os.close(descriptor)

    def _one(self) -> int:
        end = socket.create_connection(self._listener.getsockname())
        self._peers.append(self._listener.accept()[0])
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                end.send(bytes(1 << 16))
        return end.detach()


def reached(server: LaneServer) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(PATIENCE_S)
    end.connect("\0" + server.describe().unix_address)
    return end


def answers(end: socket.socket, server: LaneServer) -> bool:
    """Whether a lane that is opened over a connection answers."""
    with end:
        end.sendall(Hello(server.describe().key, 0).encode())
        assert end.recv(1) == WELCOME
        end.sendall(Request(0, 3).encode() + b"abc")
        head = Reply.decode(end.recv(24, socket.MSG_WAITALL))
        return (head.status, end.recv(head.length)) == (OK, b"abc")


def tcp(server: LaneServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.describe().port), PATIENCE_S)


def test_a_hello_in_pieces_once_left_a_descriptor_of_each_piece_with_the_server(server) -> None:
    server.start()
    with reached(server) as end:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            reader, writer = os.pipe()
            for _ in range(HELLO_BYTES - 1):
                socket.send_fds(end, [b"r"], [writer])
        os.close(writer)
        end.settimeout(2.0)  # less than a stranger has for its hello
        with contextlib.suppress(ConnectionResetError):
            assert end.recv(1) == b""
    with open(reader, "rb") as left:
        assert left.read() == b""  # nobody has the other end any more
    assert answers(reached(server), server)


def test_several_descriptors_at_once_end_a_stranger(server) -> None:
    server.start()
    with reached(server) as end:
        socket.send_fds(end, [b"r"], [0, 0])
        end.settimeout(2.0)
        assert end.recv(1) == b""


@pytest.mark.parametrize("how", ["beside its hello", "without room", "unread", "in its place in the queue"])
def test_a_descriptor_that_takes_long_to_close_once_kept_all_lanes_of_a_shard_waiting(
    server, slow, how: str
) -> None:
    with reached(server) as end:
        if how == "beside its hello":
            slow.hand_over(end, WRONG)
        elif how == "without room":
            slow.hand_over(end, b"r", 3)
        elif how == "unread":
            end.sendall(WRONG[:-1])
            slow.hand_over(end, WRONG[-1:] + b"more")
        else:
            slow.hand_over(end, b"r")
            slow.hand_over(end, b"r")
        server.start()
        until(lambda: len(server._local) == 1)
        assert answers(tcp(server), server)
        assert answers(reached(server), server)
        assert len(server._local) == 1  # it is being closed
        slow.end()
        until(lambda: len(server._local) == 0)


def test_where_all_strangers_take_long_to_close_others_wait_or_go_over_tcp(
    server, slow, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("rowloom.server.carriers.local_strangers.MOST_STRANGERS", 3)
    monkeypatch.setattr(lane_server, "BACK_OFF_S", 0.001)
    threads = threading.active_count()
    ends = [reached(server) for _ in range(3)]
    for end in ends:
        slow.hand_over(end, WRONG)
        end.close()
    server.start()
    waiting = [reached(server) for _ in range(20)]
    until(lambda: "cannot accept" in caplog.text)
    assert answers(tcp(server), server)
    assert threading.active_count() <= threads + 3 + 3  # that accept, and the lane that has answered
    slow.end()
    assert answers(waiting.pop(), server)
    for end in waiting:
        end.close()
    assert len([r for r in caplog.records if "cannot accept" in r.message]) == 1


def test_of_too_many_silent_strangers_the_one_that_has_waited_longest_goes(server, monkeypatch) -> None:
    monkeypatch.setattr("rowloom.server.carriers.local_strangers.MOST_STRANGERS", 3)
    server.start()
    silent = [reached(server) for _ in range(5)]
    for end in silent[:2]:
        assert end.recv(1) == b""
    assert answers(reached(server), server)
    for end in silent:
        end.close()


def test_a_server_can_be_stopped_while_a_stranger_takes_long_to_close(server, slow) -> None:
    with reached(server) as end:
        slow.hand_over(end, WRONG)
        server.start()
        until(lambda: len(server._local) == 1)
        server.stop()
    assert not any(thread.is_alive() for thread in server._accepting)
