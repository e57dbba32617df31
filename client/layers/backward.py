"""What a layer does with its tables: pull in the forward pass; gather gradients in the backward pass, push once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...proto.errors import InvalidRequest
from ..lookups.pooling import sum_by_id
from .together import pull_together, push_together

if TYPE_CHECKING:
    from ..table import Table
    from .configs import Slot

# Where in a push; which of the tables; ids [N] int64; gradients [N, ...] float32.
_Piece = tuple[int, int, np.ndarray, np.ndarray]

# Backward passes that failed half-way never push; no more of them than this are remembered.
_KEPT = 64


class Backward:
    """The gradients of each backward pass, pushed together when it ends.

    A layer that is used several times in a model has several gradients for the same rows. Frameworks add them up before
    their optimizer sees them, so one push must have them all: two pushes would be two steps of Adagrad.

    A pass is a number. Thread-safe: passes may run side by side.

    Args:
        tables: where to pull and push; of one client.
        slots: which table the ids of each place are of, and which of them is padding. None: all of the first table.
        negative: whether negative ids stand for missing ones; else they are refused as any id that the table lacks. Of
            all places, or of each.
        clipnorm: what is pushed to a table is scaled down to this Euclidean norm, the gradients of an id summed. None:
            as it is. Of all tables, or of each.
        every: of so many passes one push, of the mean of their gradients; what it clips is that mean.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        slots: Sequence[Slot] | None = None,
        *,
        negative: bool | Sequence[bool] = True,
        clipnorm: float | Sequence[float | None] | None = None,
        every: int = 1,
    ) -> None:
        self.tables = tuple(tables)
        self._slots = slots
        self._negative = negative
        several = isinstance(clipnorm, Sequence)
        self._clipnorms = list(clipnorm) if several else [clipnorm] * len(self.tables)
        self._every = every
        self._lock = threading.Lock()
        self._gathered: list[list[_Piece]] = []  # of passes that ended and wait for others
        self._numbers = itertools.count(1)
        self._held: dict[int, list[_Piece]] = {}

    def open(self) -> int:
        """The number of a new pass."""
        return next(self._numbers)

    def table(self, place: int) -> int:
        """Which of the tables the ids of a place are of."""
        return 0 if self._slots is None else self._slots[place].table

    def missing(self, place: int) -> bool:
        """Whether negative ids of a place are missing ones."""
        return self._negative if isinstance(self._negative, bool) else self._negative[place]

    def pull(self, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Rows of the ids of each place, zeros for missing ones: [N] + row_shape, float32; with one call.

        Args:
            ids: [N] numbers each.

        Raises:
            as `Table.pull`.
        """
        whole = [whole_ids(some) for some in ids]
        there = [
            some >= 0 if self.missing(place) and (some < 0).any() else None
            for place, some in enumerate(whole)
        ]
        tables = [self.tables[self.table(place)] for place in range(len(whole))]
        # What has nothing to look up is not asked for: a batch may be all padding.
        wanted = {
            place: (tables[place], some if kept is None else some[kept])
            for place, (some, kept) in enumerate(zip(whole, there, strict=True))
            if kept is None or kept.any()
        }
        found = dict(zip(wanted, pull_together(list(wanted.values())), strict=True))
        return [
            np.asarray(found[place], np.float32)
            if kept is None
            else _among_zeros(found.get(place), kept, table)
            for place, (kept, table) in enumerate(zip(there, tables, strict=True))
        ]

    def hold(
        self,
        number: int,
        ids: Sequence[np.ndarray],
        grads: Sequence[np.ndarray | None],
        at: int = 0,
        first: int = 0,
    ) -> None:
        """Keep gradients for the end of a pass.

        Args:
            number: the pass.
            ids: of each place, as they were pulled; negative ones and padding are left out.
            grads: of each place, [N] + row_shape, copied; None for a place that the loss does not depend on.
            at: where they stand in the push, so that it is the same however threads run.
            first: the place of the first of them.
        """
        pieces: list[_Piece] = []
        for place, (some, rows) in enumerate(zip(ids, grads, strict=True), first):
            if rows is not None:
                pieces.append((at, self.table(place), *self._trained(place, some, rows)))
        with self._lock:
            self._held.setdefault(number, []).extend(pieces)
            while len(self._held) > _KEPT:
                del self._held[next(iter(self._held))]

    def _trained(self, place: int, ids: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = whole_ids(ids).reshape(-1)
        rows = np.array(grads, np.float32).reshape(-1, *self.tables[self.table(place)].spec.row_shape)
        padding = None if self._slots is None else self._slots[place].padding
        keep = flat >= 0 if padding is None else (flat >= 0) & (flat != padding)
        return (flat, rows) if keep.all() else (flat[keep], rows[keep])

    def push(self, number: int) -> None:
        """The pass ended: push what it held, with one call, if there are enough passes. Raises as `Table.push`."""
        with self._lock:
            held = sorted(self._held.pop(number, []), key=lambda piece: piece[0])
            if self._every > 1:
                self._gathered.append(held)
                if len(self._gathered) < self._every:
                    return
                passes, self._gathered = self._gathered, []
                part = np.float32(1 / self._every)
                held = [(at, k, ids, grads * part) for one in passes for at, k, ids, grads in one]
        if any(most is not None for most in self._clipnorms):
            held = self._clipped(held)
        push_together((self.tables[k], ids, grads) for _, k, ids, grads in held)

    def _clipped(self, held: list[_Piece]) -> list[_Piece]:
        """Of each table one piece, clipped."""
        clipped: list[_Piece] = []
        for k in dict.fromkeys(k for _, k, _, _ in held):
            ids = np.concatenate([ids for _, which, ids, _ in held if which == k])
            grads = np.concatenate([grads for _, which, _, grads in held if which == k])
            most = self._clipnorms[k]
            clipped.append((0, k, ids, grads if most is None else clipped_by_norm(ids, grads, most)))
        return clipped


def _among_zeros(found: np.ndarray | None, there: np.ndarray, table: Table) -> np.ndarray:
    """Rows of all ids of a batch, from those of the ids that are there."""
    rows = np.zeros((len(there), *table.spec.row_shape), np.float32)
    if found is not None:
        rows[there] = found
    return rows


def whole_ids(values: np.ndarray) -> np.ndarray:
    """Numbers as int64 ids, what is behind the point cut off as Keras does it.

    Raises:
        InvalidRequest: NaN, infinity, or a number that int64 does not hold; casts would make ids of them.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fu" or array.dtype.itemsize < (8 if array.dtype.kind == "u" else 1):
        return np.asarray(array, np.int64)
    fits = array < 2.0**63 if array.dtype.kind == "f" else array <= np.uint64(2**63 - 1)
    if array.dtype.kind == "f":
        fits &= array >= -(2.0**63)  # false for NaN
    if not fits.all():
        place = tuple(int(i) for i in np.argwhere(~fits)[0])
        raise InvalidRequest(f"ids{list(place) or ''} is {array[place]}, ids are whole numbers below 2**63")
    return array.astype(np.int64)


def clipped_by_norm(ids: np.ndarray, grads: np.ndarray, most: float) -> np.ndarray:
    """Gradients scaled down to a Euclidean norm, of each id their sum. ids: [N]; grads: [N, ...] float32."""
    sums = sum_by_id(ids, grads.reshape(len(ids), -1))
    norm = float(np.linalg.norm(sums.astype(np.float64)))
    return grads if norm <= most else grads * np.float32(most / norm)
