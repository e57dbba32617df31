"""Arrays to message bytes and back. The only file that knows byte order and how the hot messages are framed.

A pull of 65,536 rows is 16.8 MB; protobuf would copy it twice on each side. So the messages of `Pull`, `Push`
and `Step` are framed here by hand, in protobuf's own encoding: what is written is what `rowloom_pb2` would
write, and arrays are views of the bytes that came in. Encoders return a list of buffers to join or to send.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import ml_dtypes
import numpy as np

from . import rowloom_pb2 as pb
from .errors import InvalidRequest
from .framing import (
    MOST_TABLE_FIELDS,
    MOST_TABLES,
    OTHER_FIELDS,
    Buffer,
    array_of,
    fields,
    framed,
    message_of,
    raw,
    refuse_longer,
    scalar,
    size_of,
    spans,
    submessage,
    too_many_tables,
    varint,
)
from .plain import read_pull, read_push, read_push_head
from .rounding import to_bfloat16

FLOAT32, BFLOAT16, FLOAT16, INT8 = range(4)
WIRE_NUMBER = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float16": FLOAT16, "int8": INT8}
WIRE_DTYPE = {
    FLOAT32: np.dtype("<f4"),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    FLOAT16: np.dtype("<f2"),
    INT8: np.dtype("i1"),
}
_U8 = np.dtype("u1")
_I64 = np.dtype("<i8")
_I32 = np.dtype("<i4")
_F32 = np.dtype("<f4")
_NONE = np.empty(0, _F32)
MOST_HEADER_BYTES = 1 << 10  # a cluster's random name and four numbers
MOST_HEAD_BYTES = 64 << 10  # of a push: all but its tables
MOST_NAMES = 1000  # of a part of a push: one for each layout in whose time it was sent
GRADIENTS, ASSIGN, RENORM = pb.PushRequest.GRADIENTS, pb.PushRequest.ASSIGN, pb.PushRequest.RENORM


# ---------------------------------------------------------------------------------------------- rows <-> wire


@dataclass
class Block:
    """N rows as they travel. data: [N, width] in the wire's dtype; scales: [N] float32, INT8 only.

    With bags [M] int32 these are gradients of N bags for M ids; factors: [M] float32, or None for 1.
    """

    data: np.ndarray
    scales: np.ndarray | None = None
    bags: np.ndarray | None = None
    factors: np.ndarray | None = None


def to_wire(rows: np.ndarray, wire: int) -> Block:
    """Exact for FLOAT32 (a view); otherwise rounded to nearest, INT8 in 127ths of the row's largest value.

    rows: [N, width] float32. What is not finite, or more than the wire can hold, arrives not finite.
    """
    if wire == FLOAT32:
        return Block(rows)
    if wire == BFLOAT16:
        out = np.empty(rows.shape, np.uint16)
        to_bfloat16(np.ascontiguousarray(rows), out.reshape(-1))
        return Block(out.view(WIRE_DTYPE[wire]))
    with np.errstate(over="ignore", invalid="ignore"):
        if wire != INT8:
            return Block(rows.astype(WIRE_DTYPE[wire]))
        scales = (np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
        steps = np.rint(rows / np.where(scales > 0, scales, np.float32(1))[:, None])
        # A subnormal scale is rounded so coarsely that the largest value can be more than 127 steps.
        return Block(np.clip(steps, -127, 127).astype(np.int8), scales)


def write_rows(rows: np.ndarray, wire: int, buffer: np.ndarray) -> None:
    """Fill a buffer of bytes with rows [N, width] float32, as a wire type that has no scales."""
    rows = np.ascontiguousarray(rows)
    if wire == BFLOAT16:
        to_bfloat16(rows, buffer.view(np.uint16))
    else:
        buffer[:] = to_wire(rows, wire).data.reshape(-1).view(np.uint8)


def from_wire(block: Block, wire: int) -> np.ndarray:
    """The rows as [N, width] float32; a view for FLOAT32."""
    if wire == FLOAT32:
        return block.data
    rows = block.data.astype(np.float32)
    if wire == INT8 and block.scales is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            rows *= block.scales[:, None]
    return rows


# ------------------------------------------------------------------------------------------------------- pull


@functools.lru_cache(256)
def _header(field: bytes) -> pb.Header:
    """That of a request for rows whose first field it is: the same until the layout changes. Not to be written to."""
    refuse_longer(len(field), MOST_HEADER_BYTES, "the header of a request")  # what is refused is not kept
    return message_of(pb.PullRequest, bytearray(field)).header


def header_of(value: object) -> pb.Header:
    """A header that stands somewhere else. Raises InvalidRequest."""
    data = submessage(value)
    refuse_longer(len(data), MOST_HEADER_BYTES, "the header of a request")
    return message_of(pb.Header, data)


@dataclass(slots=True)
class Pull:
    """A PullRequest. tables: (table number, ids [N] int64)."""

    header: pb.Header
    tables: list[tuple[int, np.ndarray]]
    wire: int = FLOAT32

    def encode(self) -> list[Buffer]:
        """As buffers."""
        out = framed(1, [self.header.SerializeToString()])
        for table, ids in self.tables:
            out += framed(2, [scalar(1, table), *framed(2, [raw(ids, _I64)])])
        return [*out, scalar(3, self.wire)]

    @classmethod
    def decode(cls, data: bytes | memoryview, most: int = MOST_TABLES) -> Pull:
        """From bytes; ids are views. most: tables that it may name. Raises InvalidRequest."""
        view = memoryview(data).toreadonly()
        array = np.frombuffer(view, _U8)
        tables: list[tuple[int, np.ndarray]] = []
        head, table, ids, count = read_pull(array, 0)
        while table >= 0:
            tables.append((table, np.frombuffer(view, _I64, count, ids)))
            end = ids + 8 * count
            if end == len(view):
                return cls(_header(bytes(view[:head])), tables)
            if len(tables) == most:
                break
            _, table, ids, count = read_pull(array, end)
        header, wire, tables = pb.Header(), FLOAT32, []
        for number, value in fields(view, most + OTHER_FIELDS):
            if number == 1:
                header = header_of(value)
            elif number == 2:
                if len(tables) == most:
                    raise too_many_tables(most)
                table, ids = 0, np.empty(0, _I64)
                for inner, item in fields(submessage(value), MOST_TABLE_FIELDS):
                    if inner == 1:
                        table = table_of_field(item)
                    elif inner == 2:
                        ids = array_of(item, _I64, "ids")
                tables.append((table, ids))
            elif number == 3:
                wire = wire_of_field(value)
        return cls(header, tables, wire)


@dataclass(slots=True)
class PullReply:
    """Rows of each table of the request; `blocks[i].data` is 1-d when decoded, the caller knows the width.

    placed: where it ends in the buffer of its `Room`, if it has been made there, without blocks; else 0.
    """

    blocks: list[Block]
    wire: int = FLOAT32
    placed: int = 0

    def encode(self) -> list[Buffer]:
        """As buffers."""
        out: list[Buffer] = []
        for block in self.blocks:
            out += framed(1, _block_fields(block, self.wire, 1, 2))
        return [*out, scalar(2, self.wire)]

    @classmethod
    def decode(cls, data: bytes | memoryview) -> PullReply:
        """From bytes; rows are views. Raises InvalidRequest."""
        raw: list[tuple[object, object]] = []
        wire = FLOAT32
        for number, value in fields(memoryview(data)):
            if number == 1:
                rows: object = memoryview(b"")
                scales: object = None
                for inner, item in fields(submessage(value)):
                    if inner == 1:
                        rows = item
                    elif inner == 2:
                        scales = item
                raw.append((rows, scales))
            elif number == 2:
                wire = wire_of_field(value)
        return cls([_block(rows, scales, wire, "rows") for rows, scales in raw], wire)


# ------------------------------------------------------------------------------------------------------- push


class PartName(NamedTuple):
    """The name of one part of a push: its origin (epoch, shard) and its number there."""

    epoch: int
    shard: int
    seq: int


@dataclass(slots=True)
class Push:
    """A PushRequest. tables: (table number, ids [N] int64, gradients or rows); decoded data is flat."""

    header: pb.Header
    client_id: int
    names: tuple[PartName, ...]
    push: int
    tables: list[tuple[int, np.ndarray, Block]]
    client_epoch: int = 1
    low_water: int = 0
    kind: int = GRADIENTS
    wire: int = FLOAT32
    oldest_epoch: int = 0
    max_norm: float = 0.0
    norm_type: float = 0.0
    parts: int = 0

    def head(self) -> bytes:
        """All but the tables, which come last."""
        return pb.PushRequest(
            header=self.header,
            client_id=self.client_id,
            client_epoch=self.client_epoch,
            names=[pb.PartName(epoch=p.epoch, shard=p.shard, seq=p.seq) for p in self.names],
            low_water=self.low_water,
            push=self.push,
            kind=self.kind,  # type: ignore[arg-type]
            wire=self.wire,  # type: ignore[arg-type]
            oldest_epoch=self.oldest_epoch,
            max_norm=self.max_norm,
            norm_type=self.norm_type,
            parts=self.parts,
        ).SerializeToString()

    def encode(self) -> list[Buffer]:
        """As buffers."""
        return [self.head(), *push_tables(self.tables, self.wire)]

    @classmethod
    def decode(cls, data: bytes | memoryview, most: int = MOST_TABLES) -> Push:
        """From bytes; ids and values are views. most: tables that it may name. Raises InvalidRequest."""
        view = memoryview(data).toreadonly()
        array = np.frombuffer(view, np.uint8)
        table, begin, ids, count, values, end = read_push(array, 0)
        if table >= 0:
            head, *numbers = read_push_head(array, begin)
            push = (
                cls._plain(_header(bytes(view[:head])), numbers) if head >= 0 else cls._of_head(view[:begin])
            )
            while table >= 0 and push.wire == FLOAT32 and not (end - values) % 4:
                grads = np.frombuffer(view, _F32, (end - values) // 4, values) if values < end else _NONE
                push.tables.append((table, np.frombuffer(view, _I64, count, ids), Block(grads)))
                if end == len(view):
                    return push
                if len(push.tables) == most:
                    break
                table, begin, ids, count, values, end = read_push(array, end)
        head = bytearray()
        parts: list[memoryview] = []
        for number, value, begin, end, start in spans(view, most + OTHER_FIELDS):
            if number == 9:
                if len(parts) == most:
                    raise too_many_tables(most)
                parts.append(submessage(view[begin:end] if value is None else value))
            else:
                head += view[start:end]
        push = cls._of_head(head)
        push.tables = [_grads(part, push.wire) for part in parts]
        return push

    @classmethod
    def _plain(cls, header: pb.Header, numbers: Sequence[int]) -> Push:
        """All but the tables, of what `read_push_head` has read behind the header."""
        client_id, client_epoch, epoch, shard, seq, low_water, push, kind, wire, oldest_epoch, parts = numbers
        # By place: naming them costs a twentieth of a small push's time on the server.
        rest = low_water, kind, wire_of_field(wire), oldest_epoch, 0.0, 0.0, parts
        return cls(header, client_id, (PartName(epoch, shard, seq),), push, [], client_epoch, *rest)

    @classmethod
    def _of_head(cls, head: memoryview | bytearray) -> Push:
        """All but the tables."""
        refuse_longer(len(head), MOST_HEAD_BYTES, "the head of a push")
        h = message_of(pb.PushRequest, head)
        if len(h.names) > MOST_NAMES:
            raise InvalidRequest(f"a part of a push has {len(h.names)} names, at most {MOST_NAMES} are taken")
        return cls(
            header=h.header,
            client_id=h.client_id,
            names=tuple([PartName(p.epoch, p.shard, p.seq) for p in h.names]),
            push=h.push,
            tables=[],
            client_epoch=h.client_epoch,
            low_water=h.low_water,
            kind=h.kind,
            wire=wire_of_field(h.wire),
            oldest_epoch=h.oldest_epoch,
            max_norm=h.max_norm,
            norm_type=h.norm_type,
            parts=h.parts,
        )


def push_tables(tables: Iterable[tuple[int, np.ndarray, Block]], wire: int) -> list[Buffer]:
    """The tables of a PushRequest, as `Push` has them, as buffers."""
    out: list[Buffer] = []
    for table, ids, block in tables:
        fields = [scalar(1, table), *framed(2, [raw(ids, _I64)])]
        out += framed(9, fields + _block_fields(block, wire, 3, 4) + bag_fields(block, 5, 6))
    return out


def _grads(part: memoryview, wire: int) -> tuple[int, np.ndarray, Block]:
    table, ids = 0, np.empty(0, _I64)
    values: object = memoryview(b"")
    scales: object = None
    bags, factors = None, None
    for number, item in fields(part, MOST_TABLE_FIELDS):
        if number == 1:
            table = table_of_field(item)
        elif number == 2:
            ids = array_of(item, _I64, "ids")
        elif number == 3:
            values = item
        elif number == 4:
            scales = item
        elif number == 5:
            bags = array_of(item, _I32, "bags")
        elif number == 6:
            factors = array_of(item, _F32, "factors")
    block = _block(values, scales, wire, "values")
    block.bags, block.factors = bags, factors
    return table, ids, block


# ------------------------------------------------------------------------------------------------------- step


@dataclass
class Step:
    """A StepRequest: push, then pull."""

    push: Push
    pull: Pull

    def encode(self) -> list[Buffer]:
        """As buffers."""
        return [*framed(1, self.push.encode()), *framed(2, self.pull.encode())]

    @classmethod
    def decode(cls, data: bytes | memoryview, most: int = MOST_TABLES) -> Step:
        """From bytes. most: tables that either of them may name. Raises InvalidRequest."""
        parts = {number: submessage(value) for number, value in fields(memoryview(data))}
        if 1 not in parts or 2 not in parts:
            raise InvalidRequest("a StepRequest needs push and pull")
        return cls(Push.decode(parts[1], most), Pull.decode(parts[2], most))


@dataclass
class StepReply:
    """A StepReply."""

    duplicate: bool
    pull: PullReply = field(default_factory=lambda: PullReply([]))

    def encode(self) -> list[Buffer]:
        """As buffers."""
        pull = self.pull.encode()
        return [step_lead(self.duplicate, size_of(pull)), *pull]

    @classmethod
    def decode(cls, data: bytes | memoryview) -> StepReply:
        """From bytes."""
        duplicate, pull = False, PullReply([])
        for number, value in fields(memoryview(data)):
            if number == 1:
                duplicate = decode_push_reply(submessage(value))
            elif number == 2:
                pull = PullReply.decode(submessage(value))
        return cls(duplicate, pull)


def step_lead(duplicate: bool, pull_bytes: int) -> bytes:
    """All of a StepReply but the PullReply that it ends with, of so many bytes."""
    pushed = encode_push_reply(duplicate)
    return b"\x0a" + varint(len(pushed)) + pushed + b"\x12" + varint(pull_bytes)


def encode_push_reply(duplicate: bool) -> bytes:
    """A PushReply."""
    return scalar(1, int(duplicate))


def decode_push_reply(data: bytes | memoryview) -> bool:
    """Whether the part had been applied before."""
    return any(number == 1 and bool(value) for number, value in fields(memoryview(data)))


# ----------------------------------------------------------------------------------------------------- pieces


def _block_fields(block: Block, wire: int, data_field: int, scales_field: int) -> list[Buffer]:
    out = framed(data_field, [raw(block.data, WIRE_DTYPE[wire])])
    if block.scales is not None:
        out += framed(scales_field, [raw(block.scales, _F32)])
    return out


def bag_fields(block: Block, bags_field: int, factors_field: int) -> list[Buffer]:
    """The fields of a block's bags, if it has any."""
    out: list[Buffer] = []
    if block.bags is not None:
        out += framed(bags_field, [raw(block.bags, _I32)])
    if block.factors is not None:
        out += framed(factors_field, [raw(block.factors, _F32)])
    return out


def _block(data: object, scales: object, wire: int, what: str) -> Block:
    array = array_of(data, WIRE_DTYPE[wire], what)
    if wire != INT8:
        return Block(array)
    if scales is None and array.size:
        raise InvalidRequest(f"{what}: int8 needs scales, one float32 a row")
    # protobuf writes no empty fields, so no rows come without scales.
    return Block(array, array_of(memoryview(b"") if scales is None else scales, _F32, "scales"))


def wire_of_field(value: object) -> int:
    """A wire type that exists. Raises InvalidRequest."""
    if not isinstance(value, int) or value not in WIRE_DTYPE:
        raise InvalidRequest(f"unknown wire type {value!r}; known: {', '.join(WIRE_NUMBER)}")
    return value


def table_of_field(value: object) -> int:
    """A table's number. Raises InvalidRequest."""
    if not isinstance(value, int) or value >= 1 << 32:
        raise InvalidRequest("malformed message: table must be a number below 2**32")
    return value


def shaped(block: Block, n: int, width: int, what: str) -> Block:
    """The block as [n, width]. Raises InvalidRequest if its size is another."""
    if block.data.size != n * width:
        raise InvalidRequest(
            f"{what}: {n} ids of a table with {width} columns need {n * width} values, got {block.data.size}"
        )
    if block.scales is not None and block.scales.size != n:
        raise InvalidRequest(f"{what}: {n} ids need {n} scales, got {block.scales.size}")
    return Block(block.data.reshape(n, width), block.scales)
