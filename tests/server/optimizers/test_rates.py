"""Learning-rate schedules against the formulas of Keras; and the exact functions against Python's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto.spec import Cosine, Exponential, WarmUp
from rowloom.server.optimizers import exact
from rowloom.server.optimizers.rates import Rates


@pytest.mark.parametrize("k", [0, 1, 7, 99, 100, 101, 5000])
def test_schedules_follow_the_formulas_of_keras(k: int) -> None:
    """K is the step as Keras counts it: 0 at the first update."""
    cosine = 0.1 * (0.8 * 0.5 * (1 + math.cos(math.pi * min(k, 100) / 100)) + 0.2)
    cases = [
        (0.25, 0.25),
        (Exponential(0.1, 100, 0.5), 0.1 * 0.5 ** (k / 100)),
        (Exponential(0.1, 100, 0.5, staircase=True), 0.1 * 0.5 ** (k // 100)),
        (Cosine(0.1, 100, alpha=0.2), cosine),
        (WarmUp(10, 0.1), 0.1 * min(k, 10) / 10),
        (WarmUp(50, Exponential(0.1, 100, 0.5), start=0.3), None),
    ]
    for lr, expected in cases:
        if expected is None:
            expected = 0.3 - 0.2 * k / 50 if k < 50 else 0.1 * 0.5 ** ((k - 50) / 100)
        assert Rates(lr).at(k + 1) == pytest.approx(expected, rel=1e-12), lr


def test_many_rates_at_once_are_the_rates_one_by_one() -> None:
    rates = Rates(WarmUp(5, Cosine(0.1, 20)))
    assert rates.between(3, 40).tolist() == [rates.at(step) for step in range(3, 41)]
    assert rates.between(5, 4).tolist() == []


@given(st.floats(1e-300, 1e300), st.floats(-690, 690), st.floats(0, math.pi / 2), st.integers(0, 10**7))
def test_exact_functions_are_right(x: float, y: float, angle: float, n: int) -> None:
    assert exact.log(x) == pytest.approx(math.log(x), rel=4e-16, abs=4e-16)
    assert exact.exp(y) == pytest.approx(math.exp(y), rel=1e-15)
    assert exact.cosine(angle) == pytest.approx(math.cos(angle), abs=3e-16)
    assert exact.power(0.9999, n) == pytest.approx(0.9999**n, rel=1e-9)


def test_exact_functions_at_their_edges() -> None:
    assert exact.power(0.0, 0) == exact.real_power(0.0, 0.0) == exact.real_power(3.0, 0.0) == 1.0
    assert exact.real_power(0.0, 0.5) == exact.power(0.5, 2000) == 0.0
    assert exact.exp(0.0) == exact.cosine(0.0) == 1.0
    assert exact.log(1.0) == 0.0


def test_exact_functions_have_these_bits_for_ever() -> None:
    golden = {
        exact.log(10.0): "0x1.26bb1bbb55516p+1",
        exact.exp(-1.0): "0x1.78b56362cef38p-2",
        exact.power(0.999, 12345): "0x1.22391fb9458b0p-18",
        exact.real_power(7.0, 0.3): "0x1.caf448719fef8p+0",
        exact.cosine(1.0): "0x1.14a280fb5068cp-1",
    }
    assert [x.hex() for x in golden] == list(golden.values())


def test_rates_of_numpy_and_python_numbers_are_floats() -> None:
    assert type(Rates(np.float32(0.5)).at(3)) is float  # type: ignore[arg-type]
    assert type(Rates(Exponential()).at(3)) is float
