"""The pieces of a pull or a push by bag, one request each: how entries are cut, sent and put together again. Pure.

Letters: N entries (one id of one bag), B bags of the caller, K bags that a piece has entries of.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...proto import codec, methods
from ...proto import rowloom_pb2 as pb
from ...proto.codec import Buffer
from ...proto.codec_bags import Entries, PullBags, PullBagsReply
from ...proto.errors import InvalidRequest
from ...proto.jit import kernel
from ...proto.layout import Layout, owner
from ...proto.spec import TableEntry
from .requests import CHUNK_BYTES, PullPart, PushPart
from .routing import Route, distinct_of
from .sums import Sums

_ENTRY_BYTES = 16  # id, bag, factor
_WHOLE_CHUNKS = 4  # cutting sends gradients of bags more than once: what is no longer than this is not cut


@dataclass(frozen=True)
class Shares:
    """What entries have to do with their bags.

    Attributes:
        bags: [N] int64, the bag of each entry.
        factors: [N] float32, what its row or gradient is multiplied with; None for 1.
    """

    bags: np.ndarray
    factors: np.ndarray | None

    def __getitem__(self, some: np.ndarray | slice) -> Shares:
        return Shares(self.bags[some], None if self.factors is None else self.factors[some])

    @cached_property
    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """The bags that there are entries of [K], and the number in these of each entry's [N]."""
        return distinct_of(self.bags)


@dataclass(frozen=True)
class BagGrads:
    """Gradients of bags, in place of the gradients of ids that they stand for.

    Attributes:
        shares: of each entry: its gradient is factor * grads[bag].
        grads: [B, width] float32.
    """

    shares: Shares
    grads: np.ndarray

    def __getitem__(self, some: np.ndarray | slice) -> BagGrads:
        """The same for some of the entries, with no other bags than theirs."""
        shares = self.shares[some]
        bags, numbers = shares.numbered
        return BagGrads(Shares(numbers, shares.factors), self.grads[bags])

    def by_id(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the shards make of it: distinct ids [U] of these [N], and the summed gradient of each [U, width]."""
        rows = self.grads[self.shares.bags]
        if self.shares.factors is not None:
            rows *= self.shares.factors[:, None]
        distinct, inverse = distinct_of(ids)
        return distinct, Sums.of(rows, Route(distinct, np.array([0, len(distinct)]), inverse)).array()


Partial = list[tuple[tuple[int, ...], np.ndarray, np.ndarray]]


@dataclass
class PullBagsPart(PullPart):
    """Entries of one shard, of one table: what its rows add to their bags.

    tables: one (entry, ids [N], shares).
    key: where it stands among the other parts. Its sums are added in this order, whatever order the replies have.
    sums: (key, bags [K], their sums [K, width]) of every part that is answered; shared by all parts of a pull.
    """

    tables: list[tuple[TableEntry, np.ndarray, Shares]]  # type: ignore[assignment]
    key: tuple[int, ...] = ()
    sums: Partial = field(default_factory=list)

    method = methods.PULL_BAGS

    @property
    def reply_bytes(self) -> int:
        """How long its reply can be."""
        ((entry, _, shares),) = self.tables
        return 128 + len(shares.numbered[0]) * (entry.spec.width * 4 + 4)

    def encode(self, header: pb.Header) -> list[Buffer]:
        """The request."""
        ((entry, ids, shares),) = self.tables
        _, numbers = shares.numbered
        return PullBags(header, [Entries(entry.number, ids, numbers, shares.factors)], self.wire).encode()

    def accept(self, data: bytes | memoryview) -> None:
        """Take the sums of the reply. Raises InvalidRequest."""
        ((entry, _, shares),) = self.tables
        reply = PullBagsReply.decode(data)
        if len(reply.blocks) != 1:
            raise InvalidRequest(f"asked for 1 table, the reply has {len(reply.blocks)}")
        bags, _ = shares.numbered
        what = f"sums of table {entry.spec.name!r}"
        block = codec.shaped(reply.blocks[0], len(bags), entry.spec.width, what)
        self.sums.append((self.key, bags, codec.from_wire(block, reply.wire)))

    def split(self, layout: Layout) -> Iterator[PullPart]:
        """The same entries, asked of the shards of another layout."""
        ((entry, ids, shares),) = self.tables
        owners = owner(entry.spec, ids, layout.n)
        for shard in np.unique(owners).tolist():
            mine = np.flatnonzero(owners == shard)
            yield dataclasses.replace(
                self,
                epoch=layout.epoch,
                shard=shard,
                tables=[(entry, ids[mine], shares[mine])],
                attempts=0,
                key=(*self.key, shard),
            )


@dataclass
class PushBagsPart(PushPart):
    """Entries of one shard with the gradients of their bags; applied once, as any part of a push.

    tables: (entry, ids [N], BagGrads); all entries of an id are in one part, next to each other and in order.
    """

    @property
    def rows(self) -> int:
        """How many rows it changes."""
        return sum(len(ids[:1]) + np.count_nonzero(np.diff(ids)) for _, ids, _ in self.tables)

    def _block(self, values: BagGrads) -> codec.Block:  # type: ignore[override]
        block = codec.to_wire(values.grads, self.wire)
        return dataclasses.replace(block, bags=values.shares.bags, factors=values.shares.factors)

    def split(self, layout: Layout) -> Iterator[PushPart]:
        """As any part is split: each entry goes with its id, and takes the gradient of its bag along."""
        for piece in super().split(layout):
            yield PushBagsPart(**{f.name: getattr(piece, f.name) for f in dataclasses.fields(PushPart)})


def pull_runs(bags: np.ndarray, width: int) -> Iterator[slice]:
    """Runs of a shard's entries, each of about CHUNK_BYTES of request and reply. bags: [N], never falling."""
    new = np.diff(bags, prepend=-1) != 0
    cost = np.cumsum(_ENTRY_BYTES + 4 * width * new)
    yield from _slices(np.flatnonzero(np.diff(cost // CHUNK_BYTES)) + 1, len(bags))


@dataclass
class PushRuns:
    """How a push by bag is cut: (shard, places of entries grouped by id) of each piece. No id is torn apart.

    Attributes:
        by_bag: pieces that travel with the gradients of their bags.
        by_id: entries whose ids are in too many bags: one summed gradient for each such id is less to send.
    """

    by_bag: list[tuple[int, np.ndarray]] = field(default_factory=list)
    by_id: list[tuple[int, np.ndarray]] = field(default_factory=list)


def push_runs(route: Route, bags: np.ndarray, count: int, width: int) -> PushRuns:
    """Cut a push: a shard's entries in one piece if that is a few CHUNK_BYTES, else in several of about CHUNK_BYTES.

    Args:
        route: of the ids of N entries.
        bags: [N] int64 in [0, count).
        count: B.
        width: columns of a gradient.
    """
    order, begins = route.groups
    limits = (_WHOLE_CHUNKS * CHUNK_BYTES, CHUNK_BYTES)
    cuts, alone = _cuts(order, begins, route.bounds, bags, count, _ENTRY_BYTES, 4 * width, limits)
    runs = PushRuns()
    for run in _slices(np.flatnonzero(cuts), len(route.ids)):
        shard = int(np.searchsorted(route.bounds, run.start, side="right")) - 1
        places = order[begins[run.start] : begins[run.stop]]
        apart = alone[route.inverse[places]]
        for pieces, some in ((runs.by_bag, places[~apart]), (runs.by_id, places[apart])):
            if len(some):
                pieces.append((shard, some))
    return runs


def _slices(cuts: np.ndarray, size: int) -> Iterator[slice]:
    edges = [0, *cuts.tolist(), size] if size else []
    for begin, end in itertools.pairwise(edges):
        if end > begin:
            yield slice(begin, end)


@kernel
def _cuts(order, begins, bounds, bags, count, entry_bytes, row_bytes, limits):
    """([U] whether a piece begins at each distinct id, [U] whether the id is better sent alone).

    limits: bytes of a shard's only piece, and of one of several.
    """
    cuts = np.zeros(len(begins) - 1, np.bool_)
    alone = np.zeros(len(begins) - 1, np.bool_)
    has = np.full(count, -1, np.int64)  # the piece that a bag's gradient is in
    piece = 0
    for shard in range(len(bounds) - 1):
        first, end = bounds[shard], bounds[shard + 1]
        if first == end:
            continue
        piece, cuts[first] = piece + 1, True
        entries = order[begins[first] : begins[end]]
        whole = entry_bytes * len(entries) + row_bytes * _take(entries, bags, has, piece)
        if row_bytes * (end - first) < whole:
            alone[first:end] = True
            continue
        if whole <= limits[0]:
            continue
        piece, size = piece + 1, 0
        for u in range(first, end):
            entries = order[begins[u] : begins[u + 1]]
            # Ids come in the order of their first bags, which others share; further bags are fetched for this id alone.
            further = 0
            for k in entries[1:]:
                further += has[bags[k]] != piece
            if entry_bytes * len(entries) + row_bytes * further > row_bytes:
                alone[u] = True
                continue
            more = entry_bytes * len(entries) + row_bytes * _take(entries, bags, has, piece)
            if size + more > limits[1]:
                piece, size, cuts[u] = piece + 1, 0, True
                more = entry_bytes * len(entries) + row_bytes * _take(entries, bags, has, piece)
            size += more
    return cuts, alone


@kernel
def _take(entries, bags, has, piece):
    """How many bags of some entries a piece did not have; now it has them."""
    new = 0
    for k in entries:
        if has[bags[k]] != piece:
            has[bags[k]] = piece
            new += 1
    return new
