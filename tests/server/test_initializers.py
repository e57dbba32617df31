"""First values: golden vectors, an independent reference, and the distributions."""

import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest

from rowloom.client import Constant, Initializer, Normal, TableSpec, TruncatedNormal, TwoSided, Uniform, Zeros
from rowloom.server.initializers import initial_rows

IDS = np.array([0, 1, 123456789012], np.int64)
GOLDEN = [
    (
        Uniform(-1, 1, seed=3),
        [
            ["-0x1.053c000000000p-5", "0x1.0e02600000000p-1", "-0x1.16fa140000000p-1"],
            ["0x1.8c0fd80000000p-2", "-0x1.51c1900000000p-2", "0x1.c4b2200000000p-4"],
            ["0x1.8105100000000p-3", "-0x1.9220c00000000p-3", "0x1.a968000000000p-5"],
        ],
    ),
    (
        Normal(seed=4),
        [
            ["-0x1.1b80200000000p-1", "-0x1.ab386c0000000p-1", "-0x1.9b46260000000p+0"],
            ["-0x1.361ff00000000p+1", "-0x1.48e9e20000000p-2", "0x1.7561e80000000p-2"],
            ["0x1.cf97840000000p-3", "-0x1.435a640000000p-2", "-0x1.7b3fe00000000p-2"],
        ],
    ),
    (
        TruncatedNormal(std=0.5, seed=5),
        [
            ["0x1.bfe1500000000p-1", "-0x1.5132a20000000p-2", "0x1.8cbc0c0000000p-3"],
            ["0x1.c38f440000000p-5", "-0x1.ba17b00000000p-4", "0x1.0186ea0000000p-2"],
            ["-0x1.edf0260000000p-3", "-0x1.5a5f3e0000000p-2", "-0x1.b766980000000p-2"],
        ],
    ),
    (
        TwoSided(0.25, 0.5, seed=6),
        [
            ["-0x1.27f04c0000000p-2", "0x1.323f7e0000000p-2", "0x1.8df5a20000000p-2"],
            ["0x1.758a840000000p-2", "0x1.9542940000000p-2", "-0x1.cf67480000000p-2"],
            ["-0x1.731ff60000000p-2", "0x1.b3b7dc0000000p-2", "0x1.3d89a80000000p-2"],
        ],
    ),
]
M = 2**64 - 1


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & M
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & M
    return x ^ (x >> 31)


def reference(spec: TableSpec, row_id: int) -> list[float]:
    """The same in plain Python integers; normal values by Python's own quantile function."""
    i = spec.initializer
    key = mix(
        mix(i.seed) ^ int.from_bytes(hashlib.blake2b(spec.name.encode(), digest_size=8).digest(), "little")
    )
    state, out = mix(key ^ mix(row_id + 0x9E3779B97F4A7C15 & M)), []
    for _ in range(spec.width):
        state = state + 0x9E3779B97F4A7C15 & M
        bits = mix(state)
        u, p = (bits >> 40) / 2**24, ((bits >> 32) + 0.5) / 2**32
        if isinstance(i, Uniform):
            out.append(i.low + (i.high - i.low) * u)
        elif isinstance(i, TwoSided):
            out.append((i.low + (i.high - i.low) * u) * (1 if bits & 1 else -1))
        else:
            if isinstance(i, TruncatedNormal):
                low, high = NormalDist().cdf(-2), NormalDist().cdf(2)
                p = low + (high - low) * p
            out.append(i.mean + i.std * NormalDist().inv_cdf(p))
    return out


@pytest.mark.parametrize(("initializer", "golden"), GOLDEN)
def test_first_values_are_these_for_ever(initializer: Initializer, golden: list[list[str]]) -> None:
    rows = initial_rows(TableSpec("golden", dim=3, initializer=initializer), IDS)
    assert [[float(x).hex() for x in row] for row in rows] == golden


@pytest.mark.parametrize(
    "initializer",
    [
        Uniform(-2, 5, seed=1),
        Normal(1, 3, seed=2),
        TruncatedNormal(0, 2, seed=3),
        TwoSided(0.5, 1, seed=4),
        Normal(seed=2**53),
    ],
)
def test_first_values_equal_a_reference_in_plain_python(initializer: Initializer) -> None:
    spec = TableSpec("reference", dim=16, initializer=initializer)
    ids = np.array([0, 1, 2, 7919, 2**31, 2**62, 2**63 - 2], np.int64)
    expected = np.array([reference(spec, int(i)) for i in ids])
    np.testing.assert_allclose(initial_rows(spec, ids), expected, rtol=1e-6, atol=1e-7)


def test_values_depend_on_seed_table_id_and_column_and_on_nothing_else() -> None:
    def rows(name: str = "a", seed: int = 0, ids=(1, 2)) -> np.ndarray:
        return initial_rows(TableSpec(name, dim=4, initializer=Uniform(seed=seed)), np.array(ids, np.int64))

    np.testing.assert_array_equal(rows(), rows())
    np.testing.assert_array_equal(rows(ids=(2, 1)), rows()[::-1])
    assert len(np.unique(np.concatenate([rows(), rows("b"), rows(seed=1), rows(ids=(3, 4))]))) == 32


def test_distributions_have_the_moments_that_their_names_promise() -> None:
    def rows(initializer: Initializer) -> np.ndarray:
        return initial_rows(TableSpec("moments", dim=64, initializer=initializer), np.arange(20_000)).astype(
            np.float64
        )

    u = rows(Uniform(-1, 3))
    assert abs(u.mean() - 1) < 0.01
    assert abs(u.std() - 4 / math.sqrt(12)) < 0.01
    assert u.min() >= -1
    assert u.max() < 3
    n = rows(Normal(2, 0.5))
    assert abs(n.mean() - 2) < 0.002
    assert abs(n.std() - 0.5) < 0.002
    assert abs(np.mean(np.abs(n - 2) < 0.5) - 0.682689) < 0.002
    t = rows(TruncatedNormal(0, 1))
    assert np.abs(t).max() <= 2
    assert abs(t.std() - 0.879626) < 0.002
    s = rows(TwoSided(0.5, 1))
    assert abs((s > 0).mean() - 0.5) < 0.002
    assert np.abs(s).min() >= 0.5
    assert np.abs(s).max() < 1
    # Neighbouring ids and columns have nothing to do with each other.
    assert abs(np.corrcoef(n[:-1].ravel(), n[1:].ravel())[0, 1]) < 0.003
    assert abs(np.corrcoef(n[:, :-1].ravel(), n[:, 1:].ravel())[0, 1]) < 0.003


def test_zeros_and_constant_fill() -> None:
    assert not initial_rows(TableSpec("z", dim=3, initializer=Zeros()), IDS).any()
    assert (initial_rows(TableSpec("c", dim=3, initializer=Constant(0.25)), IDS) == 0.25).all()
