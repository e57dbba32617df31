"""The learning rate at each step of a table."""

from __future__ import annotations

import numpy as np

from ...proto.jit import kernel
from ...proto.optimizers import Cosine, Exponential, Schedule, WarmUp
from .exact import cosine, real_power

_FIXED, _EXPONENTIAL, _STAIRS, _COSINE = range(4)


class Rates:
    """What a number or a `Schedule` says for the steps of a table, which count from 1."""

    def __init__(self, lr: float | Schedule) -> None:
        self._fixed = None if isinstance(lr, Schedule) else float(lr)
        self._warm = np.array([0.0, 0.0])  # steps, start
        if isinstance(lr, WarmUp):
            self._warm[:] = lr.steps, lr.start
            lr = lr.after
        self._kind, self._how = _parameters(lr)

    def at(self, step: int) -> float:
        """The rate of one step."""
        return self.between(step, step).item() if self._fixed is None else self._fixed

    def between(self, first: int, last: int) -> np.ndarray:
        """The rates of the steps from first to last, both included. Returns [last - first + 1] float64."""
        out = np.empty(max(0, last - first + 1))
        _rates(self._kind, self._how, self._warm, first, out)
        return out


def _parameters(lr: float | Schedule) -> tuple[int, np.ndarray]:
    if isinstance(lr, Exponential):
        return _STAIRS if lr.staircase else _EXPONENTIAL, np.array([lr.lr, lr.decay_steps, lr.decay_rate])
    if isinstance(lr, Cosine):
        return _COSINE, np.array([lr.lr, lr.decay_steps, lr.alpha])
    assert not isinstance(lr, Schedule)
    return _FIXED, np.array([lr, 1.0, 0.0])


@kernel
def _rates(kind: int, how: np.ndarray, warm: np.ndarray, first: int, out: np.ndarray):
    warm_steps, start = warm[0], warm[1]
    for k in range(len(out)):
        step = np.float64(first + k - 1)
        if step < warm_steps:
            out[k] = start + (how[0] - start) * (step / warm_steps)
        else:
            out[k] = _rate(kind, how[0], how[1], how[2], step - warm_steps)


@kernel
def _rate(kind: int, lr: float, decay_steps: float, how: float, step: float) -> float:
    done = step / decay_steps
    if kind in (_EXPONENTIAL, _STAIRS):
        # how = decay_rate is at most 1; real_power takes exponents of at least 0 and any base.
        return lr * real_power(how, np.floor(done) if kind == _STAIRS else done)
    if kind == _COSINE:
        c = cosine(1.5707963267948966 * min(done, 1.0))
        return lr * ((1.0 - how) * (c * c) + how)  # (1 + cos(pi x)) / 2 = cos(pi x / 2)^2
    return lr
