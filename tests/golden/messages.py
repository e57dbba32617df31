"""What was sent and answered when the files in `files/wire` were made: one value for each message that is framed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rowloom.proto import lane
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import (
    ASSIGN,
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INT8,
    RENORM,
    Block,
    PartName,
    Pull,
    PullReply,
    Push,
    Step,
    StepReply,
    decode_push_reply,
    encode_push_reply,
    to_wire,
)
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.errors import Overloaded, WrongLayout, decode_error, encode_error
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.recipes import Normal
from rowloom.proto.spec import Adagrad, Adam, TableEntry, TableSpec

LAYOUT = Layout(
    "a-cluster",
    3,
    (ShardAddress(0, "host-a:7400", 11), ShardAddress(1, "[::1]:7401", 1 << 63)),
    "host-a:7399",
)
HEADER = LAYOUT.header(1)
IDS = np.array([5, 0, 1 << 40, 5], np.int64)
ROWS = np.array([[0.5, -1.25], [3.0, 1e-3], [-0.0, 100.0], [1 / 3, -7.5]], np.float32)
PARTS = (PartName(2, 0, 300), PartName(3, 1, 7))
ENTRIES = [
    TableEntry(
        1,
        TableSpec(
            "users",
            num_embeddings=1 << 33,
            dim=2,
            partition="div",
            optimizer=Adagrad(lr=0.05, eps=1e-8, initial_accumulator=0.1),
            initializer=Normal(mean=0.5, std=0.01, seed=7),
            metadata={"from": "here"},
        ),
    ),
    TableEntry(
        4, TableSpec("words", dim=(2, 3), optimizer=Adam(lr=0.1), hash_ids=True, wire="bfloat16"), 0.3, 2
    ),
]


@dataclass(frozen=True)
class Message:
    """A message that is framed by hand.

    Attributes:
        value: what was meant.
        encode: makes the bytes.
        decode: makes a value of bytes.
        same: whether a value is what was meant.
    """

    value: Any
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    same: Callable[[Any, Any], bool]


def plain(value: Any) -> Any:
    """A value as one that can be compared: arrays as (dtype, values), laid flat as messages have them."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.reshape(-1).tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value.SerializeToString() if hasattr(value, "SerializeToString") else value


def _framed(value: Any) -> Message:
    return Message(value, lambda v: joined(v.encode()), type(value).decode, lambda a, b: plain(a) == plain(b))


def _head(value: Any, decode: Callable[[bytes], Any]) -> Message:
    """A head of the row lane, which is bytes already."""
    return Message(value, lambda v: v.encode(), decode, operator.eq)


def _push(tables: list[Any], **more: Any) -> Push:
    return Push(HEADER, 0xFEDC_BA98_7654_3210, PARTS, 12, tables, client_epoch=4, low_water=299, **more)


def _reply(wire: int) -> Message:
    return _framed(PullReply([to_wire(ROWS, wire), to_wire(ROWS[:1], wire)], wire))


def _pushed(wire: int) -> Message:
    return _framed(_push([(1, IDS, to_wire(ROWS, wire))], wire=wire, oldest_epoch=2, parts=3))


PULL = Pull(HEADER, [(1, IDS), (4, IDS[:1])])
PUSH = _push([(1, IDS, Block(ROWS)), (4, IDS[:1], Block(ROWS[:1]))], oldest_epoch=2, parts=3)
BAGS = Block(ROWS[:2], bags=np.array([0, 1, 1, 0], np.int32), factors=np.array([1, 0.5, 0.5, 2], np.float32))
WIRE: dict[str, Message] = {
    "pull": _framed(PULL),
    "pull_of_bfloat16": _framed(Pull(HEADER, [(1, IDS)], BFLOAT16)),
    "pull_reply": _reply(FLOAT32),
    "pull_reply_bfloat16": _reply(BFLOAT16),
    "pull_reply_float16": _reply(FLOAT16),
    "pull_reply_int8": _reply(INT8),
    "pull_bags": _framed(
        PullBags(
            HEADER,
            [
                Entries(1, IDS, np.array([0, 1, 1, 0], np.int32)),
                Entries(4, IDS[:1], np.array([0], np.int32), np.array([0.25], np.float32)),
            ],
        )
    ),
    "push": _framed(PUSH),
    "push_bfloat16": _pushed(BFLOAT16),
    "push_float16": _pushed(FLOAT16),
    "push_int8": _pushed(INT8),
    "push_of_bags": _framed(_push([(1, IDS, BAGS)])),
    "push_that_assigns": _framed(_push([(1, IDS[:2], Block(ROWS[:2]))], kind=ASSIGN)),
    "push_that_renorms": _framed(
        _push([(1, IDS[:2], Block(np.empty(0, np.float32)))], kind=RENORM, max_norm=2.5, norm_type=2.0)
    ),
    "step": _framed(Step(PUSH, PULL)),
    "step_reply": _framed(StepReply(True, PullReply([Block(ROWS)]))),
    "push_reply": Message(True, encode_push_reply, decode_push_reply, lambda a, b: a is b),
    "lane_hello": _head(lane.Hello(bytes(range(16)), 32 << 20), lane.Hello.decode),
    "lane_request": _head(
        lane.Request(2, 4096, 64, 8192, 1024), partial(lane.Request.decode, arena_bytes=1 << 20)
    ),
    "lane_request_that_follows": _head(lane.Request(1, 300), lane.Request.decode),
    "lane_reply": _head(lane.Reply(lane.REFUSED, 77, 128), partial(lane.Reply.decode, arena_bytes=1 << 20)),
    "error": Message(
        Overloaded("too much: ask for less", retry_after_s=0.25),
        encode_error,
        decode_error,
        lambda a, b: (type(a), a.message, a.retry_after_s) == (type(b), b.message, b.retry_after_s),
    ),
    "error_with_layout": Message(
        WrongLayout("shard 0 it is not", epoch=3, layout=LAYOUT.to_message().SerializeToString()),
        encode_error,
        decode_error,
        lambda a, b: (type(a), a.message, a.epoch, a.layout) == (type(b), b.message, b.epoch, b.layout),
    ),
}


def described() -> pb.DescribeLayoutReply:
    """What a client asks for first."""
    return pb.DescribeLayoutReply(
        layout=LAYOUT.to_message(),
        tables=[entry.to_message() for entry in ENTRIES],
        has_tables=True,
        durability="process",
    )
