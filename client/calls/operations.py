"""Calls from end to end, as operations of a session: check, route, requests, exchange, assemble. No I/O, no threads.

Letters: N ids of a batch, or entries of bags (one id of one bag); B bags; `width` columns of a row laid flat.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...proto import codec
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..inputs import as_bag_grads, as_ids, as_positive, as_rows
from .assembly import Arrived
from .bag_requests import (
    BagGrads,
    Partial,
    PullBagsRequest,
    PushBagsRequest,
    Shares,
    add_up,
    check_sums,
    pull_runs,
    push_runs,
)
from .control import known_layout
from .cutting import cut
from .exchange import Exchange
from .operation import Event, Turn
from .placed import Placed
from .pusher import Pusher
from .requests import Given, PullRequest, PushRequest, Request, Wanted, counted
from .routing import Route, places, split, summing
from .session import Session
from .sums import Sums, latest
from .values import GivenRows, Values
from .wire_types import LARGEST, refuse_overflow, refuse_overflown, wire_of

# One table of a pull, checked: ids of any shape, int64; the number of the wire type.
Asked = tuple[TableEntry, np.ndarray, int]


class Brought(NamedTuple):
    """One table of a push, checked: ids [N], rows or gradients [N, width], their largest absolute value."""

    entry: TableEntry
    ids: np.ndarray
    rows: np.ndarray
    largest: float


@dataclass(eq=False)
class Coming:
    """One table of a pull on its way: ids, edges and inverse as in a Route; shape: of the rows, in the end."""

    entry: TableEntry
    shape: tuple[int, ...]
    ids: np.ndarray
    edges: list[int]
    inverse: np.ndarray
    arrived: Arrived
    wire: int

    def rows(self) -> np.ndarray:
        """What was asked for, when all requests are done. Raises InvalidRequest for rows that did not arrive finite."""
        for rows, where in self.arrived.kept if self.wire != codec.FLOAT32 else ():
            refuse_overflown(self.entry, self.ids[where], rows, self.wire)
        return self.arrived.spread(self.inverse).reshape(self.shape)


class Going(NamedTuple):
    """One table of a push, routed: distinct ids by shard, with their values."""

    entry: TableEntry
    ids: np.ndarray
    edges: list[int]
    values: Values
    everywhere: bool


# ------------------------------------------------------------------------------------------------------- pull, push


def pull(
    session: Session, wanted: Sequence[tuple[TableEntry, Any]], deadline: float, wire: str | None = None
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Rows of ids of each table: ids.shape + row_shape, float32. Raises as `Table.pull`."""
    asked = _asked(wanted, wire)
    layout = session.layout or (yield from known_layout(session, deadline))
    coming = _coming(session, layout, asked)
    yield from Exchange(session, _pulls(session, layout, coming), deadline, nearest=session.nearest).run()
    return [one.rows() for one in coming]


def push(
    session: Session,
    given: Sequence[tuple[TableEntry, Any, Any]],
    deadline: float,
    kind: int = codec.GRADIENTS,
    wire: str | None = None,
) -> Generator[Turn, Event | None, None]:
    """Gradients, or rows to assign, of each table; everything is checked before anything is sent.

    Raises as `Table.push`.
    """
    brought = _brought(given, kind)
    layout = session.layout or (yield from known_layout(session, deadline))
    pusher = session.take_pusher()
    try:
        requests = _pushes(session, pusher, layout, brought, kind, wire)
        yield from Exchange(session, requests, deadline).run()
    finally:
        session.give_back(pusher)


def step(
    session: Session,
    given: Sequence[tuple[TableEntry, Any, Any]],
    wanted: Sequence[tuple[TableEntry, Any]],
    deadline: float,
    wire: str | None = None,
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Push gradients, then pull: one request to each shard that takes part in both, if that is not too long.

    Raises as `push` and `pull`.
    """
    brought = _brought(given, codec.GRADIENTS)
    asked = _asked(wanted, wire)
    layout = session.layout or (yield from known_layout(session, deadline))
    coming = _coming(session, layout, asked)
    later: list[PullRequest] = []
    pusher = session.take_pusher()
    try:
        pushes = _pushes(session, pusher, layout, brought, codec.GRADIENTS, wire)
        exchange = Exchange(session, _fused(pushes, _pulls(session, layout, coming), later), deadline)
        yield from exchange.run()
    finally:
        session.give_back(pusher)
    if later:
        pushed_rows = exchange.pushed_rows if pushes else None
        yield from Exchange(session, later, deadline, pushed_rows).run()
    return [one.rows() for one in coming]


def renorm(
    session: Session, entry: TableEntry, ids: Any, max_norm: Any, norm_type: Any, deadline: float
) -> Generator[Turn, Event | None, None]:
    """Scale long rows down in the table. Raises as `Table.renorm`."""
    max_norm = as_positive(max_norm, "max_norm")
    norm_type = np.inf if norm_type == np.inf else as_positive(norm_type, "norm_type")
    array = as_ids(ids, entry.spec).reshape(-1)
    layout = session.layout or (yield from known_layout(session, deadline))
    distinct, bounds, _ = split(array, session.placed(entry, layout).owners)
    nothing = GivenRows(np.empty((len(distinct), 0), np.float32))
    going = [Going(entry, distinct, bounds.tolist(), nothing, everywhere=False)]
    pusher = session.take_pusher()
    try:
        requests = _cut_push(session, pusher, layout, going, codec.RENORM, codec.FLOAT32, pusher.next_push())
        for request in requests:
            request.max_norm, request.norm_type = max_norm, norm_type
        yield from Exchange(session, counted(requests), deadline).run()
    finally:
        session.give_back(pusher)


# ------------------------------------------------------------------------------------------------------------ check


def pair_of(name: str, pair: Any) -> tuple[Any, Any]:
    """(ids, gradients) of a table. Raises InvalidRequest."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidRequest(f"push takes (ids, gradients) for table {name!r}, got {type(pair).__name__}")  # pyright: ignore[reportUnknownArgumentType]
    return pair[0], pair[1]  # pyright: ignore[reportUnknownVariableType]


def _asked(wanted: Sequence[tuple[TableEntry, Any]], wire: str | None) -> list[Asked]:
    asked: list[Asked] = []
    for entry, ids in wanted:
        asked.append((entry, as_ids(ids, entry.spec), wire_of(entry, wire)))
    return asked


def _brought(given: Sequence[tuple[TableEntry, Any, Any]], kind: int) -> list[Brought]:
    brought: list[Brought] = []
    for entry, ids, values in given:
        array = as_ids(ids, entry.spec)
        rows, largest = as_rows(values, array, entry.spec, "rows" if kind == codec.ASSIGN else "grads")
        brought.append(Brought(entry, array.reshape(-1), rows, largest))
    if kind == codec.GRADIENTS:
        for one in brought:
            _refuse_frozen(one.entry)
    return brought


def _refuse_frozen(entry: TableEntry) -> None:
    if entry.spec.frozen:
        raise InvalidRequest(f"table {entry.spec.name!r} is frozen: it takes no gradients (assign works)")


# --------------------------------------------------------------------------------------------------- route, requests


def _coming(session: Session, layout: Layout, asked: Iterable[Asked]) -> list[Coming]:
    coming: list[Coming] = []
    for entry, ids, wire in asked:
        distinct, bounds, inverse = split(ids.reshape(-1), session.placed(entry, layout).owners)
        arrived = Arrived(len(distinct), entry.spec.width)
        shape = ids.shape + entry.spec.row_shape
        coming.append(Coming(entry, shape, distinct, bounds.tolist(), inverse, arrived, wire))
    return coming


def _pulls(session: Session, layout: Layout, coming: Sequence[Coming]) -> list[PullRequest]:
    """The requests of a pull; each has one wire type."""
    by_wire: dict[int, list[Coming]] = {}
    for one in coming:
        by_wire.setdefault(one.wire, []).append(one)
    requests: list[PullRequest] = []
    for wire, some in by_wire.items():
        routed = [(one.edges, 4 * one.entry.spec.width, False) for one in some]
        for shard, runs in cut(routed, layout.n, session.sizes):
            tables: list[Wanted] = []
            for k, begin, end in runs:
                one = some[k]
                tables.append((one.entry, one.ids[begin:end], one.arrived, slice(begin, end)))
            requests.append(PullRequest(layout.epoch, shard, tables, wire))
    return requests


def _pushes(
    session: Session,
    pusher: Pusher,
    layout: Layout,
    brought: Sequence[Brought],
    kind: int,
    wire: str | None,
) -> list[PushRequest]:
    """The requests of a push, with its number; each id once, in each request one wire type and a table once."""
    by_wire: dict[tuple[int, int], list[Going]] = {}
    seen: dict[int, int] = {}
    for one in brought:
        number = codec.FLOAT32 if kind == codec.ASSIGN else wire_of(one.entry, wire)
        going = _going(one, session.placed(one.entry, layout), kind, number)
        time = seen[one.entry.number] = seen.get(one.entry.number, -1) + 1
        by_wire.setdefault((number, time), []).append(going)
    push_number = pusher.next_push()
    requests: list[PushRequest] = []
    for (number, _), some in by_wire.items():
        requests += _cut_push(session, pusher, layout, some, kind, number, push_number)
    return counted(requests)


def _going(one: Brought, placed: Placed, kind: int, wire: int) -> Going:
    """Route a table's ids. Raises InvalidRequest if the sum of an id's gradients is more than the wire type holds."""
    ids, bounds, order, begins = summing(one.ids, placed.owners)
    edges = bounds.tolist()
    if kind == codec.ASSIGN:
        return Going(one.entry, ids, edges, GivenRows(latest(one.rows, order, begins)), everywhere=False)
    sums = Sums(one.rows, order, begins, places(len(ids)))
    safe = LARGEST[wire] / 2  # however a sum is rounded on its way
    if one.largest * len(one.ids) > safe and one.largest * sums.most > safe:
        refuse_overflow(one.entry, ids, sums.array(), wire)
    return Going(one.entry, ids, edges, sums, placed.everywhere)


def _cut_push(
    session: Session,
    pusher: Pusher,
    layout: Layout,
    going: Sequence[Going],
    kind: int,
    wire: int,
    push_number: int,
) -> list[PushRequest]:
    routed = [(one.edges, 4 * one.entry.spec.width, one.everywhere) for one in going]
    requests: list[PushRequest] = []
    for shard, runs in cut(routed, layout.n, session.sizes):
        tables: list[Given] = []
        for k, begin, end in runs:
            one = going[k]
            tables.append((one.entry, one.ids[begin:end], one.values[begin:end]))
        requests.append(PushRequest(layout.epoch, shard, tables, pusher, push_number, kind, wire))
    return requests


def _fused(
    pushes: Sequence[PushRequest], pulls: Sequence[PullRequest], later: list[PullRequest]
) -> list[Request]:
    """What can go at once. A shard's pulls go with its only push, or else `later`: when its pushes are done."""
    if not pulls:
        return list(pushes)
    pushed: dict[int, list[PushRequest]] = {}
    for request in pushes:
        pushed.setdefault(request.shard, []).append(request)
    out: list[Request] = list(pushes)
    for request in pulls:
        mine = pushed.get(request.shard)
        if mine is None:
            out.append(request)
        elif len(mine) == 1 and mine[0].pull is None:
            mine[0].pull, mine[0].later = request, later
        else:
            later.append(request)
    return out


# ------------------------------------------------------------------------------------------------------------- bags


def pull_bags(
    session: Session, entry: TableEntry, ids: Any, shares: Shares, shape: tuple[int, ...], deadline: float
) -> Generator[Turn, Event | None, np.ndarray]:
    """The sum of factor * row over the entries of each bag: shape + row_shape, float32. Raises as `Table.pull_bags`.

    ids: [N] integers; shares: of the same N entries, bags never falling; shape: of the bags.
    """
    spec = entry.spec
    checked = as_ids(ids, spec)
    layout = session.layout or (yield from known_layout(session, deadline))
    sums: Partial = []
    requests: list[PullBagsRequest] = []
    owners = layout.owner(entry, checked)
    for shard in range(layout.n):
        mine = np.flatnonzero(owners == shard)
        its_ids, its_shares = checked[mine], shares[mine]
        for number, run in enumerate(pull_runs(its_shares.bags, spec.width, session.sizes)):
            requests.append(
                PullBagsRequest(
                    layout.epoch,
                    shard,
                    [],
                    entry=entry,
                    ids=its_ids[run],
                    shares=its_shares[run],
                    key=(shard, number),
                    sums=sums,
                )
            )
    requests.sort(key=lambda request: request.key[::-1])  # shards take turns, so that all start at once
    yield from Exchange(session, requests, deadline, nearest=session.nearest).run()
    out = np.zeros((int(np.prod(shape, dtype=np.int64)), spec.width), np.float32)
    add_up(sums, out)
    return out.reshape(shape + spec.row_shape)


def push_bags(
    session: Session,
    entry: TableEntry,
    ids: Any,
    shares: Shares,
    shape: tuple[int, ...],
    grads: Any,
    deadline: float,
) -> Generator[Turn, Event | None, None]:
    """Apply gradients of bags, shape + row_shape; everything is checked before anything is sent.

    Raises as `Table.push_bags`.
    """
    spec = entry.spec
    checked = as_ids(ids, spec)
    values = BagGrads(shares, as_bag_grads(grads, shape, spec))
    check_sums(entry, checked, values)
    _refuse_frozen(entry)
    layout = session.layout or (yield from known_layout(session, deadline))
    placed = session.placed(entry, layout)
    runs = push_runs(
        Route(*split(checked, placed.owners)), shares.bags, len(values.grads), spec.width, session.sizes
    )
    by_bag = list(runs.by_bag)
    if placed.everywhere:
        without = set(range(layout.n)) - {shard for shard, _ in [*by_bag, *runs.by_id]}
        by_bag += [(shard, np.empty(0, np.int64)) for shard in sorted(without)]
    pusher = session.take_pusher()
    try:
        number = pusher.next_push()
        requests: list[PushRequest] = [
            PushBagsRequest(layout.epoch, shard, [(entry, checked[some], values[some])], pusher, number)
            for shard, some in by_bag
        ]
        for shard, some in runs.by_id:
            given = entry, checked[some], values[some]
            requests += _expanded(session, pusher, layout, given, shard, number)
        yield from Exchange(session, counted(requests), deadline).run()
    finally:
        session.give_back(pusher)


def _expanded(
    session: Session, pusher: Pusher, layout: Layout, given: Given, shard: int, number: int
) -> Iterator[PushRequest]:
    """Entries of bags as gradients of ids, in requests to one shard."""
    entry, ids, values = given
    assert isinstance(values, BagGrads)
    distinct, grads = values.by_id(ids)
    routed = [0, len(distinct)], 4 * entry.spec.width, False
    for _, runs in cut([routed], 1, session.sizes):
        for _, begin, end in runs:
            table = entry, distinct[begin:end], GivenRows(grads[begin:end])
            yield PushRequest(layout.epoch, shard, [table], pusher, number)
