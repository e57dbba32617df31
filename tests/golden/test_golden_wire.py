"""What goes over the wire: today's servers and trainers and those of earlier versions understand one another."""

from collections.abc import Iterator
from typing import Any

import pytest
from golden.messages import ENTRIES, HEADER, LAYOUT, WIRE, described
from golden.written import CHANGED, FILES, UNREAD, check_written, golden
from google.protobuf import descriptor_pb2

from rowloom.proto import lane, methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import ERROR_KEY
from rowloom.proto.errors import BY_KIND, InvalidRequest
from rowloom.proto.layout import PROTOCOL, Layout
from rowloom.proto.spec import TableEntry
from rowloom.server.shard import Shard

NUMBER = "PROTOCOL in proto/layout.py (of the row lane MAGIC in proto/lane.py)"


@pytest.mark.parametrize("name", WIRE)
def test_a_message_is_written_as_ever(name: str) -> None:
    message = WIRE[name]
    check_written(f"wire/{name}.bin", message.encode(message.value), NUMBER)


@pytest.mark.parametrize("name", WIRE)
def test_a_message_of_an_earlier_version_means_what_it_did(name: str) -> None:
    message, file = WIRE[name], f"wire/{name}.bin"
    assert message.same(message.decode(golden(file)), message.value), UNREAD.format(file=file)


def test_what_a_client_asks_for_first_means_what_it_did() -> None:
    reply = pb.DescribeLayoutReply.FromString(golden("wire/describe_layout_reply.bin"))
    assert reply == described()
    assert Layout.from_message(reply.layout) == LAYOUT
    assert [TableEntry.from_message(entry) for entry in reply.tables] == ENTRIES


def test_numbers_and_names_that_no_message_holds_stay() -> None:
    """Where a lane's request says which method it means, and what a foreign client must know beside the .proto."""
    assert (PROTOCOL, lane.MAGIC, ERROR_KEY) == (1, b"rowloom1", "rowloom-error-bin")
    assert methods.ROWS[:4] == tuple(
        f"/rowloom.v1.Shard/{name}" for name in ("Pull", "Push", "Step", "PullBags")
    )
    assert {cls.__name__: kind for kind, cls in BY_KIND.items()}.items() >= KINDS.items()


KINDS = {
    "InvalidRequest": 1,
    "TableNotFound": 2,
    "TableExists": 3,
    "Unavailable": 4,
    "Overloaded": 5,
    "PushUnresolved": 6,
    "StateLost": 7,
    "SnapshotCorrupt": 8,
    "Unauthorized": 9,
    "WrongLayout": 10,
    "WrongCluster": 11,
    "Moving": 12,
    "RetryLater": 13,
    "ClientForgotten": 14,
    "Unauthenticated": 30,
    "PermissionDenied": 31,
}


def test_a_request_of_another_protocol_is_refused_and_told_what_to_do() -> None:
    header = pb.Header(
        cluster_id=HEADER.cluster_id, epoch=HEADER.epoch, protocol=PROTOCOL + 1, shard=HEADER.shard
    )
    with pytest.raises(
        InvalidRequest, match="speaks protocol 1, the request 2: take the same rowloom for trainers"
    ):
        Shard(LAYOUT, 1).check(header)


# -------------------------------------------------------------------------------------------------- the whole contract


def said(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Any]]:
    """(name, what may never change) of all that a contract has: fields, values of enums, RPCs."""

    def of_message(message: descriptor_pb2.DescriptorProto, path: str) -> Iterator[tuple[str, Any]]:
        for f in message.field:
            yield f"{path}.{f.name}", (f.number, f.type, f.label, f.type_name, f.proto3_optional)
        for inner in message.nested_type:
            yield from of_message(inner, f"{path}.{inner.name}")
        for enum in message.enum_type:
            yield from ((f"{path}.{enum.name}.{value.name}", value.number) for value in enum.value)

    for message in file.message_type:
        yield from of_message(message, message.name)
    for enum in file.enum_type:
        yield from ((f"{enum.name}.{value.name}", value.number) for value in enum.value)
    for service in file.service:
        for rpc in service.method:
            yield f"{service.name}/{rpc.name}", (rpc.input_type, rpc.output_type)


def test_nothing_that_the_contract_had_is_gone_or_means_something_else() -> None:
    before = descriptor_pb2.FileDescriptorProto.FromString(golden("wire/contract.binpb"))
    now = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(now)
    assert now.package == before.package
    there = dict(said(now))
    broken = {name: (what, there.get(name, "gone")) for name, what in said(before) if there.get(name) != what}
    assert not broken, f"{broken}\n" + CHANGED.format(file=FILES / "wire/contract.binpb", number=NUMBER)


def test_a_field_that_a_newer_version_adds_is_passed_over() -> None:
    added = b"\xfa\x3f\x03new"  # field 1023, three bytes
    for name in ("pull", "push", "pull_reply"):
        message = WIRE[name]
        assert message.same(message.decode(golden(f"wire/{name}.bin") + added), message.value), name
