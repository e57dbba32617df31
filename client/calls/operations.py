"""Pull and push from end to end, as operations of a session: route, exchange, assemble. No I/O, no threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...proto import codec
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from .assembly import Arrived, as_rows, latest
from .control import fetch_layout
from .exchange import Exchange
from .requests import Outcome, PullPart, PushPart, StepPart, chunks, packed
from .routing import Route, as_ids, route
from .session import Event, Part, Session, Turn
from .sums import Sums
from .wire_types import LARGEST, refuse_overflow, refuse_overflown, wire_of

Values = np.ndarray | Sums
Pieces = list[tuple[int, tuple[TableEntry, np.ndarray, Values]]]


@dataclass
class Wanted:
    """One table of a pull: where its ids go, and where its rows come in.

    shape: of the rows, in the end. wire: as what they travel.
    """

    entry: TableEntry
    shape: tuple[int, ...]
    route: Route
    arrived: Arrived
    wire: int

    @classmethod
    def of(cls, entry: TableEntry, ids: np.ndarray, wire: int, layout: Layout) -> Wanted:
        """Route ids [any shape] int64."""
        r = route(ids.reshape(-1), entry.spec, layout.n)
        return cls(entry, ids.shape + entry.spec.row_shape, r, Arrived(len(r.ids), entry.spec.width), wire)

    def pieces(self) -> list[tuple[int, tuple]]:
        """(shard, what a PullPart has of the table)."""
        ids = self.route.ids
        runs = chunks(self.route.bounds, self.entry.spec.width)
        return [(shard, (self.entry, ids[b:e], (self.arrived, slice(b, e)))) for shard, b, e in runs]

    def rows(self) -> np.ndarray:
        """What was asked for, when all parts are done."""
        for rows, places in self.arrived.kept if self.wire != codec.FLOAT32 else ():
            refuse_overflown(self.entry, self.route.ids[places], rows, self.wire)
        return self.arrived.spread(self.route.inverse).reshape(self.shape)


@dataclass
class Checked:
    """One table of a push or an assign: ids [N], rows or gradients [N, width], their largest absolute value."""

    entry: TableEntry
    ids: np.ndarray
    rows: np.ndarray
    largest: float

    def sums(self, r: Route, wire: int) -> Sums:
        """The gradient of each distinct id. Raises InvalidRequest if one is more than the wire type holds."""
        sums = Sums.of(self.rows, r)
        safe = LARGEST[wire] / 2  # however a sum is rounded on its way
        if self.largest * len(self.ids) > safe and self.largest * sums.most > safe:
            refuse_overflow(self.entry, r.ids, sums.array(), wire)
        return sums


def pull(
    session: Session, wanted: Sequence[tuple[TableEntry, Any]], deadline: float, wire: str | None = None
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Rows of ids of each table: ids.shape + row_shape, float32. Raises as `Table.pull`."""
    arrays = _arrays(wanted, wire)
    layout = yield from _layout(session, deadline)
    coming = [Wanted.of(*one, layout) for one in arrays]
    yield from Exchange(session, _pulls(coming, layout), deadline).run()
    return [one.rows() for one in coming]


def _arrays(
    wanted: Sequence[tuple[TableEntry, Any]], wire: str | None
) -> list[tuple[TableEntry, np.ndarray, int]]:
    """(entry, ids, wire). Raises InvalidRequest."""
    return [(entry, as_ids(ids, entry.spec), wire_of(entry, wire)) for entry, ids in wanted]


def _pulls(coming: Sequence[Wanted], layout: Layout) -> list[PullPart]:
    """The parts of a pull."""
    pieces: dict[int, list] = {}
    for one in coming:
        pieces.setdefault(one.wire, []).extend(one.pieces())
    return _packed(pieces, lambda wire, shard, tables: PullPart(layout.epoch, shard, tables, wire))


def push(
    session: Session,
    given: Sequence[tuple[TableEntry, Any, Any]],
    deadline: float,
    kind: int = codec.GRADIENTS,
    wire: str | None = None,
) -> Generator[Turn, Event | None, None]:
    """Gradients, or rows to assign, of each table; everything is checked before anything is sent.

    Raises as `Table.push`. Pushes of one session must run one after the other: that is what keeps them in order on
    every shard.
    """
    checked = _checked(given, kind)
    layout = yield from _layout(session, deadline)
    parts = _pushes(session, checked, layout, kind, wire)
    yield from Exchange(session, parts, deadline).run()


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
    checked = _checked(given, codec.GRADIENTS)
    arrays = _arrays(wanted, wire)
    layout = yield from _layout(session, deadline)
    coming = [Wanted.of(*one, layout) for one in arrays]
    later: list[PullPart] = []
    pushes = _pushes(session, checked, layout, codec.GRADIENTS, wire)
    parts = _fused(pushes, _pulls(coming, layout), later)
    yield from Exchange(session, parts, deadline).run()
    if later:
        yield from Exchange(session, later, deadline).run()
    return [one.rows() for one in coming]


def finish(
    session: Session,
    outcome: Outcome,
    wanted: Sequence[tuple[TableEntry, Any]],
    deadline: float,
    wire: str | None,
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Do what is left of a push, or of a step that wanted ids of tables. Raises as `push` and `pull`."""
    if outcome.left:
        yield from Exchange(session, outcome.left, deadline, outcome.done).run()
    if outcome.rows is not None:
        return outcome.rows
    return (yield from pull(session, wanted, deadline, wire)) if wanted else []


def _fused(pushes: list[PushPart], pulls: list[PullPart], later: list[PullPart]) -> list[Part]:
    """What can go at once. A shard's pulls go with its only push, or else `later`: when its pushes are done."""
    out: list[Part] = []
    pushed = Counter(part.shard for part in pushes)
    alone = {part.shard: part for part in reversed(pulls) if pushed[part.shard] == 1}
    for part in pushes:
        pull_part = alone.get(part.shard)
        out.append(part if pull_part is None else StepPart.of(part, pull_part, later))
    for part in pulls:
        if not pushed[part.shard]:
            out.append(part)
        elif part is not alone.get(part.shard):
            later.append(part)
    return out


def pair_of(name: str, pair: Any) -> tuple[Any, Any]:
    """(ids, gradients) of a table. Raises InvalidRequest."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidRequest(f"push takes (ids, gradients) for table {name!r}, got {type(pair).__name__}")
    return pair[0], pair[1]


def _checked(given: Sequence[tuple[TableEntry, Any, Any]], kind: int) -> list[Checked]:
    """What is to be pushed. Raises InvalidRequest."""
    checked = []
    for entry, ids, values in given:
        array = as_ids(ids, entry.spec)
        rows, largest = as_rows(values, array, entry.spec, "rows" if kind == codec.ASSIGN else "grads")
        checked.append(Checked(entry, array.reshape(-1), rows, largest))
    if kind == codec.GRADIENTS:
        _refuse_frozen([one.entry for one in checked])
    return checked


def _pushes(
    session: Session,
    checked: list[Checked],
    layout: Layout,
    kind: int,
    wire: str | None,
) -> list[PushPart]:
    """The parts of a push, numbered; each id once."""
    pieces: dict[int, Pieces] = {}
    for one in checked:
        r = route(one.ids, one.entry.spec, layout.n)
        if kind == codec.ASSIGN:
            number, values, everywhere = codec.FLOAT32, latest(one.rows, r), False
        else:
            number, everywhere = wire_of(one.entry, wire), one.entry.spec.optimizer.counts_steps
            values = one.sums(r, number)
        pieces.setdefault(number, []).extend(_pieces(one.entry, r, values, everywhere=everywhere))
    number = session.next_push()
    return _packed(
        pieces, lambda wire, shard, tables: PushPart(layout.epoch, shard, tables, number, kind, wire)
    )


def _packed(pieces: dict[int, Any], make: Callable[[int, int, list[tuple]], Any]) -> list[Any]:
    """Parts of (wire, shard, pieces): a request has one wire type."""
    return [part for wire, some in pieces.items() for part in packed(some, partial(make, wire))]


def renorm(
    session: Session, entry: TableEntry, ids: Any, max_norm: float, norm_type: float, deadline: float
) -> Generator[Turn, Event | None, None]:
    """Scale long rows down in the table. Raises as `Table.renorm`."""
    if not max_norm > 0 or not norm_type > 0:
        raise InvalidRequest(f"max_norm and norm_type must be above 0, got {max_norm} and {norm_type}")
    array = as_ids(ids, entry.spec).reshape(-1)
    layout = yield from _layout(session, deadline)
    r = route(array, entry.spec, layout.n)
    none = np.empty((0, entry.spec.width), np.float32)
    pieces = [(shard, (entry, r.ids[b:e], none)) for shard, b, e in chunks(r.bounds, entry.spec.width)]
    number = session.next_push()
    how: dict[str, Any] = {"kind": codec.RENORM, "max_norm": max_norm, "norm_type": norm_type}
    parts = packed(pieces, lambda shard, tables: PushPart(layout.epoch, shard, tables, number, **how))
    yield from Exchange(session, parts, deadline).run()


def _layout(session: Session, deadline: float) -> Generator[Turn, Event | None, Layout]:
    if session.layout is None:
        yield from fetch_layout(session, deadline)
    assert session.layout is not None
    return session.layout


def _pieces(entry: TableEntry, r: Route, rows: Values, *, everywhere: bool = False) -> Pieces:
    """Chunks of a route with their rows; `everywhere` adds an empty one for each shard that has none."""
    runs = list(chunks(r.bounds, entry.spec.width))
    pieces = [(shard, (entry, r.ids[b:e], rows[b:e])) for shard, b, e in runs]
    if everywhere:
        without = set(range(len(r.bounds) - 1)) - {shard for shard, _, _ in runs}
        pieces += [(shard, (entry, r.ids[:0], rows[:0])) for shard in sorted(without)]
    return pieces


def _refuse_frozen(entries: list[TableEntry]) -> None:
    frozen = [entry.spec.name for entry in entries if entry.spec.frozen]
    if frozen:
        raise InvalidRequest(f"table {frozen[0]!r} is frozen: it takes no gradients (assign works)")
