"""Pull and push by bag from end to end, as operations of a session. No I/O, no threads.

Letters: N entries (one id of one bag), B bags.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from ...proto import codec
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout, owner
from ...proto.spec import TableEntry, TableSpec
from ..lookup.bags import Bags
from ..lookup.pooling import check_combiner, coefficients
from .assembly import LARGEST, as_float32, largest
from .bag_requests import BagGrads, Partial, PullBagsPart, PushBagsPart, Shares, pull_runs, push_runs
from .control import fetch_layout
from .exchange import Exchange
from .requests import PushPart, chunks, packed
from .routing import as_ids, route
from .session import Event, Session, Turn
from .wire_types import refuse_overflow


def pull_bags(
    session: Session, entry: TableEntry, bags: Bags, combiner: str, deadline: float
) -> Generator[Turn, Event | None, np.ndarray]:
    """Rows combined by bag: bags.shape + row_shape, float32. Raises as `Table.pull_bags`."""
    spec = entry.spec
    shares = Shares(bags.segments, _factors(bags, combiner))
    ids = as_ids(bags.ids, spec)
    layout = yield from _layout(session, deadline)
    sums: Partial = []
    parts = []
    owners = owner(spec, ids, layout.n)
    for shard in range(layout.n):
        mine = np.flatnonzero(owners == shard)
        for number, run in enumerate(pull_runs(shares.bags[mine], spec.width)):
            tables = [(entry, ids[mine[run]], shares[mine[run]])]
            parts.append(PullBagsPart(layout.epoch, shard, tables, key=(shard, number), sums=sums))
    parts.sort(key=lambda part: part.key[::-1])  # shards take turns, so that all start at once
    yield from Exchange(session, parts, deadline).run()
    out = np.zeros((bags.count, spec.width), np.float32)
    for _, some, partial in sorted(sums, key=lambda s: s[0]):
        out[some] += partial
    return out.reshape(bags.shape + spec.row_shape)


def push_bags(
    session: Session, entry: TableEntry, bags: Bags, grads: Any, combiner: str, deadline: float
) -> Generator[Turn, Event | None, None]:
    """Apply gradients of bags; everything is checked before anything is sent. Raises as `Table.push_bags`.

    Like any push: those of one session must run one after the other.
    """
    spec = entry.spec
    shares = Shares(bags.segments, _factors(bags, combiner))
    ids = as_ids(bags.ids, spec)
    values = BagGrads(shares, _as_grads(grads, bags, spec))
    _check_sums(entry, ids, values)
    if spec.frozen:
        raise InvalidRequest(f"table {spec.name!r} is frozen: it takes no gradients (assign works)")
    layout = yield from _layout(session, deadline)
    r = route(ids, spec, layout.n)
    runs = push_runs(r, shares.bags, bags.count, spec.width)
    by_bag, by_id = runs.by_bag, runs.by_id
    if spec.optimizer.counts_steps:
        without = set(range(layout.n)) - {shard for shard, _ in [*by_bag, *by_id]}
        by_bag += [(shard, np.empty(0, np.int64)) for shard in sorted(without)]
    number = session.next_push()
    pieces = [(shard, (entry, ids[places], values[places])) for shard, places in by_bag]
    parts: list[PushPart] = []
    parts += packed(pieces, lambda shard, tables: PushBagsPart(layout.epoch, shard, tables, number))
    pieces = [piece for run in by_id for piece in _expanded(entry, ids, values, *run)]
    parts += packed(pieces, lambda shard, tables: PushPart(layout.epoch, shard, tables, number))
    yield from Exchange(session, parts, deadline).run()


def _expanded(
    entry: TableEntry, ids: np.ndarray, values: BagGrads, shard: int, places: np.ndarray
) -> Iterator[tuple[int, tuple[TableEntry, np.ndarray, np.ndarray]]]:
    """Entries as gradients of ids, in chunks."""
    distinct, grads = values[places].by_id(ids[places])
    for _, begin, end in chunks(np.array([0, len(distinct)]), entry.spec.width):
        yield shard, (entry, distinct[begin:end], grads[begin:end])


def _factors(bags: Bags, combiner: str) -> np.ndarray | None:
    combiner = check_combiner(combiner)
    if combiner == "sum" and bags.weights is None:
        return None
    with np.errstate(over="ignore"):
        return coefficients(bags, combiner).astype(np.float32)


def _as_grads(grads: Any, bags: Bags, spec: TableSpec) -> np.ndarray:
    """Gradients of bags as [B, width] float32. Raises InvalidRequest for a wrong shape or type."""
    rows = as_float32(grads, bags.shape, "bags", spec, "grads")
    if not largest(rows) <= LARGEST:
        bag, column = (int(x[0]) for x in np.nonzero(~np.isfinite(rows)))
        raise InvalidRequest(
            f"grads of bag {bag} is {rows[bag, column]} in column {column}: table {spec.name!r} takes finite "
            "numbers only"
        )
    return rows


def _check_sums(entry: TableEntry, ids: np.ndarray, values: BagGrads) -> None:
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
    if (
        products.sum(dtype=np.float64) > LARGEST / 2
    ):  # no sum of some of them can be larger, however it is rounded
        refuse_overflow(entry, *values.by_id(ids), codec.FLOAT32)


def _layout(session: Session, deadline: float) -> Generator[Turn, Event | None, Layout]:
    if session.layout is None:
        yield from fetch_layout(session, deadline)
    assert session.layout is not None
    return session.layout
