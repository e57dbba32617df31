"""What else may arrive at a port: garbage, giants, strangers, and a client that knows nothing but the .proto."""

import socket

import grpc
import numpy as np
import pytest

from rowloom.client import SGD, Client, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, error_of
from rowloom.proto.errors import InvalidRequest, RowloomError, WrongCluster, WrongLayout

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())


def call(address: str, method: str, request: bytes, options=None) -> bytes:
    with grpc.insecure_channel(address, options or CHANNEL_OPTIONS) as channel:
        try:
            return channel.unary_unary(method)(request, timeout=60)
        except grpc.RpcError as e:
            raise error_of(e, address) from None


@pytest.fixture
def layout(client: Client) -> pb.Layout:
    client.create_table(SPEC)
    address = client._session.layout.coordinator
    data = call(address, "/rowloom.v1.Directory/DescribeLayout", b"")
    return pb.DescribeLayoutReply.FromString(data).layout


def test_a_client_that_knows_only_the_proto_can_pull_and_push(client: Client, layout: pb.Layout) -> None:
    """No file of ours but the generated messages; what another language would do."""
    shard = layout.shards[1]
    header = pb.Header(cluster_id=layout.cluster_id, epoch=layout.epoch, protocol=1, shard=1)
    ids, grads = np.array([1, 3, 3], "<i8"), np.ones((3, 2), "<f4")
    push = pb.PushRequest(
        header=header,
        client_id=77,
        client_epoch=1,
        names=[pb.PartName(epoch=layout.epoch, shard=1, seq=1)],
        push=1,
        tables=[pb.TableGrads(table=1, ids=ids.tobytes(), values=grads.tobytes())],
    )
    for expected in (False, True):
        reply = call(shard.address, "/rowloom.v1.Shard/Push", push.SerializeToString())
        assert pb.PushReply.FromString(reply).duplicate is expected
    pull = pb.PullRequest(header=header, tables=[pb.TableIds(table=1, ids=ids.tobytes())])
    reply = pb.PullReply.FromString(call(shard.address, "/rowloom.v1.Shard/Pull", pull.SerializeToString()))
    rows = np.frombuffer(reply.tables[0].rows, "<f4").reshape(3, 2)
    np.testing.assert_array_equal(rows, [[-1, -1], [-2, -2], [-2, -2]])
    np.testing.assert_array_equal(client.table("t").pull([3]), [[-2, -2]])


def test_a_step_pushes_and_then_pulls(layout: pb.Layout) -> None:
    header = pb.Header(cluster_id=layout.cluster_id, epoch=layout.epoch, protocol=1, shard=0)
    ids = np.array([2], "<i8").tobytes()
    step = pb.StepRequest(
        push=pb.PushRequest(
            header=header,
            client_id=78,
            client_epoch=1,
            names=[pb.PartName(epoch=layout.epoch, shard=0, seq=1)],
            push=1,
            tables=[pb.TableGrads(table=1, ids=ids, values=np.ones(2, "<f4").tobytes())],
        ),
        pull=pb.PullRequest(header=header, tables=[pb.TableIds(table=1, ids=ids)]),
    )
    data = call(layout.shards[0].address, "/rowloom.v1.Shard/Step", step.SerializeToString())
    reply = pb.StepReply.FromString(data)
    assert np.frombuffer(reply.pull.tables[0].rows, "<f4").tolist() == [-1, -1]


def test_garbage_on_the_port_harms_nobody(client: Client, layout: pb.Layout) -> None:
    rng = np.random.default_rng(0)
    for shard in [*layout.shards, pb.ShardAddress(address=layout.coordinator)]:
        host, _, port = shard.address.rpartition(":")
        for start in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection((host, int(port)), 60) as stranger:
                stranger.sendall(start + rng.integers(0, 256, 5000, np.uint8).tobytes())
    table = client.table("t")
    table.push([5], [[1, 1]])
    assert table.pull([5]).tolist() == [[-1, -1]]


def test_a_message_over_the_limit_is_refused_before_it_is_read(client: Client, layout: pb.Layout) -> None:
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    giant = bytes(MAX_MESSAGE_BYTES + 1)
    with pytest.raises(InvalidRequest, match="larger than max"):
        call(layout.shards[0].address, "/rowloom.v1.Shard/Push", giant, unlimited)
    assert client.table("t").pull([0]).tolist() == [[0, 0]]


def test_a_method_that_does_not_exist_is_named(layout: pb.Layout) -> None:
    with pytest.raises(InvalidRequest, match="no rowloom server of this version"):
        call(layout.shards[0].address, "/rowloom.v1.Shard/Fly", b"")


def test_requests_for_another_cluster_epoch_or_shard_are_sent_away(layout: pb.Layout) -> None:
    good = {"cluster_id": layout.cluster_id, "epoch": layout.epoch, "protocol": 1, "shard": 0}
    for change, error in [
        ({"cluster_id": "other"}, WrongCluster),
        ({"epoch": 9}, WrongLayout),
        ({"shard": 1}, WrongLayout),
        ({"protocol": 2}, InvalidRequest),
    ]:
        pull = pb.PullRequest(header=pb.Header(**(good | change)))
        with pytest.raises(error):
            call(layout.shards[0].address, "/rowloom.v1.Shard/Pull", pull.SerializeToString())


def test_two_clusters_side_by_side_do_not_mix() -> None:
    with local_cluster(1) as one, local_cluster(1) as two:
        a, b = one.connect().create_table(SPEC), two.connect().create_table(SPEC)
        a.push([1], [[1, 1]])
        assert b.pull([1]).tolist() == [[0, 0]]
        # A client whose cluster is gone and whose address another one took finds out.
        client = one.connect()
        client.timeout_s = 1.0
        client._session.layout = type(client._session.layout)(
            "gone", 1, two._server.coordinator.layout.shards, two.address
        )
        with pytest.raises(RowloomError, match=r"is cluster|no answer"):
            client.pull_entries([(a.entry, [1])])


def test_a_taken_port_is_an_error_at_once() -> None:
    from rowloom.client import Unavailable
    from rowloom.server.serve import Server

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Unavailable, match="is the port taken"):
            Server(port=taken.getsockname()[1])
    first = Server()
    first.start()
    try:
        with pytest.raises(Unavailable, match="is the port taken"):
            Server(port=int(first.address.rpartition(":")[2]))
    finally:
        first.stop(0)


def test_connecting_through_any_shard_finds_the_cluster(client: Client, layout: pb.Layout) -> None:
    with connect(layout.shards[1].address) as other:
        assert other.table("t").pull([1]).tolist() == [[0, 0]]
