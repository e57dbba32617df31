"""Pull and push from end to end, as operations of a session: route, exchange, assemble. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..proto import codec
from ..proto.errors import InvalidRequest
from ..proto.layout import Layout
from ..proto.spec import TableEntry
from .assembly import as_rows, latest, spread, summed
from .calls import fetch_layout
from .exchange import Exchange
from .parts import Part, PullPart, PushPart, chunks, packed
from .routing import Route, as_ids, route
from .session import Event, Session, Turn
from .wires import refuse_overflow, refuse_overflown, wire_of

Pieces = list[tuple[int, tuple[TableEntry, np.ndarray, np.ndarray]]]


def pull(
    session: Session, wanted: Sequence[tuple[TableEntry, Any]], deadline: float, wire: str | None = None
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    """Rows of ids of each table: ids.shape + row_shape, float32. Raises as `Table.pull`."""
    wires = [wire_of(entry, wire) for entry, _ in wanted]
    arrays = [as_ids(ids, entry.spec) for entry, ids in wanted]
    layout = yield from _layout(session, deadline)
    routes, rows = [], []
    pieces: dict[int, Pieces] = {}
    for (entry, _), array, number in zip(wanted, arrays, wires, strict=True):
        r = route(array.reshape(-1), entry.spec, layout.n)
        some = np.empty((len(r.ids), entry.spec.width), np.float32)
        routes.append(r)
        rows.append(some)
        pieces.setdefault(number, []).extend(_pieces(entry, r, some))
    parts = _packed(pieces, lambda number, shard, tables: PullPart(layout.epoch, shard, tables, wire=number))
    yield from Exchange(session, parts, deadline).run()
    outs = []
    for (entry, _), array, r, some, number in zip(wanted, arrays, routes, rows, wires, strict=True):
        refuse_overflown(entry, r.ids, some, number)
        out = np.empty((array.size, entry.spec.width), np.float32)
        spread(some, r, out)
        outs.append(out.reshape(array.shape + entry.spec.row_shape))
    return outs


def push(
    session: Session,
    given: Sequence[tuple[TableEntry, Any, Any]],
    deadline: float,
    kind: int = codec.GRADIENTS,
    wire: str | None = None,
) -> Generator[Turn, Event | None, None]:
    """Gradients, or rows to assign, of each table; everything is checked before anything is sent.

    Rows to assign always travel as float32.

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
    pieces: dict[int, Pieces] = {}
    for entry, ids, rows in checked:
        r = route(ids, entry.spec, layout.n)
        values = combine(rows, r)
        number = codec.FLOAT32 if kind == codec.ASSIGN else wire_of(entry, wire)
        if number != codec.FLOAT32 or len(values) < len(rows):  # single float32 values were checked above
            refuse_overflow(entry, r.ids, values, number)
        everywhere = kind == codec.GRADIENTS and entry.spec.optimizer.counts_steps
        pieces.setdefault(number, []).extend(_pieces(entry, r, values, everywhere=everywhere))
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
    yield from _send(session, layout, {codec.FLOAT32: pieces}, deadline, **how)


def _send(
    session: Session, layout: Layout, pieces: dict[int, Pieces], deadline: float, **how: Any
) -> Generator[Turn, Event | None, None]:
    number = session.next_push()
    parts = _packed(
        pieces, lambda wire, shard, tables: PushPart(layout.epoch, shard, tables, number, wire=wire, **how)
    )
    yield from Exchange(session, parts, deadline).run()


def _packed(pieces: dict[int, Pieces], make: Callable[[int, int, list[tuple]], Part]) -> list[Part]:
    """Parts of (wire, shard, pieces): a request has one wire type."""
    return [part for wire, some in pieces.items() for part in packed(some, partial(make, wire))]


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
