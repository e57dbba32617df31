"""Update rules: which kernels an optimizer runs, and with which numbers. Bit-equal to a numpy loop of the formula."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ...proto.recipes import MAX_NUMBER
from ...proto.spec import (
    FTRL,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Constraint,
    Optimizer,
    RMSprop,
    RowwiseAdagrad,
    TableSpec,
)
from . import kernels, replay
from .rates import Rates
from .rule import DenseRule, F, Rule

_WINDOW = 1 << 20  # steps whose rates a dense Adam remembers (12 MB), unless a row is later than that
_AHEAD = 4096  # steps whose rates it computes in advance
_COMPILED = 64  # recipes that are known to be compiled; trying another one takes a millisecond


class SGDRule(DenseRule):
    """SGD with momentum and weight decay."""

    def __init__(self, optimizer: SGD, constraint: Constraint | None) -> None:
        super().__init__(optimizer, constraint)
        self._momentum, self._decay = F(optimizer.momentum), F(optimizer.weight_decay)
        self._has_momentum = optimizer.momentum > 0  # and a slot for it, also where float32 makes 0 of it
        self._nesterov = optimizer.nesterov
        self.drifts = optimizer.dense
        self.decays = optimizer.dense and optimizer.weight_decay > 0

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [0.0] * (self._has_momentum + self._dense)

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        lr = F(rates.at(step))
        if self._momentum:
            kernels.momentum_sgd(
                values, slots[0], rows, grads, lr, self._momentum, self._decay, self._nesterov
            )
        else:
            kernels.sgd(values, rows, grads, lr, self._decay)

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
        """As `DenseRule`."""
        lrs = rates.between(first, step).astype(F)
        if self._momentum:
            how = (self._momentum, self._decay, self._nesterov, self.low, self.high)
            replay.momentum(values, slots[0], since, rows, first, lrs, lrs.max(), *how)
        else:
            replay.decay(values, since, rows, first, lrs, self._decay, self.low, self.high)


class AdagradRule(Rule):
    """Adagrad, torch's and TensorFlow's."""

    def __init__(self, optimizer: Adagrad, constraint: Constraint | None) -> None:
        super().__init__(constraint)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [self._o.initial_accumulator]

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        lr = rates.at(step) / (1 + (step - 1) * self._o.lr_decay)
        kernels.adagrad(values, slots[0], rows, grads, F(lr), F(self._o.eps))


class RowwiseAdagradRule(Rule):
    """Adagrad with one number a row."""

    def __init__(self, optimizer: RowwiseAdagrad, constraint: Constraint | None) -> None:
        super().__init__(constraint)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [self._o.initial_accumulator]

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        kernels.rowwise_adagrad(values, slots[0], rows, grads, F(rates.at(step)), F(self._o.eps))


class AdamRule(DenseRule):
    """Adam and AdamW: the table's step, the row's, or every row at every step."""

    def __init__(self, optimizer: Adam | AdamW, constraint: Constraint | None) -> None:
        super().__init__(optimizer, constraint)
        self._mode = optimizer.mode
        self._beta1, self._beta2 = (float(b) for b in optimizer.betas)
        self._eps = float(optimizer.eps)
        # torch.optim.AdamW: sqrt(v / (1 - b2^t)) + eps. Scaled, so that both take the same kernel.
        self._eps_inside = isinstance(optimizer, AdamW)
        self._decay = float(optimizer.weight_decay) if isinstance(optimizer, AdamW) else 0.0
        self.drifts = self._dense
        self.decays = self._dense and self._decay > 0
        self._known: tuple[Rates, int, np.ndarray] | None = None

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [0.0, 0.0] + [0.0] * (self._mode != "lazy")

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        if self._mode == "row":
            lr = rates.at(step)
            how = (lr, self._beta1, self._beta2, self._eps, self._eps_inside, F(1 - lr * self._decay))
            kernels.adam_by_row(values, slots[0], slots[1], slots[2], rows, grads, *how)
        else:
            scale, eps, keep = self._computed(rates, step, step)[:, 0]
            b1, b2 = F(1 - self._beta1), F(1 - self._beta2)
            kernels.adam(values, slots[0], slots[1], rows, grads, scale, b1, b2, eps, keep)

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
        """As `DenseRule`."""
        scales, smalls, keeps = self._remembered(rates, first, step)
        how = (self._beta1, self._beta2, self._decay > 0, self.low, self.high, weights_only)
        replay.adam(values, slots[0], slots[1], since, rows, first, scales, smalls, keeps, *how)

    def _computed(self, rates: Rates, first: int, last: int) -> np.ndarray:
        """Scale, eps and keep of the steps from first to last. Returns [3, steps] float32."""
        out = np.empty((3, last - first + 1), F)
        how = (self._beta1, self._beta2, self._eps, self._eps_inside, self._decay)
        replay.adam_rates(rates.between(first, last), first, *how, out[0], out[1], out[2])
        return out

    def _remembered(self, rates: Rates, first: int, last: int) -> np.ndarray:
        """As `_computed`, from what is known of the last steps: rows of a push are late by different amounts."""
        known = self._known
        if known is None or known[0] is not rates or not known[1] <= first <= known[1] + known[2].shape[1]:
            start, columns = first, self._computed(rates, first, last)
        else:
            _, start, columns = known
            top = start + columns.shape[1]
            if last >= top:
                more = self._computed(rates, top, max(last, top + min(columns.shape[1], _AHEAD)))
                columns = np.concatenate([columns, more], axis=1)
            old = min(first - start, max(0, columns.shape[1] - _WINDOW))
            start, columns = start + old, columns[:, old:]
        self._known = (rates, start, columns)
        return columns[:, first - start : last - start + 1]


class RMSpropRule(DenseRule):
    """RMSprop, with or without momentum."""

    def __init__(self, optimizer: RMSprop, constraint: Constraint | None) -> None:
        super().__init__(optimizer, constraint)
        self._o = optimizer
        self._momentum = F(optimizer.momentum)
        self.drifts = optimizer.dense and optimizer.momentum > 0

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [0.0] * (1 + (self._o.momentum > 0) + self._dense)

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        o, lr = self._o, F(rates.at(step))
        if self._momentum:
            how = (F(o.alpha), F(1 - o.alpha), F(o.eps), self._momentum)
            kernels.momentum_rmsprop(values, slots[0], slots[1], rows, grads, lr, *how)
        else:
            kernels.rmsprop(values, slots[0], rows, grads, lr, F(o.alpha), F(1 - o.alpha), F(o.eps))

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
        """As `DenseRule`."""
        if not weights_only:
            replay.shrink(slots[0], since, rows, step, F(self._o.alpha))
        if self._momentum:
            lrs = rates.between(first, step).astype(F)
            how = (self._momentum, F(0), False, self.low, self.high)
            replay.momentum(values, slots[1], since, rows, first, lrs, lrs.max(), *how)


class AdadeltaRule(DenseRule):
    """Adadelta."""

    def __init__(self, optimizer: Adadelta, constraint: Constraint | None) -> None:
        super().__init__(optimizer, constraint)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [0.0, 0.0] + [0.0] * self._dense

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        o = self._o
        how = (F(rates.at(step)), F(o.rho), F(1 - o.rho), F(o.eps))
        kernels.adadelta(values, slots[0], slots[1], rows, grads, *how)

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
        """As `DenseRule`."""
        if not weights_only:
            replay.shrink(slots[0], since, rows, step, F(self._o.rho))
            replay.shrink(slots[1], since, rows, step, F(self._o.rho))


class FTRLRule(Rule):
    """FTRL-proximal."""

    def __init__(self, optimizer: FTRL, constraint: Constraint | None) -> None:
        super().__init__(constraint)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [self._o.initial_accumulator, 0.0]

    def update(
        self,
        values: np.ndarray,
        slots: Sequence[np.ndarray],
        rows: np.ndarray,
        grads: np.ndarray,
        rates: Rates,
        step: int,
    ) -> None:
        """As `Rule`."""
        o, lr = self._o, rates.at(step)
        if F(lr) > 0 and (more := 2 * o.l2 + o.beta / lr) <= MAX_NUMBER:
            how = (F(lr), F(-o.lr_power), F(o.l1), F(more), F(2 * o.l2_shrinkage))
            kernels.ftrl(values, slots[0], slots[1], rows, grads, *how)


_RULES: dict[type[Optimizer], Callable[..., Rule]] = {
    SGD: SGDRule,
    Adagrad: AdagradRule,
    RowwiseAdagrad: RowwiseAdagradRule,
    Adam: AdamRule,
    AdamW: AdamRule,
    RMSprop: RMSpropRule,
    Adadelta: AdadeltaRule,
    FTRL: FTRLRule,
}


def rule_of(spec: TableSpec) -> Rule:
    """The rule of a table's optimizer and constraint, its kernels compiled."""
    _compile(spec.optimizer, spec.constraint)
    return _RULES[type(spec.optimizer)](spec.optimizer, spec.constraint)


@functools.lru_cache(_COMPILED)
def _compile(optimizer: Optimizer, constraint: Constraint | None) -> None:
    """Run everything once on one tiny row, so that no push waits for a compiler."""
    rule = _RULES[type(optimizer)](optimizer, constraint)
    values, rows, rates = np.zeros((1, 1), F), np.zeros(1, np.int32), Rates(optimizer.lr)
    slots = [
        np.full((1, w), fill, F) for w, fill in zip(optimizer.slot_widths(1), rule.slot_fills(), strict=True)
    ]
    grads = np.ones((1, 1), F)
    for step in (1, 3):  # Step 2 is one to catch up with.
        rule.push(values, slots, rows, grads, rates, step)
        grads.flags.writeable = False  # as off the wire: numba takes it for another type
    rule.push(values, slots, rows, grads, rates, 4)
    rule.push(values, slots, rows, np.frombuffer(bytes(5), F, offset=1).reshape(1, 1), rates, 5)
