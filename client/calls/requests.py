"""The pieces of a pull or a push, one request each. Pure: numbers come from the session.

A part knows what it asks, what to do with the answer, and how it is split anew when the layout changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ...proto import codec, methods
from ...proto import rowloom_pb2 as pb
from ...proto.codec import Buffer, PartName
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout, owner
from ...proto.spec import TableEntry
from .assembly import Arrived
from .sums import Sums

CHUNK_BYTES = 4 << 20  # one call carries about this much; several are in flight
Part = TypeVar("Part")
_NO_ROWS = np.empty((0, 1), np.float32)


Places = slice | np.ndarray


@dataclass
class PullPart:
    """Distinct ids of one shard, of one or more tables.

    epoch, shard: the layout that it was routed by, and where to.
    tables: (entry, ids [M], where their rows are to be known: rows [U], and which M of these).
    """

    epoch: int
    shard: int
    tables: list[tuple[TableEntry, np.ndarray, tuple[Arrived, Places]]]
    wire: int = codec.FLOAT32
    attempts: int = 0

    method = methods.PULL

    @property
    def rows(self) -> int:
        """How many rows it asks for."""
        return sum(len(ids) for _, ids, _ in self.tables)

    @property
    def reply_bytes(self) -> int:
        """How long its reply can be."""
        return 64 + sum(len(ids) * (e.spec.width * 4 + 4) + 64 for e, ids, _ in self.tables)

    def encode(self, header: pb.Header) -> list[Buffer]:
        """The request."""
        return self.message(header).encode()

    def accept(self, data: bytes | memoryview) -> None:
        """Take the rows of the reply, where they are. Raises InvalidRequest."""
        self.take(codec.PullReply.decode(data))

    def message(self, header: pb.Header) -> codec.Pull:
        """The request, to be encoded."""
        return codec.Pull(header, [(e.number, ids) for e, ids, _ in self.tables], self.wire)

    def take(self, reply: codec.PullReply) -> None:
        """What `accept` does with the reply."""
        if len(reply.blocks) != len(self.tables):
            raise InvalidRequest(f"asked for {len(self.tables)} tables, the reply has {len(reply.blocks)}")
        for block, (entry, ids, (arrived, places)) in zip(reply.blocks, self.tables, strict=True):
            what = f"rows of table {entry.spec.name!r}"
            rows = codec.from_wire(codec.shaped(block, len(ids), entry.spec.width, what), reply.wire)
            arrived.put(rows, places)

    def split(self, layout: Layout) -> Iterator[PullPart]:
        """The same rows, asked of the shards of another layout."""
        for entry, ids, (arrived, places) in self.tables:
            owners = owner(entry.spec, ids, layout.n)
            numbers = np.arange(places.start, places.stop) if isinstance(places, slice) else places
            for shard in np.unique(owners):
                mine = np.flatnonzero(owners == shard)
                table = (entry, ids[mine], (arrived, numbers[mine]))
                yield PullPart(layout.epoch, int(shard), [table], self.wire)


@dataclass
class PushPart:
    """Distinct ids of one shard with their gradients or rows, of one or more tables; applied once.

    epoch, shard, tables: as PullPart's; values [M, width] float32, or Sums, instead of rows; empty for RENORM.
    names: what it was sent as, newest last; the session adds one for each layout.
    maybe_applied: an attempt ended without an answer.
    """

    epoch: int
    shard: int
    tables: list[tuple[TableEntry, np.ndarray, np.ndarray | Sums]]
    push: int
    kind: int = codec.GRADIENTS
    wire: int = codec.FLOAT32
    max_norm: float = 0.0
    norm_type: float = 0.0
    names: list[PartName] = field(default_factory=list)
    attempts: int = 0
    maybe_applied: bool = False
    acked: bool = False

    method = methods.PUSH

    @property
    def rows(self) -> int:
        """How many rows it changes."""
        return sum(len(ids) for _, ids, _ in self.tables)

    @property
    def reply_bytes(self) -> int:
        """How long its reply can be."""
        return 64

    def encode(self, header: pb.Header, **numbers: int) -> list[Buffer]:
        """The request. numbers: what the session gives, see `message`."""
        return self.message(header, **numbers).encode()

    def message(
        self, header: pb.Header, *, client_id: int, client_epoch: int, low_water: int, oldest_epoch: int
    ) -> codec.Push:
        """The request, to be encoded."""
        request = self._empty(header, client_id, client_epoch, low_water, oldest_epoch)
        request.tables = [(e.number, ids, self._block(values)) for e, ids, values in self.tables]
        return request

    def head(
        self, header: pb.Header, *, client_id: int, client_epoch: int, low_water: int, oldest_epoch: int
    ) -> bytes:
        """The request up to its first table."""
        return self._empty(header, client_id, client_epoch, low_water, oldest_epoch).head()

    def _empty(
        self, header: pb.Header, client_id: int, client_epoch: int, low_water: int, oldest_epoch: int
    ) -> codec.Push:
        return codec.Push(
            header=header,
            client_id=client_id,
            names=tuple(self.names),
            push=self.push,
            tables=[],
            client_epoch=client_epoch,
            low_water=low_water,
            kind=self.kind,
            wire=self.wire,
            oldest_epoch=oldest_epoch,
            max_norm=self.max_norm,
            norm_type=self.norm_type,
        )

    def _block(self, values: np.ndarray | Sums) -> codec.Block:
        if isinstance(values, Sums):
            return values.block(self.wire)
        return codec.Block(_NO_ROWS[:0]) if self.kind == codec.RENORM else codec.to_wire(values, self.wire)

    def accept(self, data: bytes | memoryview) -> None:
        """The shard has it."""
        codec.decode_push_reply(data)
        self.acked = True

    def split(self, layout: Layout) -> Iterator[PushPart]:
        """The same rows for the shards of another layout. Every piece keeps the old names.

        A table that counts steps goes to every shard, with or without rows, so that all count the same.
        """
        by_shard: dict[int, list[tuple[TableEntry, np.ndarray, np.ndarray | Sums]]] = {}
        for entry, ids, values in self.tables:
            owners = owner(entry.spec, ids, layout.n)
            everywhere = self.kind == codec.GRADIENTS and entry.spec.optimizer.counts_steps
            for shard in range(layout.n) if everywhere else np.unique(owners):
                mine = np.flatnonzero(owners == shard)
                some = values if self.kind == codec.RENORM else values[mine]
                by_shard.setdefault(int(shard), []).append((entry, ids[mine], some))
        for shard, tables in by_shard.items():
            yield PushPart(
                layout.epoch,
                shard,
                tables,
                self.push,
                self.kind,
                self.wire,
                self.max_norm,
                self.norm_type,
                names=list(self.names),
                maybe_applied=self.maybe_applied,
            )


@dataclass
class StepPart(PushPart):
    """A push to one shard and a pull from it in one request: the pull sees the push.

    pull: from the same shard, routed by the same layout.
    later: where the pull goes if the layout changes, to be done when all of the push is.
    """

    pull: PullPart = field(default_factory=lambda: PullPart(0, 0, []))
    later: list[PullPart] = field(default_factory=list)

    method = methods.STEP

    @classmethod
    def of(cls, push: PushPart, pull: PullPart, later: list[PullPart]) -> StepPart:
        """The two in one."""
        return cls(
            push.epoch, push.shard, push.tables, push.push, push.kind, push.wire, pull=pull, later=later
        )

    @property
    def reply_bytes(self) -> int:
        """How long its reply can be."""
        return 64 + self.pull.reply_bytes

    def encode(self, header: pb.Header, **numbers: int) -> list[Buffer]:
        """The request."""
        return codec.Step(self.message(header, **numbers), self.pull.message(header)).encode()

    def accept(self, data: bytes | memoryview) -> None:
        """The shard has it; take the rows. Raises InvalidRequest."""
        self.pull.take(codec.StepReply.decode(data).pull)
        self.acked = True

    def split(self, layout: Layout) -> Iterator[PushPart]:
        """The push, split anew; the pull comes later."""
        self.later.append(self.pull)
        return super().split(layout)


@dataclass
class Outcome:
    """What became of a call whose first attempt was made in `direct.py`.

    Attributes:
        done: parts of a push that shards have acked.
        left: those that are to be sent in the usual way.
        rows: what was to be pulled, table by table; None if it is to be pulled in the usual way.
    """

    done: list[PushPart] = field(default_factory=list)
    left: list[PushPart] = field(default_factory=list)
    rows: list[np.ndarray] | None = None


def chunks(bounds: np.ndarray, width: int) -> Iterator[tuple[int, int, int]]:
    """(shard, begin, end) runs of a route, each of about CHUNK_BYTES of rows."""
    step = max(1, CHUNK_BYTES // (4 * width))
    for shard in range(len(bounds) - 1):
        begin, end = int(bounds[shard]), int(bounds[shard + 1])
        for at in range(begin, end, step):
            yield shard, at, min(at + step, end)


def packed(pieces: Iterable[tuple[int, tuple]], make: Callable[[int, list[tuple]], Part]) -> list[Part]:
    """Put pieces of several tables that go to one shard into as few parts as CHUNK_BYTES allows.

    Args:
        pieces: (shard, (entry, ids, values, or where rows go)); a table stands in a part at most once.
        make: makes a part of (shard, pieces).

    Returns:
        Parts, taking turns between shards, so that all shards start at once.
    """
    closed: dict[int, list[list[tuple]]] = {}
    used: dict[int, int] = {}
    for shard, piece in pieces:
        size = len(piece[1]) * (8 + 4 * piece[0].spec.width)
        groups = closed.setdefault(shard, [])
        fits = groups and used[shard] + size <= CHUNK_BYTES and all(p[0] is not piece[0] for p in groups[-1])
        if fits:
            groups[-1].append(piece)
            used[shard] += size
        else:
            groups.append([piece])
            used[shard] = size
    turns = itertools.zip_longest(*([make(shard, g) for g in groups] for shard, groups in closed.items()))
    return [part for turn in turns for part in turn if part is not None]
