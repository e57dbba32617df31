"""Powers, logarithms and cosines made of +, -, * and / alone, so that no machine's library can change a bit.

float64 in and out, correct to about 1e-15; the arguments are those that rates and update rules have.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np

from ...proto.jit import kernel

LN2_HIGH, LN2_LOW = (
    0.69314718055989033,
    5.4979230187083712e-14,
)  # the sum is ln 2; the first has 11 zero bits at its end


@kernel
def power(base, n):
    """Base**n for a whole n >= 0, by squaring."""
    result = 1.0
    while n > 0:
        if n & 1:
            result *= base
        base *= base
        n >>= 1
    return result


@kernel
def log(x):
    """Natural logarithm of a finite x > 0."""
    exponent = 0
    while x < 0.7071067811865476:
        x *= 2.0  # exact
        exponent -= 1
    while x >= 1.4142135623730951:
        x *= 0.5
        exponent += 1
    s = (x - 1.0) / (x + 1.0)
    z = s * s
    series = 0.0
    for k in range(21, 0, -2):  # atanh: s + s^3/3 + ..., |s| < 0.172
        series = series * z + 1.0 / k
    return exponent * LN2_HIGH + (2.0 * s * series + exponent * LN2_LOW)


@kernel
def exp(y):
    """e**y for |y| < 700."""
    k = np.int64(np.floor(y * 1.4426950408889634 + 0.5))
    r = (y - k * LN2_HIGH) - k * LN2_LOW
    series = 1.0
    for n in range(16, 0, -1):  # Taylor, |r| < 0.35
        series = series * r / n + 1.0
    return series * (power(2.0, k) if k >= 0 else 1.0 / power(2.0, -k))


@kernel
def real_power(x, p):
    """x**p for x >= 0 and p >= 0; also of infinity, which a sum of squares becomes, and `log` would never end on."""
    if p == 0.0:
        return 1.0
    if x == np.inf:
        return x
    return 0.0 if x == 0.0 else exp(p * log(x))


@kernel
def cosine(x):
    """Cosine of x in [0, pi / 2]."""
    z = x * x
    series = 1.0
    for n in range(24, 0, -2):  # Taylor
        series = 1.0 - series * z / (n * (n - 1))
    return series
