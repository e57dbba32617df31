"""Pull and push from end to end, as operations of a session: route, exchange, assemble. No I/O, no threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..proto import codec
from ..proto.errors import InvalidRequest
from ..proto.layout import Layout
from ..proto.spec import TableEntry
from .assembly import Arrived, as_rows, latest, summed
from .calls import fetch_layout
from .exchange import Exchange
from .parts import PullPart, PushPart, StepPart, chunks, packed
from .routing import Route, as_ids, route
from .session import Event, Part, Session, Turn

Pieces = list[tuple[int, tuple[TableEntry, np.ndarray, np.ndarray]]]


@dataclass
class Wanted:
    """The pull of some tables: where its ids go, and where its rows come in."""

    parts: list[PullPart]
    shapes: list[tuple[int, ...]]
    routes: list[Route]
    arrived: list[Arrived]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], entries: Sequence[TableEntry], layout: Layout) -> Wanted:
        """Route the ids [any shape] int64 of each table."""
        shapes, routes, arrived, pieces = [], [], [], []
        for entry, array in zip(entries, arrays, strict=True):
            r = route(array.reshape(-1), entry.spec, layout.n)
            rows = Arrived(len(r.ids), entry.spec.width)
            shapes.append(array.shape + entry.spec.row_shape)
            routes.append(r)
            arrived.append(rows)
            runs = chunks(r.bounds, entry.spec.width)
            pieces += [(shard, (entry, r.ids[b:e], (rows, slice(b, e)))) for shard, b, e in runs]
        parts = packed(pieces, lambda shard, tables: PullPart(layout.epoch, shard, tables))
        return cls(parts, shapes, routes, arrived)

    def rows(self) -> list[np.ndarray]:
        """What was asked for, when all parts are done."""
        return [
            rows.spread(r.inverse).reshape(shape)
            for shape, r, rows in zip(self.shapes, self.routes, self.arrived, strict=True)
        ]


def pull(
    session: Session, wanted: Sequence[tuple[TableEntry, Any]], deadline: float
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Rows of ids of each table: ids.shape + row_shape, float32. Raises as `Table.pull`."""
    arrays = [as_ids(ids, entry.spec) for entry, ids in wanted]
    layout = yield from _layout(session, deadline)
    coming = Wanted.of(arrays, [entry for entry, _ in wanted], layout)
    yield from Exchange(session, coming.parts, deadline).run()
    return coming.rows()


def push(
    session: Session,
    given: Sequence[tuple[TableEntry, Any, Any]],
    deadline: float,
    kind: int = codec.GRADIENTS,
) -> Generator[Turn, Event | None, None]:
    """Gradients, or rows to assign, of each table; everything is checked before anything is sent.

    Raises as `Table.push`. Pushes of one session must run one after the other: that is what keeps them in order on
    every shard.
    """
    checked = _checked(given, kind)
    layout = yield from _layout(session, deadline)
    parts = _pushes(session, checked, layout, kind)
    yield from Exchange(session, parts, deadline).run()


def step(
    session: Session,
    given: Sequence[tuple[TableEntry, Any, Any]],
    wanted: Sequence[tuple[TableEntry, Any]],
    deadline: float,
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Push gradients, then pull: one request to each shard that takes part in both, if that is not too long.

    Raises as `push` and `pull`.
    """
    checked = _checked(given, codec.GRADIENTS)
    arrays = [as_ids(ids, entry.spec) for entry, ids in wanted]
    layout = yield from _layout(session, deadline)
    coming = Wanted.of(arrays, [entry for entry, _ in wanted], layout)
    later: list[PullPart] = []
    parts = _fused(_pushes(session, checked, layout, codec.GRADIENTS), coming.parts, later)
    yield from Exchange(session, parts, deadline).run()
    if later:
        yield from Exchange(session, later, deadline).run()
    return coming.rows()


def _fused(pushes: list[PushPart], pulls: list[PullPart], later: list[PullPart]) -> list[Part]:
    """What can go at once. A shard's pulls go with its only push, or else `later`: when its pushes are done."""
    out: list[Part] = []
    pushed = Counter(part.shard for part in pushes)
    alone = {part.shard: part for part in pulls if pushed[part.shard] == 1}
    for part in pushes:
        pull_part = alone.get(part.shard)
        out.append(part if pull_part is None else StepPart.of(part, pull_part, later))
    for part in pulls:
        if not pushed[part.shard]:
            out.append(part)
        elif part is not alone.get(part.shard):
            later.append(part)
    return out


def _checked(
    given: Sequence[tuple[TableEntry, Any, Any]], kind: int
) -> list[tuple[TableEntry, np.ndarray, np.ndarray]]:
    """(entry, ids [N], gradients or rows [N, width]). Raises InvalidRequest."""
    checked = []
    for entry, ids, values in given:
        array = as_ids(ids, entry.spec)
        rows = as_rows(values, array, entry.spec, "rows" if kind == codec.ASSIGN else "grads")
        checked.append((entry, array.reshape(-1), rows))
    if kind == codec.GRADIENTS:
        _refuse_frozen([entry for entry, _, _ in checked])
    return checked


def _pushes(
    session: Session, checked: list[tuple[TableEntry, np.ndarray, np.ndarray]], layout: Layout, kind: int
) -> list[PushPart]:
    """The parts of a push, numbered; each id once."""
    combine = latest if kind == codec.ASSIGN else summed
    pieces: Pieces = []
    for entry, ids, rows in checked:
        r = route(ids, entry.spec, layout.n)
        everywhere = kind == codec.GRADIENTS and entry.spec.optimizer.counts_steps
        pieces += _pieces(entry, r, combine(rows, r), everywhere=everywhere)
    number = session.next_push()
    return packed(pieces, lambda shard, tables: PushPart(layout.epoch, shard, tables, number, kind))


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


def _pieces(entry: TableEntry, r: Route, rows: np.ndarray, *, everywhere: bool = False) -> Pieces:
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
