"""The first attempt of a small call over the row lane, without the machinery for what can go wrong.

The messages are the same, framed and read by compiled code (`plans.py`, `frames.py`). Whatever is not plain, and
whatever a shard does not simply answer, is left to the usual way: operations that retry, split anew and find out about
layouts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ...proto import codec, methods
from ...proto.errors import InvalidRequest
from ...proto.lane import NUMBER
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..carriers.lane import BEGIN, Lane, Lanes
from .assembly import as_rows
from .plans import MOST_IDS, Plan, Pulls, as_bytes, fit, put_part
from .requests import Outcome, PushPart
from .routing import as_ids, summing
from .session import ATTEMPT_TIMEOUT_S, Session
from .sums import Sums
from .wire_types import LARGEST

PULL, PUSH, STEP = (NUMBER[name] for name in (methods.PULL, methods.PUSH, methods.STEP))
MOST_PLANS = 1000
MOST_TABLES = 256  # in a call
MOST_NAME = 1000  # letters of a cluster's name: it stands in every request, and a lane's space is limited
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
        self, session: Session, wanted: Sequence[tuple[TableEntry, Any]], wire: str | None, deadline: float
    ) -> list[np.ndarray] | None:
        """Rows as `operations.pull`; None if they are to be pulled in the usual way. Raises InvalidRequest."""
        lanes, plans = self._ready(session, [entry for entry, _ in wanted], wire)
        pulls = None if lanes is None else Pulls.of(plans, [ids for _, ids in wanted])
        if lanes is None or pulls is None:
            return None
        with Taken(lanes, plans[0].layout, deadline) as taken:
            return _exchange(session, taken, {}, pulls).rows

    def push(
        self,
        session: Session,
        given: Sequence[tuple[TableEntry, Any, Any]],
        wanted: Sequence[tuple[TableEntry, Any]],
        wire: str | None,
        deadline: float,
    ) -> Outcome | None:
        """As `operations.push`; with ids that are wanted, `step`. None if all of it is to be done in the usual way.

        Raises:
            InvalidRequest: nothing was sent.
        """
        entries = [entry for entry, *_ in (*given, *wanted)]
        lanes, plans = self._ready(session, entries, wire)
        pulls = None if lanes is None else Pulls.of(plans[len(given) :], [ids for _, ids in wanted])
        if lanes is None or pulls is None:
            return None
        parts = _parts(session, plans, given)
        if parts is None:
            return None
        with Taken(lanes, plans[0].layout, deadline) as taken:
            return _exchange(session, taken, parts, pulls)

    def _ready(
        self, session: Session, entries: Sequence[TableEntry], wire: str | None
    ) -> tuple[Lanes | None, list[Plan]]:
        """The lanes and the tables' plans; no lanes if there is not all of that."""
        lanes, layout = self._lanes(), session.layout
        if lanes is None or layout is None or not 0 < len(entries) <= MOST_TABLES:
            return None, []
        if lanes.lack(shard.address for shard in layout.shards):
            return None, []
        plans = []
        for entry in entries:
            plan = self._plan(layout, entry, wire)
            if plan is None:
                return None, []
            plans.append(plan)
        return lanes, plans

    def _plan(self, layout: Layout, entry: TableEntry, wire: str | None) -> Plan | None:
        """The plan of a table whose rows travel as they are."""
        if (wire or entry.spec.wire) != "float32" or len(layout.cluster_id) > MOST_NAME:
            return None
        plan = self._plans.get(entry.number)
        if plan is None or plan.layout is not layout:
            if len(self._plans) > MOST_PLANS:  # of tables that were dropped, mostly
                self._plans.clear()
            plan = self._plans[entry.number] = Plan.of(layout, entry)
        return plan


@functools.cache
def _places() -> np.ndarray:
    return np.arange(MOST_IDS)


def _parts(
    session: Session, plans: Sequence[Plan], given: Sequence[tuple[TableEntry, Any, Any]]
) -> dict[int, PushPart] | None:
    """The parts of a push by shard; None if it is not plain, or its sums need a closer look. Raises InvalidRequest."""
    summed, numbers = [], set()
    for plan, (entry, ids, grads) in zip(plans, given, strict=False):
        array = as_ids(ids, entry.spec)
        if entry.spec.frozen or entry.number in numbers or not plan.takes(array):
            return None
        numbers.add(entry.number)
        rows, largest = as_rows(grads, array, entry.spec, "grads")
        distinct, bounds, order, begins = summing(array.reshape(-1), plan.owners)
        if largest * array.size > _SAFE:
            return None
        summed.append(
            (plan, bounds.tolist(), distinct, Sums(rows, order, begins, _places()[: len(distinct)]))
        )
    if not fit([(plan, edges) for plan, edges, _, _ in summed]):
        return None
    number, layout = session.next_push(), plans[0].layout
    parts = {}
    for shard in range(layout.n):
        tables = [
            (plan.entry, distinct[edges[shard] : edges[shard + 1]], sums[edges[shard] : edges[shard + 1]])
            for plan, edges, distinct, sums in summed
            if edges[shard] < edges[shard + 1] or plan.everywhere
        ]
        if tables:
            parts[shard] = PushPart(layout.epoch, shard, tables, number)
    return parts


def _exchange(session: Session, taken: Taken, parts: dict[int, PushPart], pulls: Pulls) -> Outcome:
    """Ask every shard that has to do with a call, then hear them."""
    shards = sorted({*parts, *pulls.asked})
    if taken.take(shards):
        for shard in shards:
            _ask(session, taken, shard, parts.get(shard), pulls)
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
    if pulls.each and all(
        shard in taken.heard and pulls.take(shard, *taken.heard[shard], inside=shard in parts)
        for shard in pulls.asked
    ):
        outcome.rows = pulls.rows()
    return outcome


def _ask(session: Session, taken: Taken, shard: int, part: PushPart | None, pulls: Pulls) -> None:
    """Send one request: a Pull, a Push or a Step."""
    space, room = taken.lanes[shard].space, pulls.reply_bytes(shard)
    if part is None:
        taken.ask(shard, PULL, BEGIN, pulls.put(shard, space, BEGIN), room)
        return
    fused = shard in pulls.asked
    begin, end = put_part(part, as_bytes(session.head(part, taken.layout)), space, BEGIN, inside=fused)
    if fused:
        end = pulls.put(shard, space, end, inside=True)
    taken.ask(shard, STEP if fused else PUSH, begin, end, room)


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
