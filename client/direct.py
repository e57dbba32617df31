"""The first attempt of a small call of one table over the row lane, without the machinery for what can go wrong.

The messages are the same, framed and read by compiled code (`frames.py`). Whatever is not plain, and whatever a shard
does not simply answer, is left to the usual way: operations that retry, split anew and find out about layouts.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..proto import codec
from ..proto.errors import InvalidRequest
from ..proto.framing import framed, joined
from ..proto.lane import NUMBER
from ..proto.layout import Layout
from ..proto.owners import owners_of
from ..proto.spec import TableEntry
from .assembly import as_rows
from .frames import put_pull, put_push, rows_in, spread
from .helpers import in_pieces
from .lane import BEGIN, MOST_BYTES, Lane, Lanes
from .parts import Outcome, PushPart
from .routing import as_ids, split, summing
from .session import ATTEMPT_TIMEOUT_S, Session, header_of
from .sums import Sums
from .wires import LARGEST

PULL, PUSH, STEP = (NUMBER["/rowloom.v1.Shard/" + name] for name in ("Pull", "Push", "Step"))
MOST_IDS = 1 << 18
MOST_PLANS = 1000
MOST_NAME = 1000  # letters of a cluster's name: it stands in every request, and a lane's space is limited
HEADS = 64  # more than a reply has beside its rows
_F32 = np.dtype("<f4")
_SAFE = LARGEST[codec.FLOAT32] / 2


class Direct:
    """Calls of one client.

    Args:
        lanes: the lanes of this process, or None if rows travel over gRPC.
    """

    def __init__(self, lanes: Callable[[], Lanes | None]) -> None:
        self._lanes = lanes
        self._plans: dict[int, Plan] = {}  # by table number

    def pull(
        self, session: Session, entry: TableEntry, ids: Any, wire: str | None, deadline: float
    ) -> np.ndarray | None:
        """Rows as `Table.pull`; None if they are to be pulled in the usual way. Raises InvalidRequest."""
        lanes, plan = self._ready(session, entry, wire)
        pull = None if lanes is None or plan is None else Pull.of(plan, ids)
        if lanes is None or pull is None:
            return None
        with Taken(lanes, pull.plan.layout, deadline) as taken:
            return _exchange(session, taken, {}, pull).rows

    def push(
        self,
        session: Session,
        given: tuple[TableEntry, Any, Any],
        wanted: tuple[TableEntry, Any] | None,
        wire: str | None,
        deadline: float,
    ) -> Outcome | None:
        """`Table.push`; with ids that are wanted, `Table.step`. None if all of it is to be done in the usual way.

        Raises:
            InvalidRequest: nothing was sent.
        """
        entry, ids, grads = given
        lanes, plan = self._ready(session, entry, wire)
        if lanes is None or plan is None:
            return None
        pull = None
        if wanted is not None:
            theirs = self._plan(session, wanted[0], wire)
            pull = None if theirs is None else Pull.of(theirs, wanted[1])
            if pull is None or pull.plan.layout is not plan.layout:
                return None
        parts = _parts(session, plan, ids, grads)
        if parts is None:
            return None
        with Taken(lanes, plan.layout, deadline) as taken:
            return _exchange(session, taken, parts, pull)

    def _ready(
        self, session: Session, entry: TableEntry, wire: str | None
    ) -> tuple[Lanes | None, Plan | None]:
        """The lanes and the plan of a table, if there are both."""
        lanes = self._lanes()
        plan = None if lanes is None else self._plan(session, entry, wire)
        if lanes is None or plan is None or lanes.lack(shard.address for shard in plan.layout.shards):
            return None, None
        return lanes, plan

    def _plan(self, session: Session, entry: TableEntry, wire: str | None) -> Plan | None:
        """The plan of a table whose rows travel as they are."""
        layout = session.layout
        if layout is None or (wire or entry.spec.wire) != "float32" or len(layout.cluster_id) > MOST_NAME:
            return None
        plan = self._plans.get(entry.number)
        if plan is None or plan.layout is not layout:
            if len(self._plans) > MOST_PLANS:  # of tables that were dropped, mostly
                self._plans.clear()
            plan = self._plans[entry.number] = Plan.of(layout, entry)
        return plan


@dataclass(frozen=True)
class Plan:
    """What all calls of one table have in common while a layout lasts.

    Attributes:
        layout, entry: of whom this is.
        owners: as `proto.owners` has it.
        row_bytes: of one row.
        most: how many ids of a call may be one shard's.
        everywhere: whether a push visits shards that have none of its ids.
        leads: for each shard a PullRequest up to the table.
    """

    layout: Layout
    entry: TableEntry
    owners: np.ndarray
    row_bytes: int
    most: int
    everywhere: bool
    leads: list[np.ndarray]

    @classmethod
    def of(cls, layout: Layout, entry: TableEntry) -> Plan:
        """The plan of a table."""
        headers = [header_of(layout, shard).SerializeToString() for shard in range(layout.n)]
        row_bytes = 4 * entry.spec.width
        return cls(
            layout,
            entry,
            owners_of(entry.spec, layout.n),
            row_bytes,
            MOST_BYTES // (row_bytes + 8),
            entry.spec.optimizer.counts_steps,
            [_array(joined(framed(1, [header]))) for header in headers],
        )

    def takes(self, ids: np.ndarray) -> bool:
        """Whether a call may have so many ids."""
        return 0 < ids.size <= min(self.most * self.layout.n, MOST_IDS)

    def fits(self, edges: list[int]) -> bool:
        """Whether what goes to each shard fits into one request."""
        return edges[-1] <= self.most or max(e - b for b, e in itertools.pairwise(edges)) <= self.most


@functools.cache
def _places() -> np.ndarray:
    return np.arange(MOST_IDS)


def _array(data: bytes) -> np.ndarray:
    # Not of the bytes themselves: compiled code takes longer to recognize arrays that are not to be written to.
    return np.frombuffer(bytearray(data), np.uint8)


@dataclass(frozen=True)
class Pull:
    """The rows that a call wants: of ids of any shape, routed as `Route` has it; edges are its bounds."""

    plan: Plan
    shape: tuple[int, ...]
    ids: np.ndarray
    bounds: np.ndarray
    edges: list[int]
    inverse: np.ndarray

    @classmethod
    def of(cls, plan: Plan, ids: Any) -> Pull | None:
        """Route ids; None if there are none or too many. Raises InvalidRequest."""
        array = as_ids(ids, plan.entry.spec)
        if not plan.takes(array):
            return None
        grouped, bounds, inverse = split(array.reshape(-1), plan.owners)
        edges = bounds.tolist()
        return cls(plan, array.shape, grouped, bounds, edges, inverse) if plan.fits(edges) else None

    def size(self, shard: int) -> int:
        """Bytes of the rows that a shard is asked for."""
        return self.plan.row_bytes * (self.edges[shard + 1] - self.edges[shard])

    def put(self, shard: int, space: np.ndarray, at: int, *, inside: bool = False) -> int:
        """Write the request to a shard, as a message or inside of a StepRequest; returns where it ends."""
        begin, end = self.edges[shard], self.edges[shard + 1]
        return put_pull(
            space, at, self.plan.leads[shard], self.plan.entry.number, self.ids, begin, end, inside
        )

    def rows(self, heard: dict[int, tuple[Lane, int, int]], steps: Container[int]) -> np.ndarray | None:
        """What was asked for, from the replies; None if one of them is not as expected.

        steps: shards whose reply is a StepReply.
        """
        starts = np.zeros(self.plan.layout.n, np.int64)
        for shard, (lane, begin, end) in heard.items():
            size = self.size(shard)
            at = rows_in(lane.space, begin, end, size, shard in steps) if size else 0
            if at < 0:
                return None
            starts[shard] = lane.base + at
        spec = self.plan.entry.spec
        out = np.empty((len(self.inverse), spec.width), np.float32)
        in_pieces(lambda b, e: spread(starts, self.bounds, self.inverse[b:e], out[b:e]), len(out), out.nbytes)
        return out.reshape(self.shape + spec.row_shape)


def _parts(session: Session, plan: Plan, ids: Any, grads: Any) -> dict[int, PushPart] | None:
    """The parts of a push by shard; None if it is not plain, or its sums need a closer look. Raises InvalidRequest."""
    spec = plan.entry.spec
    array = as_ids(ids, spec)
    if spec.frozen or not plan.takes(array):
        return None
    rows, largest = as_rows(grads, array, spec, "grads")
    distinct, bounds, order, begins = summing(array.reshape(-1), plan.owners)
    edges = bounds.tolist()
    if largest * array.size > _SAFE or not plan.fits(edges):
        return None
    sums, number = Sums(rows, order, begins, _places()[: len(distinct)]), session.next_push()
    return {
        shard: PushPart(plan.layout.epoch, shard, [(plan.entry, distinct[b:e], sums[b:e])], number)
        for shard, (b, e) in enumerate(itertools.pairwise(edges))
        if b < e or plan.everywhere
    }


def _exchange(session: Session, taken: Taken, parts: dict[int, PushPart], pull: Pull | None) -> Outcome:
    """Ask every shard that has to do with a call, then hear them."""
    pulled = [] if pull is None else [shard for shard in range(taken.layout.n) if pull.size(shard)]
    shards = sorted({*parts, *pulled})
    if taken.take(shards):
        for shard in shards:
            _ask(session, taken, shard, parts.get(shard), pull if shard in pulled else None)
        taken.hear()
    outcome = Outcome()
    for shard, part in parts.items():
        if shard in taken.heard:
            part.acked = True
            session.finish(part)
            outcome.done.append(part)
        else:
            part.maybe_applied = shard in taken.asked
            outcome.left.append(part)
    if pull is not None and all(shard in taken.heard for shard in pulled):
        outcome.rows = pull.rows(taken.heard, parts)
    return outcome


def _ask(session: Session, taken: Taken, shard: int, part: PushPart | None, pull: Pull | None) -> None:
    """Send one request: a Pull, a Push or a Step."""
    space = taken.lanes[shard].space
    reply_bytes = HEADS + (0 if pull is None else pull.size(shard))
    if part is None:
        assert pull is not None
        taken.ask(shard, PULL, BEGIN, pull.put(shard, space, BEGIN), reply_bytes)
        return
    entry, ids, sums = part.tables[0]
    assert isinstance(sums, Sums)
    lead, row_bytes = _array(session.head(part, taken.layout)), 4 * entry.spec.width
    begin, at = put_push(space, BEGIN, lead, entry.number, ids, row_bytes, pull is not None)
    end = at + row_bytes * len(ids)
    sums.write(space[at:end].view(_F32).reshape(len(ids), entry.spec.width))
    if pull is not None:
        end = pull.put(shard, space, end, inside=True)
    taken.ask(shard, PUSH if pull is None else STEP, begin, end, reply_bytes)


class Taken:
    """The lanes of one call, each asked once at the most. Not shared between threads.

    Attributes:
        lanes: by shard.
        asked: shards whose answer is still to come.
        heard: shard -> its lane, and where in the lane's space the reply begins and ends; refusals are left out.
    """

    def __init__(self, free: Lanes, layout: Layout, deadline: float) -> None:
        self.layout = layout
        self.lanes: dict[int, Lane] = {}
        self.asked: list[int] = []
        self.heard: dict[int, tuple[Lane, int, int]] = {}
        self._free = free
        self._until = min(deadline, time.monotonic() + ATTEMPT_TIMEOUT_S)

    def __enter__(self) -> Taken:
        return self

    def __exit__(self, *exc: object) -> None:
        for shard, lane in self.lanes.items():
            if shard in self.asked:
                lane.close()
            else:
                self._free.give_back(self.layout.shards[shard].address, lane)

    def take(self, shards: Iterable[int]) -> bool:
        """Whether there is a lane to each of the shards."""
        for shard in shards:
            lane = self._free.take(self.layout.shards[shard].address, self._until - time.monotonic())
            if lane is None:
                return False
            self.lanes[shard] = lane
        return True

    def ask(self, shard: int, method: int, begin: int, end: int, reply_bytes: int) -> None:
        """Send the request that lies in the lane's space."""
        self.asked.append(shard)
        try:
            self.lanes[shard].ask(method, begin, end, reply_bytes)
        except OSError:
            self._lost(shard)

    def hear(self) -> None:
        """Wait for all answers."""
        for shard in list(self.asked):
            lane = self.lanes[shard]
            try:
                place = lane.hear(self._until)
            except (OSError, InvalidRequest):
                self._lost(shard)
                continue
            self.asked.remove(shard)
            if place is not None:
                self.heard[shard] = (lane, *place)

    def _lost(self, shard: int) -> None:
        self.lanes[shard].close()
        self._free.lost(self.layout.shards[shard].address)
