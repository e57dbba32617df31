"""Update rules: fused kernels over rows and slots, float32 throughout, bit-equal to a numpy loop of the same formula.

A rule says what a new row's slots hold, and applies itself in place. No fastmath and
no float64 in the loops: the first would change bits, the second costs a factor of four.
"""

from __future__ import annotations

import math
from typing import Protocol

import numba
import numpy as np

from ..proto.spec import SGD, Adagrad, Adam, Optimizer, TableSpec

F = np.float32


class Rule(Protocol):
    """What a table asks of its optimizer."""

    def slot_fills(self) -> list[float]:
        """What a new row's slots hold."""
        ...

    def apply(self, values, slots, rows, grads, lr: float, step: int) -> None:
        """Update `values` and `slots` in place, at distinct `rows` [N] int32, by grads [N, width] float32."""
        ...


def rule_of(spec: TableSpec) -> Rule:
    """The rule of a table's optimizer."""
    return _RULES[type(spec.optimizer)](spec.optimizer)


class SGDRule:
    """`g += weight_decay * w; buf = momentum * buf + g; w -= lr * (nesterov ? g + momentum * buf : buf)`."""

    def __init__(self, optimizer: Optimizer) -> None:
        assert isinstance(optimizer, SGD)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [0.0] if self._o.momentum else []

    def apply(self, values, slots, rows, grads, lr: float, step: int) -> None:
        """As `Rule`."""
        o = self._o
        if o.momentum:
            _momentum(values, slots[0], rows, grads, F(lr), F(o.momentum), F(o.weight_decay), o.nesterov)
        else:
            _sgd(values, rows, grads, F(lr), F(o.weight_decay))


class AdagradRule:
    """`G += g * g; w -= lr * g / (sqrt(G) + eps)`."""

    def __init__(self, optimizer: Optimizer) -> None:
        assert isinstance(optimizer, Adagrad)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [self._o.initial_accumulator]

    def apply(self, values, slots, rows, grads, lr: float, step: int) -> None:
        """As `Rule`."""
        _adagrad(values, slots[0], rows, grads, F(lr), F(self._o.eps))


class AdamRule:
    """`m += (1-b1)(g-m); v += (1-b2)(g*g-v); w -= lr sqrt(1-b2^t)/(1-b1^t) m/(sqrt(v)+eps)`, as SparseAdam."""

    def __init__(self, optimizer: Optimizer) -> None:
        assert isinstance(optimizer, Adam)
        self._o = optimizer

    def slot_fills(self) -> list[float]:
        """As `Rule`."""
        return [0.0, 0.0]

    def apply(self, values, slots, rows, grads, lr: float, step: int) -> None:
        """As `Rule`."""
        b1, b2 = self._o.betas
        scale = lr * math.sqrt(1 - b2**step) / (1 - b1**step)
        _adam(values, slots[0], slots[1], rows, grads, F(scale), F(1 - b1), F(1 - b2), F(self._o.eps))


_RULES = {SGD: SGDRule, Adagrad: AdagradRule, Adam: AdamRule}


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sgd(values, rows, grads, lr, decay):
    width = values.shape[1]
    for k in range(len(rows)):
        w, g = values[rows[k]], grads[k]
        if decay != np.float32(0):
            for j in range(width):
                w[j] -= lr * (g[j] + decay * w[j])
        else:
            for j in range(width):
                w[j] -= lr * g[j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _momentum(values, buffers, rows, grads, lr, momentum, decay, nesterov):
    width = values.shape[1]
    for k in range(len(rows)):
        w, b, g = values[rows[k]], buffers[rows[k]], grads[k]
        for j in range(width):
            d = g[j] + decay * w[j]
            b[j] = momentum * b[j] + d
            w[j] -= lr * (d + momentum * b[j] if nesterov else b[j])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _adagrad(values, sums, rows, grads, lr, eps):
    width = values.shape[1]
    for k in range(len(rows)):
        w, s, g = values[rows[k]], sums[rows[k]], grads[k]
        for j in range(width):
            s[j] += g[j] * g[j]
            w[j] -= lr * g[j] / (np.sqrt(s[j]) + eps)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _adam(values, means, squares, rows, grads, scale, b1, b2, eps):
    width = values.shape[1]
    for k in range(len(rows)):
        w, m, v, g = values[rows[k]], means[rows[k]], squares[rows[k]], grads[k]
        for j in range(width):
            m[j] += b1 * (g[j] - m[j])
            v[j] += b2 * (g[j] * g[j] - v[j])
            w[j] -= scale * m[j] / (np.sqrt(v[j]) + eps)
