"""Pull and push from end to end, as operations of a session: route, exchange, assemble. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..proto import codec
from ..proto.errors import InvalidRequest
from ..proto.layout import Layout
from ..proto.spec import TableEntry
from .assembly import Arrived, as_rows, latest, summed
from .calls import fetch_layout
from .exchange import Exchange
from .parts import PullPart, PushPart, chunks, packed
from .routing import Route, as_ids, route
from .session import Event, Session, Turn

Pieces = list[tuple[int, tuple[TableEntry, np.ndarray, np.ndarray]]]


def pull(
    session: Session, wanted: Sequence[tuple[TableEntry, Any]], deadline: float
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Rows of ids of each table: ids.shape + row_shape, float32. Raises as `Table.pull`."""
    arrays = [as_ids(ids, entry.spec) for entry, ids in wanted]
    layout = yield from _layout(session, deadline)
    arrived, routes, pieces = [], [], []
    for (entry, _), array in zip(wanted, arrays, strict=True):
        r = route(array.reshape(-1), entry.spec, layout.n)
        rows = Arrived(len(r.ids), entry.spec.width)
        routes.append(r)
        arrived.append(rows)
        runs = chunks(r.bounds, entry.spec.width)
        pieces += [(shard, (entry, r.ids[b:e], (rows, slice(b, e)))) for shard, b, e in runs]
    parts = packed(pieces, lambda shard, tables: PullPart(layout.epoch, shard, tables))
    yield from Exchange(session, parts, deadline).run()
    return [
        rows.spread(r.inverse).reshape(array.shape + entry.spec.row_shape)
        for (entry, _), array, r, rows in zip(wanted, arrays, routes, arrived, strict=True)
    ]


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
    what, combine = ("rows", latest) if kind == codec.ASSIGN else ("grads", summed)
    checked = []
    for entry, ids, values in given:
        array = as_ids(ids, entry.spec)
        checked.append((entry, array.reshape(-1), as_rows(values, array, entry.spec, what)))
    if kind == codec.GRADIENTS:
        _refuse_frozen([entry for entry, _, _ in checked])
    layout = yield from _layout(session, deadline)
    pieces: Pieces = []
    for entry, ids, rows in checked:
        r = route(ids, entry.spec, layout.n)
        everywhere = kind == codec.GRADIENTS and entry.spec.optimizer.counts_steps
        pieces += _pieces(entry, r, combine(rows, r), everywhere=everywhere)
    yield from _send(session, layout, pieces, deadline, kind=kind)


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
    how = {"kind": codec.RENORM, "max_norm": max_norm, "norm_type": norm_type}
    yield from _send(session, layout, pieces, deadline, **how)


def _send(
    session: Session, layout: Layout, pieces: Pieces, deadline: float, **how: Any
) -> Generator[Turn, Event | None, None]:
    number = session.next_push()
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
