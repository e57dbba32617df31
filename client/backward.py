"""What a layer does with a table: pull in the forward pass; gather gradients in the backward pass, push once."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .table import Table

# Backward passes that failed half-way never push; no more of them than this are remembered.
_KEPT = 64


class Backward:
    """The gradients of each backward pass, pushed together when it ends.

    A layer that is used several times in a model has several gradients for the same rows. Frameworks add them up before
    their optimizer sees them, so one push must have them all: two pushes would be two steps of Adagrad.

    A pass is a number. Thread-safe: passes may run side by side.

    Args:
        table: where to pull and push.
        negative: whether negative ids stand for missing ones; else they are refused as any id that the table lacks.
    """

    def __init__(self, table: Table, *, negative: bool = True) -> None:
        self.table = table
        self._negative = negative
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._held: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}

    def open(self) -> int:
        """The number of a new pass."""
        return next(self._numbers)

    def pull(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids, zeros for missing ones: ids.shape + row_shape, float32. Raises as `Table.pull`."""
        ids = np.asarray(ids, np.int64)
        missing = ids < 0
        if not self._negative or not missing.any():
            return np.asarray(self.table.pull(ids), np.float32)
        rows = np.zeros((*ids.shape, *self.table.spec.row_shape), np.float32)
        if not missing.all():
            rows[~missing] = self.table.pull(ids[~missing])
        return rows

    def hold(self, number: int, ids: np.ndarray, grads: np.ndarray, place: int = 0) -> None:
        """Keep gradients for the end of a pass.

        Args:
            number: the pass.
            ids: as they were pulled; negative ones are left out.
            grads: ids.shape + row_shape. Copied.
            place: where they stand in the push, so that it is the same however threads run.
        """
        flat = np.asarray(ids, np.int64).reshape(-1)
        rows = np.array(grads, np.float32).reshape(-1, *self.table.spec.row_shape)
        keep = flat >= 0
        with self._lock:
            self._held.setdefault(number, []).append((place, flat[keep], rows[keep]))
            while len(self._held) > _KEPT:
                del self._held[next(iter(self._held))]

    def push(self, number: int) -> None:
        """The pass ended: push what it held. Raises as `Table.push`."""
        with self._lock:
            held = sorted(self._held.pop(number, []), key=lambda one: one[0])
        # A batch of missing ids only is a step of a framework's optimizers, and so of the table's.
        if any(len(ids) for _, ids, _ in held) or (held and self.table.spec.optimizer.counts_steps):
            self.table.push(
                np.concatenate([ids for _, ids, _ in held]), np.concatenate([grads for _, _, grads in held])
            )
