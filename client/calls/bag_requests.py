"""A pull or a push by bag: how entries are cut, sent and put together again. Two more requests. Pure.

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
from ...proto.codec_bags import Entries, PullBags, PullBagsReply
from ...proto.errors import InvalidRequest
from ...proto.framing import size_of
from ...proto.jit import kernel
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from .cutting import RequestSizes
from .operation import Reply, as_array
from .requests import FRAME_BYTES, Given, PullRequest, PushRequest, put_buffers
from .routing import Route, distinct_of, runs_of
from .session import Session
from .sums import Sums
from .values import Values
from .wire_types import LARGEST, refuse_overflow

_ENTRY_BYTES = 16  # id, bag, factor
# Rows that a shard goes through for one request: an entry is a few bytes and a whole row. Others wait meanwhile.
_WORK_BYTES = 64 << 20
_WHOLE_PIECES = 4  # cutting sends gradients of bags more than once: what is no more than this is not cut


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

    def __len__(self) -> int:
        return len(self.shares.bags)

    def array(self) -> np.ndarray:
        """As `Values.array`: the gradient of each entry, [N, width] float32."""
        rows = self.grads[self.shares.bags]
        if self.shares.factors is not None:
            rows *= self.shares.factors[:, None]
        return rows

    def write(self, buffer: np.ndarray, wire: int) -> None:
        """As `Values.write`."""
        codec.write_rows(self.array(), wire, buffer)

    def by_id(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the shards make of it: distinct ids [U] of these [N], and the summed gradient of each [U, width]."""
        distinct, inverse = distinct_of(ids)
        route = Route(distinct, np.array([0, len(distinct)]), inverse)
        return distinct, Sums.of(self.array(), route).array()


Partial = list[tuple[tuple[int, ...], np.ndarray, np.ndarray]]


def add_up(sums: Partial, out: np.ndarray) -> None:
    """Add all sums to those of their bags, in the order of the requests. out: [B, width] float32."""
    for _, bags, partial in sorted(sums, key=lambda one: one[0]):
        together = bags[-1] - bags[0] + 1 == len(bags)  # a slice is added in a third of the time
        out[slice(bags[0], bags[-1] + 1) if together else bags] += partial


@dataclass(eq=False)
class PullBagsRequest(PullRequest):
    """Entries of one shard, of one table: what its rows add to their bags.

    entry, ids [N], shares: the entries.
    key: where it stands among the others. Its sums are added in this order, whatever order the replies have.
    sums: (key, bags [K], their sums [K, width]) of every request that is answered; shared by all of a call.
    """

    entry: TableEntry = field(kw_only=True)
    ids: np.ndarray = field(kw_only=True)
    shares: Shares = field(kw_only=True)
    key: tuple[int, ...] = field(kw_only=True)
    sums: Partial = field(kw_only=True)

    method = methods.PULL_BAGS

    @cached_property
    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Shares.numbered`: entries of a pull come bag after bag."""
        return runs_of(self.shares.bags)

    @property
    def numbers(self) -> list[int]:
        """As `PullRequest.numbers`."""
        return [self.entry.number]

    def prepare(self, session: Session, layout: Layout) -> None:
        """Before each attempt."""
        bags, numbers = self.numbered
        entries = Entries(self.entry.number, self.ids, numbers, self.shares.factors)
        self._framed = PullBags(
            layout.header(self.shard, self.max_staleness_s), [entries], self.wire
        ).encode()
        self.size = size_of(self._framed)
        self.reply_bytes = 2 * FRAME_BYTES + len(bags) * (self.entry.spec.width * 4 + 4)

    def write(self, buffer: np.ndarray, at: int) -> tuple[int, int]:
        """As `Writable.write`."""
        return at, put_buffers(buffer, at, self._framed)

    def accept(self, reply: Reply) -> None:
        """Take the sums of the reply. Raises InvalidRequest."""
        blocks = PullBagsReply.decode(as_array(reply).data)
        if len(blocks.blocks) != 1:
            raise InvalidRequest(f"asked for 1 table, the reply has {len(blocks.blocks)}")
        bags, _ = self.numbered
        what = f"sums of table {self.entry.spec.name!r}"
        block = codec.shaped(blocks.blocks[0], len(bags), self.entry.spec.width, what)
        self.sums.append((self.key, bags, codec.from_wire(block, blocks.wire)))

    def split(self, layout: Layout) -> Iterator[PullRequest]:
        """The same entries, asked of the shards of another layout."""
        owners = layout.owner(self.entry, self.ids)
        for shard in np.unique(owners).tolist():
            mine = np.flatnonzero(owners == shard)
            yield dataclasses.replace(
                self,
                epoch=layout.epoch,
                shard=shard,
                ids=self.ids[mine],
                shares=self.shares[mine],
                key=(*self.key, shard),
            )


@dataclass(eq=False)
class PushBagsRequest(PushRequest):
    """Entries of one shard with the gradients of their bags; applied once, as any push.

    tables: values are BagGrads; all entries of an id are in one request, next to each other and in order.
    """

    @property
    def rows(self) -> int:
        """How many rows it changes."""
        return sum(len(ids[:1]) + np.count_nonzero(np.diff(ids)) for _, ids, _ in self.tables)  # pyright: ignore[reportUnknownArgumentType]

    @property
    def plain(self) -> bool:
        """Bags and factors are the codec's."""
        return False

    def block(self, values: Values) -> codec.Block:
        """Gradients of bags, with what the entries have to do with them."""
        assert isinstance(values, BagGrads)
        block = codec.to_wire(values.grads, self.wire)
        return dataclasses.replace(block, bags=values.shares.bags, factors=values.shares.factors)

    def piece(self, epoch: int, shard: int, tables: list[Given]) -> PushRequest:
        """As any push is split: each entry goes with its id, and takes the gradient of its bag along."""
        piece = super().piece(epoch, shard, tables)
        return PushBagsRequest(
            **{f.name: getattr(piece, f.name) for f in dataclasses.fields(PushRequest) if f.init}
        )


def check_sums(entry: TableEntry, ids: np.ndarray, values: BagGrads) -> None:
    """Raise InvalidRequest where a factor is not finite, or the summed gradient of an id is too large for float32."""
    shares = values.shares
    # The largest product of an entry is that of the largest value of its bag: rounding keeps the order.
    products = np.abs(values.grads).max(axis=1, initial=0.0)[shares.bags]
    if shares.factors is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            products = np.abs(shares.factors * products)
        bad = ~np.isfinite(products)
        if bad.any():
            k = int(bad.argmax())
            raise InvalidRequest(
                f"the gradient of id {int(ids[k])} in bag {int(shares.bags[k])} is not finite: its factor is "
                f"{shares.factors[k]}; table {entry.spec.name!r} takes finite numbers only"
            )
    # No sum of some of them can be larger, however it is rounded.
    if products.sum(dtype=np.float64) > LARGEST[codec.FLOAT32] / 2:
        refuse_overflow(entry, *values.by_id(ids), codec.FLOAT32)


def pull_runs(bags: np.ndarray, width: int, sizes: RequestSizes) -> Iterator[slice]:
    """Runs of a shard's entries, each of about `piece` bytes of request and reply, and not too much work.

    bags: [N], never falling.
    """
    n = len(bags)
    if not n:
        return
    most = min(n, int(bags[-1] - bags[0]) + 1)  # bags
    if _ENTRY_BYTES * n + 4 * width * most < sizes.piece and 4 * width * n < _WORK_BYTES:
        yield slice(0, n)
        return
    new = np.diff(bags, prepend=-1) != 0
    cost = np.cumsum(_ENTRY_BYTES + 4 * width * new)
    work = np.arange(len(bags)) * (4 * width)
    ends = np.diff(cost // sizes.piece) | np.diff(work // _WORK_BYTES)
    yield from _slices(np.flatnonzero(ends) + 1, len(bags))


@dataclass
class PushRuns:
    """How a push by bag is cut: (shard, places of entries grouped by id) of each piece. No id is torn apart.

    Attributes:
        by_bag: pieces that travel with the gradients of their bags.
        by_id: entries whose ids are in too many bags: one summed gradient for each such id is less to send.
    """

    by_bag: list[tuple[int, np.ndarray]] = field(default_factory=list[tuple[int, np.ndarray]])
    by_id: list[tuple[int, np.ndarray]] = field(default_factory=list[tuple[int, np.ndarray]])


def push_runs(route: Route, bags: np.ndarray, count: int, width: int, sizes: RequestSizes) -> PushRuns:
    """Cut a push: a shard's entries in one piece if that is not much, else in several of about `piece` bytes.

    Args:
        route: of the ids of N entries.
        bags: [N] int64 in [0, count).
        count: B.
        width: columns of a gradient.
        sizes: how much goes into one request.
    """
    order, begins = route.groups
    most = (_WHOLE_PIECES * sizes.piece, sizes.piece, _WORK_BYTES)
    cuts, alone = _cuts(order, begins, route.bounds, bags, count, _ENTRY_BYTES, 4 * width, most)
    runs = PushRuns()
    for run in _slices(np.flatnonzero(cuts), len(route.ids)):
        shard = int(np.searchsorted(route.bounds, run.start, side="right")) - 1  # pyright: ignore[reportUnknownArgumentType]
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
def _cuts(
    order: np.ndarray,
    begins: np.ndarray,
    bounds: np.ndarray,
    bags: np.ndarray,
    count: int,
    entry_bytes: int,
    row_bytes: int,
    sizes: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """([U] whether a piece begins at each distinct id, [U] whether the id is better sent alone).

    sizes: bytes of a shard's only piece, and of one of several; of gradients that a shard goes through for one.
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
        if whole <= sizes[0] and row_bytes * len(entries) <= sizes[2]:
            continue
        piece, size, work = piece + 1, 0, 0
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
            more_work = row_bytes * len(entries)
            if size + more > sizes[1] or work + more_work > sizes[2]:
                piece, size, work, cuts[u] = piece + 1, 0, 0, True
                more = entry_bytes * len(entries) + row_bytes * _take(entries, bags, has, piece)
            size, work = size + more, work + more_work
    return cuts, alone


@kernel
def _take(entries: np.ndarray, bags: np.ndarray, has: np.ndarray, piece: int) -> int:
    """How many bags of some entries a piece did not have; now it has them."""
    new = 0
    for k in entries:
        if has[bags[k]] != piece:
            has[bags[k]] = piece
            new += 1
    return new
