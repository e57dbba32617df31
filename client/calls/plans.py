"""Tables as a direct call sees them: what is asked of each shard, written where it is sent from, and what comes back.

The bytes are those of `proto/codec.py`. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...proto.framing import framed, joined
from ...proto.layout import Layout
from ...proto.owners import owners_of
from ...proto.spec import TableEntry
from ..carriers.lane import MOST_BYTES, Lane
from ..cores import in_pieces
from .frames import pull_bytes, push_bytes, put_pull, put_push, rows_in, spread
from .requests import PushPart
from .routing import as_ids, split
from .sums import Sums

MOST_IDS = 1 << 18
HEADS = 64  # more than a reply has beside its rows, for each table
_F32 = np.dtype("<f4")
_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Plan:
    """What all calls of one table have in common while a layout lasts.

    Attributes:
        layout, entry: of whom this is.
        owners: as `proto.owners` has it.
        row_bytes: of one row.
        everywhere: whether a push visits shards that have none of its ids.
        leads: for each shard a PullRequest up to the first table.
    """

    layout: Layout
    entry: TableEntry
    owners: np.ndarray
    row_bytes: int
    everywhere: bool
    leads: list[np.ndarray]

    @classmethod
    def of(cls, layout: Layout, entry: TableEntry) -> Plan:
        """The plan of a table."""
        headers = [layout.header(shard).SerializeToString() for shard in range(layout.n)]
        return cls(
            layout,
            entry,
            owners_of(entry.spec, layout.n),
            4 * entry.spec.width,
            entry.spec.optimizer.counts_steps,
            [as_bytes(joined(framed(1, [header]))) for header in headers],
        )

    def takes(self, ids: np.ndarray) -> bool:
        """Whether a call may have so many ids."""
        return ids.size <= MOST_IDS and ids.size * (self.row_bytes + 8) <= MOST_BYTES * self.layout.n


def fit(routed: Sequence[tuple[Plan, list[int]]]) -> bool:
    """Whether what goes to each shard, of tables with the edges of their routes, fits into one request."""
    whole = 0
    for plan, edges in routed:
        whole += edges[-1] * (plan.row_bytes + 8)
    if whole <= MOST_BYTES:
        return True
    shards = range(routed[0][0].layout.n)
    return (
        max(sum((edges[s + 1] - edges[s]) * (plan.row_bytes + 8) for plan, edges in routed) for s in shards)
        <= MOST_BYTES
    )


def as_bytes(data: bytes) -> np.ndarray:
    """Bytes as an array."""
    # Not of the bytes themselves: compiled code takes longer to recognize arrays that are not to be written to.
    return np.frombuffer(bytearray(data), np.uint8)


@dataclass
class Pull:
    """The rows that a call wants of one table: of ids of any shape, routed as `Route` has it.

    Attributes:
        edges: bounds as numbers.
        starts: [n] int64, the addresses of each shard's rows when they are here.
    """

    plan: Plan
    shape: tuple[int, ...]
    ids: np.ndarray
    bounds: np.ndarray
    edges: list[int]
    inverse: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, plan: Plan, ids: Any) -> Pull | None:
        """Route ids; None if there are too many. Raises InvalidRequest."""
        array = as_ids(ids, plan.entry.spec)
        if not plan.takes(array):
            return None
        grouped, bounds, inverse = split(array.reshape(-1), plan.owners)
        starts = np.zeros(plan.layout.n, np.int64)
        return cls(plan, array.shape, grouped, bounds, bounds.tolist(), inverse, starts)

    def count(self, shard: int) -> int:
        """How many ids are a shard's."""
        return self.edges[shard + 1] - self.edges[shard]

    def rows(self) -> np.ndarray:
        """What was asked for."""
        spec = self.plan.entry.spec
        out = np.empty((len(self.inverse), spec.width), np.float32)
        in_pieces(
            lambda b, e: spread(self.starts, self.bounds, self.inverse[b:e], out[b:e]), len(out), out.nbytes
        )
        return out.reshape(self.shape + spec.row_shape)


class Pulls:
    """The rows that a call wants, of any number of tables.

    Attributes:
        each: by table.
        asked: for each shard that owns some of the ids, the tables of these.
    """

    def __init__(self, each: list[Pull]) -> None:
        self.each = each
        self.asked: dict[int, list[Pull]] = {}
        for pull in each:
            begin = 0
            for shard, end in enumerate(pull.edges[1:]):
                if begin < end:
                    self.asked.setdefault(shard, []).append(pull)
                begin = end

    @classmethod
    def of(cls, plans: Sequence[Plan], ids: Sequence[Any]) -> Pulls | None:
        """What is wanted of each table; None if it is not plain. Raises InvalidRequest."""
        each = []
        for plan, some in zip(plans, ids, strict=True):
            pull = Pull.of(plan, some)
            if pull is None:
                return None
            each.append(pull)
        return cls(each) if fit([(pull.plan, pull.edges) for pull in each]) else None

    def reply_bytes(self, shard: int) -> int:
        """Enough for a shard's reply."""
        size = HEADS
        for pull in self.asked.get(shard, ()):
            size += HEADS + pull.plan.row_bytes * pull.count(shard)
        return size

    def put(self, shard: int, space: np.ndarray, at: int, *, inside: bool = False) -> int:
        """Write the request to a shard, as a message or inside of a StepRequest; returns where it ends."""
        first, *others = self.asked[shard]
        rest, lead = 0, first.plan.leads[shard]
        for pull in others:
            rest += pull_bytes(pull.plan.entry.number, pull.count(shard))
        for pull in self.asked[shard]:
            begin, end = pull.edges[shard], pull.edges[shard + 1]
            at = put_pull(space, at, lead, rest, pull.plan.entry.number, pull.ids, begin, end, inside)
            lead, rest, inside = _NOTHING, 0, False
        return at

    def take(self, shard: int, lane: Lane, at: int, end: int, *, inside: bool) -> bool:
        """Find the rows in a shard's reply, at [at, end) of the lane's space; False if it is not as expected.

        inside: it is a StepReply.
        """
        asked = self.asked[shard]
        for pull in asked:
            size = pull.plan.row_bytes * pull.count(shard)
            at = rows_in(lane.space, at, end, size, inside, pull is asked[-1])
            if at < 0:
                return False
            pull.starts[shard] = lane.base + at
            at, inside = at + size, False
        return True

    def rows(self) -> list[np.ndarray]:
        """What was asked for: all replies have been taken."""
        return [pull.rows() for pull in self.each]


def put_part(
    part: PushPart, lead: np.ndarray, space: np.ndarray, at: int, *, inside: bool
) -> tuple[int, int]:
    """Write the request of a part of gradients; returns where it begins and ends.

    lead: the request up to its first table; inside: it is the first half of a StepRequest.
    """
    rest = sum(push_bytes(entry.number, len(ids), 4 * entry.spec.width) for entry, ids, _ in part.tables[1:])
    first = None
    for entry, ids, sums in part.tables:
        width = entry.spec.width
        begin, at = put_push(space, at, lead, rest, entry.number, ids, 4 * width, inside)
        first = begin if first is None else first
        end = at + 4 * width * len(ids)
        assert isinstance(sums, Sums)
        sums.write(space[at:end].view(_F32).reshape(len(ids), width))
        at, lead, rest, inside = end, _NOTHING, 0, False
    assert first is not None
    return first, at
