"""Update kernels: one pass over the touched rows, in place, float32 throughout.

No fastmath and no float64 in the loops over columns: the first would change bits, the second costs a factor of four.
`values` and slots are [capacity, width] float32, `rows` [N] int32 are distinct, `grads` [N, width] float32. A zero
divided by zero, which only an eps of 0 can bring, leaves the weight as it is.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np

from ...proto.cpu_prefetch import AHEAD, fetch
from ...proto.jit import kernel
from .exact import power, real_power

ZERO, INFINITY = np.float32(0), np.float32(np.inf)


@kernel
def sgd(values, rows, grads, lr, decay):
    """`w -= lr * (g + decay * w)`."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
        w, g = values[rows[k]], grads[k]
        if decay != ZERO:
            for j in range(width):
                w[j] -= lr * (g[j] + decay * w[j])
        else:
            for j in range(width):
                w[j] -= lr * g[j]


@kernel
def momentum_sgd(values, buffers, rows, grads, lr, momentum, decay, nesterov):
    """`d = g + decay * w; b = momentum * b + d; w -= lr * (nesterov ? d + momentum * b : b)`."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(buffers, rows[k + AHEAD])
        w, b, g = values[rows[k]], buffers[rows[k]], grads[k]
        for j in range(width):
            d = g[j] + decay * w[j]
            b[j] = momentum * b[j] + d
            w[j] -= lr * (d + momentum * b[j] if nesterov else b[j])


@kernel
def adagrad(values, sums, rows, grads, lr, eps):
    """`s += g * g; w -= lr * g / (sqrt(s) + eps)`."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(sums, rows[k + AHEAD])
        w, s, g = values[rows[k]], sums[rows[k]], grads[k]
        for j in range(width):
            s[j] += g[j] * g[j]
            below = np.sqrt(s[j]) + eps
            w[j] -= lr * g[j] / below if below > ZERO else ZERO


@kernel
def rowwise_adagrad(values, sums, rows, grads, lr, eps):
    """`s += mean(g * g); w -= lr * g / (sqrt(s) + eps)`; the mean in float64, rounded once. sums: [capacity, 1]."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(sums, rows[k + AHEAD])
        w, g = values[rows[k]], grads[k]
        total = 0.0
        for j in range(width):
            total += np.float64(g[j]) * np.float64(g[j])
        s = sums[rows[k], 0] + np.float32(total / width)
        sums[rows[k], 0] = s
        below = np.sqrt(s) + eps
        if below > ZERO:
            for j in range(width):
                w[j] -= lr * g[j] / below


@kernel
def adam(values, means, squares, rows, grads, scale, b1, b2, eps, keep):
    """`w *= keep; m += b1 (g - m); v += b2 (g * g - v); w -= scale * m / (sqrt(v) + eps)`; b1 and b2 are 1 - beta."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(means, rows[k + AHEAD])
            fetch(squares, rows[k + AHEAD])
        w, m, v, g = values[rows[k]], means[rows[k]], squares[rows[k]], grads[k]
        for j in range(width):
            m[j] += b1 * (g[j] - m[j])
            v[j] += b2 * (g[j] * g[j] - v[j])
            below = np.sqrt(v[j]) + eps
            w[j] = keep * w[j] - (scale * m[j] / below if below > ZERO else ZERO)


@kernel
def adam_by_row(values, means, squares, counts, rows, grads, lr, beta1, beta2, eps, eps_inside, keep):
    """`adam` with the step that each row counts, up to 2**24, where the rate has settled. counts: [capacity, 1]."""
    width = values.shape[1]
    b1, b2 = np.float32(1.0 - beta1), np.float32(1.0 - beta2)
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(means, rows[k + AHEAD])
            fetch(squares, rows[k + AHEAD])
        w, m, v, g = values[rows[k]], means[rows[k]], squares[rows[k]], grads[k]
        t = min(np.int64(counts[rows[k], 0]) + 1, 1 << 24)
        counts[rows[k], 0] = t
        root = np.sqrt(1.0 - power(beta2, t))
        scale = np.float32(lr * root / (1.0 - power(beta1, t)))
        small = np.float32(eps * root) if eps_inside else np.float32(eps)
        for j in range(width):
            m[j] += b1 * (g[j] - m[j])
            v[j] += b2 * (g[j] * g[j] - v[j])
            below = np.sqrt(v[j]) + small
            w[j] = keep * w[j] - (scale * m[j] / below if below > ZERO else ZERO)


@kernel
def rmsprop(values, squares, rows, grads, lr, alpha, rest, eps):
    """`s = alpha * s + rest * (g * g); w -= lr * g / (sqrt(s) + eps)`; rest is 1 - alpha."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(squares, rows[k + AHEAD])
        w, s, g = values[rows[k]], squares[rows[k]], grads[k]
        for j in range(width):
            s[j] = alpha * s[j] + rest * (g[j] * g[j])
            below = np.sqrt(s[j]) + eps
            w[j] -= lr * g[j] / below if below > ZERO else ZERO


@kernel
def momentum_rmsprop(values, squares, buffers, rows, grads, lr, alpha, rest, eps, momentum):
    """`s` as `rmsprop`; `b = momentum * b + g / (sqrt(s) + eps); w -= lr * b`."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(squares, rows[k + AHEAD])
            fetch(buffers, rows[k + AHEAD])
        w, s, b, g = values[rows[k]], squares[rows[k]], buffers[rows[k]], grads[k]
        for j in range(width):
            s[j] = alpha * s[j] + rest * (g[j] * g[j])
            below = np.sqrt(s[j]) + eps
            b[j] = momentum * b[j] + (g[j] / below if below > ZERO else ZERO)
            w[j] -= lr * b[j]


@kernel
def adadelta(values, squares, steps, rows, grads, lr, rho, rest, eps):
    """`s = rho s + rest (g * g); d = sqrt(a + eps) / sqrt(s + eps) * g; a = rho a + rest (d * d); w -= lr * d`."""
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(squares, rows[k + AHEAD])
            fetch(steps, rows[k + AHEAD])
        w, s, a, g = values[rows[k]], squares[rows[k]], steps[rows[k]], grads[k]
        for j in range(width):
            s[j] = rho * s[j] + rest * (g[j] * g[j])
            below = np.sqrt(s[j] + eps)
            d = np.sqrt(a[j] + eps) / below * g[j] if below > ZERO else ZERO
            a[j] = rho * a[j] + rest * (d * d)
            w[j] -= lr * d


@kernel
def ftrl(values, squares, linear, rows, grads, lr, p, l1, more, shrink):
    """FTRL-proximal. p: -lr_power; more: 2 l2 + beta / lr; shrink: 2 l2_shrinkage; lr is above 0.

    Where float32 cannot hold z or what divides, because lr is tiny or g huge, a column stays as it is.
    """
    width = values.shape[1]
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            fetch(values, rows[k + AHEAD])
            fetch(squares, rows[k + AHEAD])
            fetch(linear, rows[k + AHEAD])
        w, n, z, g = values[rows[k]], squares[rows[k]], linear[rows[k]], grads[k]
        for j in range(width):
            grown = n[j] + g[j] * g[j]
            if p == 0.5:
                before, after = np.sqrt(n[j]), np.sqrt(grown)
            else:
                before, after = np.float32(real_power(n[j], p)), np.float32(real_power(grown, p))
            moved = z[j] + ((g[j] + shrink * w[j]) - (after - before) / lr * w[j])
            below = after / lr + more
            if abs(moved) < INFINITY and below < INFINITY:  # and no NaN
                z[j] = moved
                n[j] = grown
                if below > ZERO:
                    w[j] = (min(max(moved, -l1), l1) - moved) / below


@kernel
def clip(grads, limit, out):
    """Each row of grads, scaled down to the Euclidean norm `limit` (float64) if it is longer."""
    width = grads.shape[1]
    for k in range(len(grads)):
        total = 0.0
        for j in range(width):
            total += np.float64(grads[k, j]) * np.float64(grads[k, j])
        norm = np.sqrt(total)
        factor = np.float32(limit / norm) if norm > limit else np.float32(1)
        for j in range(width):
            out[k, j] = grads[k, j] * factor


@kernel
def bound(values, rows, low, high):
    """Bring the weights of rows into [low, high]."""
    width = values.shape[1]
    for row in rows:
        w = values[row]
        for j in range(width):
            w[j] = min(max(w[j], low), high)
