"""What goes to one shard in one message: rows that are wanted, rows that are pushed, or both. Pure.

A request writes itself where it is sent from - an arena of shared memory, a socket's buffer, an array for gRPC - and
takes its rows where the reply lies. It knows how it is split when the layout changes; its names come from its pusher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...proto import codec, methods
from ...proto.codec import Buffer, PartName
from ...proto.errors import InvalidRequest
from ...proto.framing import framed, scalar, size_of
from ...proto.layout import Layout
from ...proto.plain import pull_bytes, push_bytes, put_pull, put_push
from ...proto.spec import TableEntry
from ..nearest.nearest import Choice
from .assembly import Arrived
from .operation import Reply, as_array
from .placed import copied
from .pusher import Pusher
from .session import Session
from .values import Values

MOST_PARTS = 1 << 63  # as fine as a share is said; shards never take such a push for whole
FRAME_BYTES = 64  # more than a table has beside ids and rows, in a request and in a reply
_PULL_WIRE, _STEP_PUSH = 3, 1  # fields
_NOTHING = np.empty(0, np.uint8)


# Plain tuples: making them is a good part of a small call.
# Rows of a table that a request asks for: ids [M] int64, distinct; and the places of their rows among the call's.
Wanted = tuple[TableEntry, np.ndarray, Arrived, slice | np.ndarray]
# What a request brings for a table: ids [M] int64, distinct unless they are of bags.
Given = tuple[TableEntry, np.ndarray, Values]


@dataclass(eq=False)
class PullRequest:
    """Distinct ids of one shard, of one or more tables of one wire type.

    epoch, shard: the layout that it was routed by, and where to.
    size, reply_bytes: as `Writable` has them, from `prepare` on.
    """

    epoch: int
    shard: int
    tables: list[Wanted]
    wire: int = codec.FLOAT32

    method = methods.PULL
    attempts = size = reply_bytes = 0  # no fields, for the same reason
    place: Choice | None = None  # where it is sent, if it may be a standby
    avoid = ""  # address of the server that has just failed to answer it
    _head = _NOTHING

    @property
    def numbers(self) -> list[int]:
        """Of its tables."""
        return [entry.number for entry, *_ in self.tables]

    @property
    def max_staleness_s(self) -> float | None:
        """As of `Layout.header`."""
        return None if self.place is None else self.place.max_staleness_s

    def prepare(self, session: Session, layout: Layout) -> None:
        """Before each attempt."""
        self._head = head = session.head(layout, self.shard, self.max_staleness_s)
        size, reply_bytes = len(head) + FRAME_BYTES, FRAME_BYTES
        for entry, ids, _, _ in self.tables:
            size += ids.nbytes + FRAME_BYTES
            reply_bytes += len(ids) * (entry.spec.width * 4 + 4) + FRAME_BYTES
        self.size, self.reply_bytes = size, reply_bytes

    def write(self, buffer: np.ndarray, at: int) -> tuple[int, int]:
        """As `Writable.write`."""
        return at, self.put(buffer, at, inside=False)

    def put(self, buffer: np.ndarray, at: int, *, inside: bool) -> int:
        """Write it, as a message or as the second half of a StepRequest; returns where it ends."""
        wire = scalar(_PULL_WIRE, self.wire) if self.wire else b""
        (entry, ids, _, _), *others = self.tables
        rest = len(wire)
        for other, more, _, _ in others:
            rest += pull_bytes(other.number, len(more))
        at = put_pull(buffer, at, self._head, rest, entry.number, ids, inside)
        for entry, ids, _, _ in others:
            at = put_pull(buffer, at, _NOTHING, 0, entry.number, ids, False)
        return put_buffers(buffer, at, [wire]) if wire else at

    def accept(self, reply: Reply) -> None:
        """Take the rows, where they are. Raises InvalidRequest."""
        message = as_array(reply)
        if not self.take(message, inside=False):
            self.take_blocks(codec.PullReply.decode(message.data))

    def take(self, message: np.ndarray, *, inside: bool) -> bool:
        """Take the rows of a reply as our own shards write it; whether it is one. inside: it is a StepReply."""
        if self.wire != codec.FLOAT32:
            return False
        at, left = 0, len(self.tables)
        for _, ids, arrived, places in self.tables:
            left -= 1
            at = arrived.take(message, at, places, len(ids), inside, not left)
            if at < 0:
                return False
            inside = False
        return True

    def take_blocks(self, reply: codec.PullReply) -> None:
        """Take the rows of a reply that the codec has read. Raises InvalidRequest."""
        if len(reply.blocks) != len(self.tables):
            raise InvalidRequest(f"asked for {len(self.tables)} tables, the reply has {len(reply.blocks)}")
        for block, (entry, ids, arrived, where) in zip(reply.blocks, self.tables, strict=True):
            what = f"rows of table {entry.spec.name!r}"
            rows = codec.from_wire(codec.shaped(block, len(ids), entry.spec.width, what), reply.wire)
            arrived.put(np.ascontiguousarray(rows), where)

    def split(self, layout: Layout) -> Iterator[PullRequest]:
        """The same rows, asked of the shards of another layout."""
        for entry, ids, arrived, where in self.tables:
            owners = layout.owner(entry, ids)
            numbers: np.ndarray = np.arange(where.start, where.stop) if isinstance(where, slice) else where  # pyright: ignore[reportUnknownVariableType]
            for shard in np.unique(owners):
                mine = np.flatnonzero(owners == shard)
                yield PullRequest(
                    layout.epoch, int(shard), [(entry, ids[mine], arrived, numbers[mine])], self.wire
                )


@dataclass(eq=False)
class PushRequest:
    """Ids of one shard with their gradients or rows, of one or more tables, each once; applied whole, and once.

    epoch, shard: as PullRequest's.
    pusher, push: whose it is, and the number of the call.
    names: what it was sent as, newest last; the pusher adds one for each layout.
    pull: rows that are wanted of the same shard, in the same message: the pull sees the push. None: a push alone.
    later: where the pull goes if the layout changes, to be done when all of the push is.
    maybe_applied: an attempt ended without an answer.
    parts: it is one of so many equal shares of its push; see `counted`.
    """

    epoch: int
    shard: int
    tables: list[Given]
    pusher: Pusher
    push: int
    kind: int = codec.GRADIENTS
    wire: int = codec.FLOAT32
    max_norm: float = 0.0
    norm_type: float = 0.0
    names: list[PartName] = field(default_factory=list[PartName])
    pull: PullRequest | None = None
    later: list[PullRequest] | None = None
    parts: int = 1

    attempts = size = reply_bytes = 0
    maybe_applied = False
    _head = _NOTHING
    # What the codec has made of it, if it had to.
    _framed: list[Buffer] | None = field(default=None, init=False)
    _item_bytes: int = field(default=0, init=False)  # of one value, on the wire

    @property
    def method(self) -> str:
        """Which RPC it is."""
        return methods.PUSH if self.pull is None else methods.STEP

    @property
    def rows(self) -> int:
        """How many rows it changes."""
        rows = 0
        for _, ids, _ in self.tables:
            rows += len(ids)
        return rows

    def prepare(self, session: Session, layout: Layout) -> None:
        """Before each attempt: name it, say what its client has finished."""
        pusher = self.pusher
        finished = pusher.name(self, layout)
        how = self.kind, self.wire, self.max_norm, self.norm_type, self.parts
        head = pusher.heads.write(layout, self.shard, self.names, self.push, finished, how)
        self._head = copied(head)
        self.size, self.reply_bytes = len(self._head) + FRAME_BYTES, FRAME_BYTES
        self._item_bytes = 0 if self.kind == codec.RENORM else codec.WIRE_DTYPE[self.wire].itemsize
        self._framed = None
        if self.plain:
            for entry, ids, _ in self.tables:
                self.size += len(ids) * (8 + entry.spec.width * self._item_bytes) + FRAME_BYTES
        else:
            tables = [(entry.number, ids, self.block(values)) for entry, ids, values in self.tables]
            rest = codec.push_tables(tables, self.wire)
            self._framed = [head, *rest]
            self.size += size_of(rest)
        if self.pull is not None:
            self.pull.prepare(session, layout)
            self.size += self.pull.size
            self.reply_bytes += self.pull.reply_bytes

    @property
    def plain(self) -> bool:
        """Whether compiled code can frame it."""
        return self.wire != codec.INT8

    def block(self, values: Values) -> codec.Block:
        """Values as the codec has them."""
        return codec.to_wire(values.array(), self.wire)

    def write(self, buffer: np.ndarray, at: int) -> tuple[int, int]:
        """As `Writable.write`."""
        begin, at = self.put(buffer, at, inside=self.pull is not None)
        return begin, at if self.pull is None else self.pull.put(buffer, at, inside=True)

    def put(self, buffer: np.ndarray, at: int, *, inside: bool) -> tuple[int, int]:
        """Write the push, as a message or as the first half of a StepRequest; returns where it begins and ends."""
        if self._framed is not None:
            buffers = framed(_STEP_PUSH, self._framed) if inside else self._framed
            return at, put_buffers(buffer, at, buffers)
        rest, head, first, item_bytes = 0, self._head, -1, self._item_bytes
        for entry, ids, _ in self.tables[1:]:
            rest += push_bytes(entry.number, len(ids), entry.spec.width * item_bytes)
        for entry, ids, values in self.tables:
            row_bytes = entry.spec.width * item_bytes
            begin, at = put_push(buffer, at, head, rest, entry.number, ids, row_bytes, inside)
            first = begin if first < 0 else first
            end = at + row_bytes * len(ids)
            values.write(buffer[at:end], self.wire)
            at, head, rest, inside = end, _NOTHING, 0, False
        return first, at

    def accept(self, reply: Reply) -> None:
        """The shard has it; take the rows, if some are wanted. Raises InvalidRequest."""
        message = as_array(reply)
        if self.pull is None:
            if len(message):
                codec.decode_push_reply(message.data)
        elif not self.pull.take(message, inside=True):
            self.pull.take_blocks(codec.StepReply.decode(message.data).pull)

    def split(self, layout: Layout) -> Iterator[PushRequest]:
        """The same rows for the shards of another layout. Every piece keeps the old names.

        A table that counts steps goes to every shard, with or without rows, so that all count the same. The pull, if
        there is one, comes later.
        """
        if self.pull is not None and self.later is not None:
            self.later.append(self.pull)
        by_shard: dict[int, list[Given]] = {}
        for entry, ids, values in self.tables:
            owners = layout.owner(entry, ids)
            everywhere = self.kind == codec.GRADIENTS and entry.spec.optimizer.counts_steps
            for shard in range(layout.n) if everywhere else np.unique(owners):
                mine = np.flatnonzero(owners == shard)
                by_shard.setdefault(int(shard), []).append((entry, ids[mine], values[mine]))
        for shard, tables in by_shard.items():
            piece = self.piece(layout.epoch, shard, tables)
            piece.parts = min(self.parts * len(by_shard), MOST_PARTS)
            yield piece

    def piece(self, epoch: int, shard: int, tables: list[Given]) -> PushRequest:
        """A part of it under another layout."""
        piece = PushRequest(
            epoch,
            shard,
            tables,
            self.pusher,
            self.push,
            self.kind,
            self.wire,
            self.max_norm,
            self.norm_type,
        )
        piece.names, piece.maybe_applied = list(self.names), self.maybe_applied
        return piece


def counted(requests: list[PushRequest]) -> list[PushRequest]:
    """All requests of one push: each of them says how many there are."""
    if len(requests) > 1:
        for request in requests:
            request.parts = len(requests)
    return requests


def put_buffers(buffer: np.ndarray, at: int, buffers: list[Buffer]) -> int:
    """Write buffers one after the other; returns where they end."""
    for one in buffers:
        data = np.frombuffer(one, np.uint8)
        buffer[at : at + len(data)] = data
        at += len(data)
    return at


Request = PullRequest | PushRequest
