"""One server that asks another one for rows: over its lane, and over gRPC where it has none."""

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from secured import SecuredFolder

from rowloom.client import SGD, TableSpec
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.errors import NoAnswer, Unavailable
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.security import files
from rowloom.proto.security.credentials import Credentials
from rowloom.proto.spec import TableEntry
from rowloom.server.access.settings import ServerSecurity
from rowloom.server.carriers import peer as peer_module
from rowloom.server.carriers.peer import Peer
from rowloom.server.serve import Server
from rowloom.server.shard import Shard
from rowloom.server.states import Serving

NOTHING = ServerSecurity()
LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
ENTRY = TableEntry(1, TableSpec("t", 5000, dim=8, optimizer=SGD(lr=1.0, momentum=0.5)))
IDS = np.arange(1000)


def request(**more) -> bytes:
    given = {"header": LAYOUT.header(0), "tables": [1], "new_n": 1, "limit_bytes": 1 << 20} | more
    return pb.ReadPassRequest(**given).SerializeToString()


def started(carrier: str, security: ServerSecurity = NOTHING) -> Server:
    server = Server(carrier=carrier, security=security)
    shard = Shard(LAYOUT, 0, [ENTRY])
    shard.tables[1].push(IDS, np.ones((1000, 8), np.float32), 1)
    server._host.state = Serving(shard)
    server.start()
    return server


@pytest.fixture
def server() -> Iterator[Server]:
    server = started("auto")
    yield server
    server.stop(0)


def asked(server: Server, data: bytes) -> pb.ReadPassReply:
    """A reply, and the peer is closed."""
    with Channels() as channels:
        peer = Peer(channels, server.address, 30.0)
        try:
            return pb.ReadPassReply.FromString(bytes(peer.call(methods.READ_PASS, data)))
        finally:
            peer.close()


def check_rows(reply: pb.ReadPassReply) -> None:
    (moved,) = reply.tables
    assert reply.done
    assert np.frombuffer(moved.ids, "<i8").tolist() == IDS.tolist()
    assert len(moved.values) == len(moved.slots[0]) == 4 * 8 * 1000


@pytest.mark.parametrize("shared", [True, False])
def test_rows_come_over_the_lane(server: Server, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    if not shared:
        dial = peer_module.dial
        monkeypatch.setattr(peer_module, "dial", lambda *a, **more: dial(*a, **more | {"shared": False}))
    with Channels() as channels:
        peer = Peer(channels, server.address, 30.0)
        check_rows(pb.ReadPassReply.FromString(bytes(peer.call(methods.READ_PASS, request()))))
        assert server._lane is not None
        assert server._lane.connections == 1
        check_rows(pb.ReadPassReply.FromString(bytes(peer.call(methods.READ_PASS, request()))))
        assert server._lane.connections == 1
        peer.close()


def test_what_is_larger_than_the_memory_that_is_shared_comes_through_the_socket(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "ARENA_BYTES", 1 << 12)
    check_rows(asked(server, request()))


def test_rows_come_over_grpc_where_there_is_no_lane() -> None:
    server = started("grpc")
    try:
        check_rows(asked(server, request()))
    finally:
        server.stop(0)


def test_a_refusal_comes_over_the_lane_as_what_it_is_and_ends_nothing(server: Server) -> None:
    with Channels() as channels:
        peer = Peer(channels, server.address, 30.0)
        with pytest.raises(Unavailable, match="has started anew") as raised:
            peer.call(methods.READ_PASS, request(since=99))
        assert not isinstance(raised.value, NoAnswer)
        check_rows(pb.ReadPassReply.FromString(bytes(peer.call(methods.READ_PASS, request()))))
        peer.close()


def test_a_lane_that_breaks_is_no_answer_and_grpc_goes_on(server: Server) -> None:
    with Channels() as channels:
        peer = Peer(channels, server.address, 30.0)
        peer.call(methods.READ_PASS, request())
        assert server._lane is not None
        for end in list(server._lane._connections):
            end.shutdown(socket.SHUT_RDWR)
        with pytest.raises(NoAnswer):
            peer.call(methods.READ_PASS, request())
        check_rows(pb.ReadPassReply.FromString(bytes(peer.call(methods.READ_PASS, request()))))
        peer.close()


def test_a_server_was_refused_by_another_ones_lane_when_their_token_was_replaced_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SecuredFolder(tmp_path / "secured")
    monkeypatch.setattr(files, "LOOK_S", 0.0)
    server = started("auto", ServerSecurity(tokens=folder["tokens.yaml"], token=folder["cluster.token"]))
    try:
        with Channels(Credentials(token_file=folder["cluster.token"])) as channels:
            peer = Peer(channels, server.address, 30.0)
            for _ in range(3):
                check_rows(pb.ReadPassReply.FromString(bytes(peer.call(methods.READ_PASS, request()))))
                assert peer._lane is not None
                folder.token("cluster")
                folder.token("cluster")
            peer.close()
    finally:
        server.stop(0)
