"""What a table asks of its optimizer: the seam that every update rule fills."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...proto.spec import Constraint, Optimizer
from . import kernels, replay
from .rates import Rates

F = np.float32


class Rule:
    """What a table asks of its optimizer.

    Attributes:
        drifts: weights move at pushes that do not name their row (a dense mode).
        decays: also those of rows that were never pushed.
    """

    drifts = False
    decays = False

    def __init__(self, constraint: Constraint | None) -> None:
        c = constraint or Constraint()
        self.clip_norm = c.clip_norm
        self.bounded = c.low is not None or c.high is not None
        self.low = F(-np.inf if c.low is None else c.low)
        self.high = F(np.inf if c.high is None else c.high)

    def slot_fills(self) -> list[float]:
        """What a new row's slots hold."""
        return []

    def push(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """Update `values` and `slots` in place, at distinct `rows` [N] int32, by grads [N, width] float32."""
        self.apply(values, slots, rows, self.ready(values, slots, rows, grads, rates, step), rates, step)

    def ready(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> np.ndarray:
        """What comes before `apply`, takes memory, and changes nothing that a pull could see. Returns its grads."""
        if self.clip_norm is not None:
            clipped = np.empty_like(grads)
            kernels.clip(grads, self.clip_norm, clipped)
            grads = clipped
        self.settle(values, slots, rows, rates, step - 1)
        return grads

    def apply(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """The update itself, of rows that are ready for it."""
        self.update(values, slots, rows, grads, rates, max(step, 1))
        self.stamp(slots, rows, step)
        if self.bounded:
            kernels.bound(values, rows, self.low, self.high)

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """The optimizer's formula, on rows that have reached step - 1."""
        raise NotImplementedError

    def settle(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        rates: Rates,
        step: int,
        weights_only: bool = False,
    ) -> None:
        """Bring rows up to a step, as if all pushes up to it had given them gradients of zeros.

        weights_only: slots may be left anywhere, because they are copies.
        """

    def stamp(self, slots: Sequence[np.ndarray], rows: np.ndarray, step: int) -> None:
        """Note that rows have reached a step."""


class DenseRule(Rule):
    """A rule that may have to catch up; its last slot is the step that a row has reached."""

    def __init__(self, optimizer: Optimizer, constraint: Constraint | None) -> None:
        super().__init__(constraint)
        self._dense = optimizer.dense

    def stamp(self, slots: Sequence[np.ndarray], rows: np.ndarray, step: int) -> None:
        """As `Rule`."""
        if self._dense:
            replay.stamp(slots[-1], rows, step)

    def settle(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        rates: Rates,
        step: int,
        weights_only: bool = False,
    ) -> None:
        """As `Rule`."""
        if not self._dense or not len(rows):
            return
        since = np.empty(len(rows), np.int64)
        replay.reached(slots[-1], rows, since)
        late = np.flatnonzero(since < step)
        if len(late):
            rows, since = rows[late], since[late]
            self.replay(values, slots, rows, since, int(since.min()) + 1, rates, step, weights_only)
            self.stamp(slots, rows, step)

    def replay(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        since: np.ndarray,
        first: int,
        rates: Rates,
        step: int,
        weights_only: bool,
    ) -> None:
        """Steps since[k] + 1 up to step for each row; first is the earliest of them."""
        raise NotImplementedError
