"""The pieces of a pull or a push, one request each. Pure: numbers come from the session.

A part knows what it asks, what to do with the answer, and how it is split anew when the layout changes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ..proto import codec
from ..proto import rowloom_pb2 as pb
from ..proto.codec import Buffer, PartName
from ..proto.errors import InvalidRequest
from ..proto.layout import Layout, owner
from ..proto.spec import TableEntry

CHUNK_BYTES = 1 << 20  # one call carries about this much; several are in flight
Part = TypeVar("Part")
_NO_ROWS = np.empty((0, 1), np.float32)


@dataclass
class PullPart:
    """Distinct ids of one shard, of one or more tables.

    epoch, shard: the layout that it was routed by, and where to.
    tables: (entry, ids [M], rows [M, width] to write the answer to).
    """

    epoch: int
    shard: int
    tables: list[tuple[TableEntry, np.ndarray, np.ndarray]]
    wire: int = codec.FLOAT32
    attempts: int = 0

    method = "/rowloom.v1.Shard/Pull"

    @property
    def rows(self) -> int:
        """How many rows it asks for."""
        return sum(len(ids) for _, ids, _ in self.tables)

    def encode(self, header: pb.Header) -> list[Buffer]:
        """The request."""
        return codec.Pull(header, [(e.number, ids) for e, ids, _ in self.tables], self.wire).encode()

    def accept(self, data: bytes | memoryview) -> None:
        """Write the rows of the reply where they belong. Raises InvalidRequest."""
        reply = codec.PullReply.decode(data)
        if len(reply.blocks) != len(self.tables):
            raise InvalidRequest(f"asked for {len(self.tables)} tables, the reply has {len(reply.blocks)}")
        for block, (entry, ids, rows) in zip(reply.blocks, self.tables, strict=True):
            what = f"rows of table {entry.spec.name!r}"
            rows[...] = codec.from_wire(codec.shaped(block, len(ids), entry.spec.width, what), reply.wire)

    def split(self, layout: Layout) -> Iterator[PullPart]:
        """The same rows, asked of the shards of another layout. Answers go through a scratch array."""
        for entry, ids, rows in self.tables:
            owners = owner(entry.spec, ids, layout.n)
            for shard in np.unique(owners):
                where = np.flatnonzero(owners == shard)
                scratch = np.empty((len(where), entry.spec.width), np.float32)
                yield _Detour(
                    layout.epoch, int(shard), [(entry, ids[where], scratch)], self.wire, 0, rows, where
                )


@dataclass
class _Detour(PullPart):
    """A part of one table whose rows are not next to each other in their destination, final[where]."""

    final: np.ndarray = field(default_factory=lambda: _NO_ROWS)
    where: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def accept(self, data: bytes | memoryview) -> None:
        super().accept(data)
        self.final[self.where] = self.tables[0][2]

    def split(self, layout: Layout) -> Iterator[PullPart]:
        for piece in super().split(layout):
            assert isinstance(piece, _Detour)
            piece.final, piece.where = self.final, self.where[piece.where]
            yield piece


@dataclass
class PushPart:
    """Distinct ids of one shard with their gradients or rows, of one or more tables; applied once.

    epoch, shard, tables: as PullPart's; values [M, width] float32 instead of rows, empty for RENORM.
    names: what it was sent as, newest last; the session adds one for each layout.
    maybe_applied: an attempt ended without an answer.
    """

    epoch: int
    shard: int
    tables: list[tuple[TableEntry, np.ndarray, np.ndarray]]
    push: int
    kind: int = codec.GRADIENTS
    wire: int = codec.FLOAT32
    max_norm: float = 0.0
    norm_type: float = 0.0
    names: list[PartName] = field(default_factory=list)
    attempts: int = 0
    maybe_applied: bool = False
    acked: bool = False

    method = "/rowloom.v1.Shard/Push"

    @property
    def rows(self) -> int:
        """How many rows it changes."""
        return sum(len(ids) for _, ids, _ in self.tables)

    def encode(
        self, header: pb.Header, *, client_id: int, client_epoch: int, low_water: int, oldest_epoch: int
    ) -> list[Buffer]:
        """The request."""
        blocks = [(e.number, ids, self._block(values)) for e, ids, values in self.tables]
        return codec.Push(
            header=header,
            client_id=client_id,
            names=tuple(self.names),
            push=self.push,
            tables=blocks,
            client_epoch=client_epoch,
            low_water=low_water,
            kind=self.kind,
            wire=self.wire,
            oldest_epoch=oldest_epoch,
            max_norm=self.max_norm,
            norm_type=self.norm_type,
        ).encode()

    def _block(self, values: np.ndarray) -> codec.Block:
        return codec.Block(_NO_ROWS[:0]) if self.kind == codec.RENORM else codec.to_wire(values, self.wire)

    def accept(self, data: bytes | memoryview) -> None:
        """The shard has it."""
        codec.decode_push_reply(data)
        self.acked = True

    def split(self, layout: Layout) -> Iterator[PushPart]:
        """The same rows for the shards of another layout. Every piece keeps the old names.

        A table that counts steps goes to every shard, with or without rows, so that all count the same.
        """
        by_shard: dict[int, list[tuple[TableEntry, np.ndarray, np.ndarray]]] = {}
        for entry, ids, values in self.tables:
            owners = owner(entry.spec, ids, layout.n)
            everywhere = self.kind == codec.GRADIENTS and entry.spec.optimizer.counts_steps
            for shard in range(layout.n) if everywhere else np.unique(owners):
                mine = np.flatnonzero(owners == shard)
                some = values if self.kind == codec.RENORM else values[mine]
                by_shard.setdefault(int(shard), []).append((entry, ids[mine], some))
        for shard, tables in by_shard.items():
            yield dataclasses.replace(
                self, epoch=layout.epoch, shard=shard, tables=tables, names=list(self.names), attempts=0
            )


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
        pieces: (shard, (entry, ids, rows or values)); a table stands in a part at most once.
        make: makes a part of (shard, pieces).

    Returns:
        Parts, taking turns between shards, so that all shards start at once.
    """
    closed: dict[int, list[list[tuple]]] = {}
    used: dict[int, int] = {}
    for shard, piece in pieces:
        size = 8 * len(piece[1]) + piece[2].nbytes
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
