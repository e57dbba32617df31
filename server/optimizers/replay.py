"""What dense optimizers do to rows that pushes did not name, caught up step by step when a row is next needed.

Each step is the update of `kernels` with a gradient of zeros, so a row is at every moment what it would be if all rows
moved at every push, bit for bit. Loops end early only where no further step can change a bit of the weights.
`lasts` [capacity, 2] holds the step that a row has reached, as two floats: last = 2**24 * high + low.
Arrays of rates hold those of the steps from `first` on. All kernels work in place.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np

from ...proto.jit import kernel
from .exact import power

ZERO, ONE = np.float32(0), np.float32(1)
MANY = 16777216  # 2**24: whole numbers up to here are exact in float32


@kernel
def reached(lasts, rows, out):
    """The step that each row has reached. out: [N] int64."""
    for k in range(len(rows)):
        out[k] = np.int64(lasts[rows[k], 0]) * MANY + np.int64(lasts[rows[k], 1])


@kernel
def stamp(lasts, rows, step):
    """Note that rows have reached a step, unless they had passed it."""
    for row in rows:
        if np.int64(lasts[row, 0]) * MANY + np.int64(lasts[row, 1]) < step:
            lasts[row, 0] = np.float32(step // MANY)
            lasts[row, 1] = np.float32(step % MANY)


@kernel
def shrink(slot, since, rows, step, factor):
    """`x *= factor` for each step after since[k]."""
    for k in range(len(rows)):
        x = slot[rows[k]]
        for n in range(step - since[k]):
            if n % 64 == 0 and _settled(x, factor):
                break
            for j in range(len(x)):
                x[j] *= factor


@kernel
def _settled(x, factor):
    same = True
    for j in range(len(x)):
        same &= x[j] * factor == x[j]
    return same


@kernel
def decay(values, since, rows, first, lrs, rate, low, high):
    """`w -= lr * (rate * w)`, kept in [low, high], up to the last of lrs."""
    end = first + len(lrs)
    for k in range(len(rows)):
        w = values[rows[k]]
        for step in range(since[k] + 1, end):
            lr = lrs[step - first]
            for j in range(len(w)):
                x = w[j] - lr * (rate * w[j])
                w[j] = min(max(x, low), high)


@kernel
def momentum(values, buffers, since, rows, first, lrs, lr_max, factor, rate, nesterov, low, high):
    """`d = rate * w; b = factor * b + d; w -= lr * (nesterov ? d + factor * b : b)`, kept in [low, high]."""
    end = first + len(lrs)
    for k in range(len(rows)):
        w, b = values[rows[k]], buffers[rows[k]]
        step = since[k] + 1
        while step < end:
            # Without decay the buffer only shrinks: once it is too small to move any weight, it stays so.
            if (step - since[k]) % 16 == 1 and rate == ZERO and _at_rest(w, b, lr_max, low, high):
                break
            lr = lrs[step - first]
            for j in range(len(w)):
                d = rate * w[j]
                b[j] = factor * b[j] + d
                x = w[j] - lr * (d + factor * b[j] if nesterov else b[j])
                w[j] = min(max(x, low), high)
            step += 1
        for n in range(end - step):
            if n % 64 == 0 and _settled(b, factor):
                break
            for j in range(len(b)):
                b[j] *= factor


@kernel
def _at_rest(w, b, lr_max, low, high):
    for j in range(len(w)):
        u = lr_max * abs(b[j])
        if w[j] - u != w[j] or w[j] + u != w[j] or min(max(w[j], low), high) != w[j]:
            return False
    return True


@kernel
def adam_rates(lrs, first, beta1, beta2, eps, eps_inside, weight_decay, scales, smalls, keeps):
    """What `kernels.adam` takes at each step. lrs: float64; scales, smalls and keeps are written, float32."""
    for k in range(len(lrs)):
        root = np.sqrt(1.0 - power(beta2, first + k))
        scales[k] = lrs[k] * root / (1.0 - power(beta1, first + k))
        smalls[k] = eps * root if eps_inside else eps
        keeps[k] = 1.0 - lrs[k] * weight_decay


@kernel
def adam(
    values,
    means,
    squares,
    since,
    rows,
    first,
    scales,
    smalls,
    keeps,
    beta1,
    beta2,
    decays,
    low,
    high,
    weights_only,
):
    """`kernels.adam` with g = 0, kept in [low, high], up to the last of scales. weights_only: moments may be left."""
    b1, b2 = np.float32(1.0 - beta1), np.float32(1.0 - beta2)
    end = first + len(scales)
    scale_max, small_min = np.max(scales), np.min(smalls)
    # Where m shrinks faster than sqrt(v), each step is smaller than the one before: until m comes to the smallest
    # numbers there are, where rounding stops it; what is left of it there, over eps alone, is the floor.
    contracts = beta1 < 0.999 * np.sqrt(beta2)
    floor = np.float32(scale_max * (64.0 / (1.0 - beta1)) * 1.401298464324817e-45 / small_min)
    for k in range(len(rows)):
        w, m, v = values[rows[k]], means[rows[k]], squares[rows[k]]
        step = since[k] + 1
        while step < end:
            if (step - since[k]) % 16 == 1:
                if not decays and _adam_at_rest(w, m, v, scale_max, small_min, floor, contracts, low, high):
                    break
                if decays and not np.any(m):
                    _keep(w, keeps[step - first :], low, high)
                    break
            scale, small, keep = scales[step - first], smalls[step - first], keeps[step - first]
            for j in range(len(w)):
                m[j] += b1 * (ZERO - m[j])
                v[j] += b2 * (ZERO - v[j])
                below = np.sqrt(v[j]) + small
                x = keep * w[j] - (scale * m[j] / below if below > ZERO else ZERO)
                w[j] = min(max(x, low), high)
            step += 1
        if not weights_only:
            _fade(m, end - step, b1)
            _fade(v, end - step, b2)


@kernel
def _adam_at_rest(w, m, v, scale_max, small_min, floor, contracts, low, high):
    for j in range(len(w)):
        size = abs(m[j])
        if size > ZERO:
            below = np.sqrt(v[j]) + small_min if contracts else small_min
            u = max(np.float32(1.01) * (scale_max * size / below), floor)
            if w[j] - u != w[j] or w[j] + u != w[j]:
                return False
        if min(max(w[j], low), high) != w[j]:
            return False
    return True


@kernel
def _keep(w, keeps, low, high):
    for keep in keeps:
        for j in range(len(w)):
            w[j] = min(max(keep * w[j], low), high)


@kernel
def _fade(x, steps, part):
    """`x += part * (0 - x)`, as a mean does whose samples are zeros."""
    for n in range(steps):
        if n % 64 == 0:
            moved = False
            for j in range(len(x)):
                moved |= x[j] + part * (ZERO - x[j]) != x[j]
            if not moved:
                break
        for j in range(len(x)):
            x[j] += part * (ZERO - x[j])
