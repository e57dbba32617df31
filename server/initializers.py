"""The first value of a row: a pure function of (seed, table name, id, column), the same on every machine.

Counter-based: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), keyed by seed,
table and id, with the column as its counter. Normal values come from the inverse of the normal distribution (Wichura:
AS 241, 1988) with a logarithm made of +, -, * and / only, so that no machine's library can change a bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..proto.jit import kernel
from ..proto.spec import Constant, Initializer, Normal, TableSpec, TruncatedNormal, TwoSided, Uniform, Zeros

FILL, UNIFORM, NORMAL, TRUNCATED, TWO_SIDED = range(5)
# Phi(-2) and Phi(2) - Phi(-2), for values within two standard deviations.
_PHI_LOW, _PHI_SPAN = 0.022750131948179195, 0.9544997361036416


@dataclass(frozen=True)
class Start:
    """An initializer as kernels take it: what to do, two numbers, and the key of the table, in [-2**63, 2**63).

    Python's own numbers: numba takes twice as long to recognize numpy's.
    """

    kind: int
    a: float
    b: float
    key: int


def start_of(spec: TableSpec) -> Start:
    """The initializer of a table, ready for kernels."""
    i = spec.initializer
    kind, a, b = _parameters(i)
    name = int.from_bytes(hashlib.blake2b(spec.name.encode(), digest_size=8).digest(), "little")
    seed = getattr(i, "seed", 0) & 0xFFFFFFFFFFFFFFFF
    key = _mix_int(_mix_int(seed) ^ name)
    return Start(kind, float(a), float(b), key - (1 << 64) if key >> 63 else key)


def _parameters(i: Initializer) -> tuple[int, float, float]:
    if isinstance(i, Zeros):
        return FILL, 0.0, 0.0
    if isinstance(i, Constant):
        return FILL, i.value, 0.0
    if isinstance(i, Uniform):
        return UNIFORM, i.low, i.high - i.low
    if isinstance(i, TruncatedNormal):
        return TRUNCATED, i.mean, i.std
    if isinstance(i, Normal):
        return NORMAL, i.mean, i.std
    assert isinstance(i, TwoSided)
    return TWO_SIDED, i.low, i.high - i.low


def initial_rows(spec: TableSpec, ids: np.ndarray) -> np.ndarray:
    """What rows are before their first push. ids: [N] int64. Returns [N, width] float32."""
    out = np.empty((len(ids), spec.width), np.float32)
    r = start_of(spec)
    fill_rows(r.kind, r.a, r.b, r.key, np.ascontiguousarray(ids, np.int64), out)
    return out


def _mix_int(x: int) -> int:
    mask = 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)


@kernel
def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel
def fill_row(kind: int, a: float, b: float, key: int, row_id: int, out: np.ndarray):
    """Write the first value of one row. out: [width] float32."""
    width = len(out)
    if kind == FILL:
        value = np.float32(a)
        for j in range(width):
            out[j] = value
        return
    state = _mix(np.uint64(key) ^ _mix(np.uint64(row_id) + np.uint64(0x9E3779B97F4A7C15)))
    for j in range(width):
        state += np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(state)
        if kind == UNIFORM:
            # 24 bits: every value is exact in float32 before it is scaled, and below 1.
            u = np.float64(bits >> np.uint64(40)) * 5.9604644775390625e-08
            out[j] = np.float32(a + b * u)
        elif kind == TWO_SIDED:
            u = np.float64(bits >> np.uint64(40)) * 5.9604644775390625e-08
            size = a + b * u
            out[j] = np.float32(size if bits & np.uint64(1) else -size)
        else:
            # p = (2 k + 1) / 2**33 for a 32-bit k: never 0 or 1, and exact.
            p = (np.float64(bits >> np.uint64(32)) + 0.5) * 2.3283064365386963e-10
            if kind == TRUNCATED:
                p = _PHI_LOW + _PHI_SPAN * p
            out[j] = np.float32(a + b * normal_quantile(p))


@kernel
def fill_rows(kind: int, a: float, b: float, key: int, ids: np.ndarray, out: np.ndarray):
    """Write the first values of rows. ids: [N] int64, out: [N, width] float32."""
    for k in range(len(ids)):
        fill_row(kind, a, b, key, ids[k], out[k])


@kernel
def _log(x: float) -> float:
    """Natural logarithm of x in (0, 1), from IEEE-exact operations alone."""
    exponent = 0
    while x < 0.7071067811865476:
        x *= 2.0  # exact
        exponent += 1
    s = (x - 1.0) / (x + 1.0)
    z = s * s
    series = 0.0
    for k in range(21, 0, -2):  # atanh: s + s^3/3 + ..., |s| < 0.172
        series = series * z + 1.0 / k
    return 2.0 * s * series - exponent * 0.6931471805599453


@kernel
def normal_quantile(p: float) -> Any:
    """X with Phi(x) = p, for p in (0, 1), to about 1e-16 (Wichura, AS 241, PPND16)."""
    q = p - 0.5
    if -0.425 <= q <= 0.425:
        r = 0.180625 - q * q
        num = (
            (
                (
                    (
                        ((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r
                        + 45921.953931549871457
                    )
                    * r
                    + 13731.693765509461125
                )
                * r
                + 1971.5909503065514427
            )
            * r
            + 133.14166789178437745
        ) * r + 3.3871328727963666080
        den = (
            (
                (
                    (
                        ((5226.4952788528545610 * r + 28729.085735721942674) * r + 39307.895800092710610) * r
                        + 21213.794301586595867
                    )
                    * r
                    + 5394.1960214247511077
                )
                * r
                + 687.18700749205790830
            )
            * r
            + 42.313330701600911252
        ) * r + 1.0
        return q * num / den
    tail = p if q < 0.0 else 1.0 - p
    r = np.sqrt(-_log(tail))
    if r <= 5.0:
        r -= 1.6
        num = (
            (
                (
                    (
                        (
                            (7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r
                            + 2.41780725177450611770e-1
                        )
                        * r
                        + 1.27045825245236838258
                    )
                    * r
                    + 3.64784832476320460504
                )
                * r
                + 5.76949722146069140550
            )
            * r
            + 4.63033784615654529590
        ) * r + 1.42343711074968357734
        den = (
            (
                (
                    (
                        (
                            (1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r
                            + 1.51986665636164571966e-2
                        )
                        * r
                        + 1.48103976427480074590e-1
                    )
                    * r
                    + 6.89767334985100004550e-1
                )
                * r
                + 1.67638483018380384940
            )
            * r
            + 2.05319162663775882187
        ) * r + 1.0
    else:
        r -= 5.0
        num = (
            (
                (
                    (
                        (
                            (2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r
                            + 1.24266094738807843860e-3
                        )
                        * r
                        + 2.65321895265761230930e-2
                    )
                    * r
                    + 2.96560571828504891230e-1
                )
                * r
                + 1.78482653991729133580
            )
            * r
            + 5.46378491116411436990
        ) * r + 6.65790464350110377720
        den = (
            (
                (
                    (
                        (
                            (2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r
                            + 1.84631831751005468180e-5
                        )
                        * r
                        + 7.86869131145613259100e-4
                    )
                    * r
                    + 1.48753612908506148525e-2
                )
                * r
                + 1.36929880922735805310e-1
            )
            * r
            + 5.99832206555887937690e-1
        ) * r + 1.0
    x = num / den
    return -x if q < 0.0 else x
