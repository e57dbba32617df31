"""Rows as they travel: exact in float32, rounded to nearest in the others."""

import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowloom.proto import codec
from rowloom.proto import rowloom_pb2 as pb

WIRES = sorted(codec.WIRE_NUMBER.values())
FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)


def there_and_back(rows: np.ndarray, wire: int) -> np.ndarray:
    return codec.from_wire(codec.to_wire(rows, wire), wire)


@st.composite
def matrices(draw, limit):
    n, width = draw(st.integers(0, 6)), draw(st.integers(1, 5))
    values = st.floats(-limit, limit, width=32)
    return np.array(draw(st.lists(values, min_size=n * width, max_size=n * width)), np.float32).reshape(
        n, width
    )


@given(matrices(float(np.finfo(np.float32).max)))
def test_float32_travels_exactly_and_without_a_copy(rows):
    block = codec.to_wire(rows, codec.FLOAT32)
    assert block.data is rows
    assert there_and_back(rows, codec.FLOAT32).tobytes() == rows.tobytes()


@given(matrices(2.0**127))
def test_bfloat16_is_within_half_a_unit_of_its_eight_bits(rows):
    error = np.abs(there_and_back(rows, codec.BFLOAT16).astype(np.float64) - rows)
    assert (error <= np.maximum(np.abs(rows.astype(np.float64)) * 2**-8, 2**-134)).all()


@given(matrices(65504.0))
def test_float16_is_within_half_a_unit_of_its_eleven_bits(rows):
    error = np.abs(there_and_back(rows, codec.FLOAT16).astype(np.float64) - rows)
    assert (error <= np.maximum(np.abs(rows.astype(np.float64)) * 2**-11, 2**-25)).all()


def nearest(values: np.ndarray, kept_bits: int, smallest_exponent: int, largest: float) -> np.ndarray:
    """Round to nearest, ties to even, by exact arithmetic in float64; beyond the largest by half a unit: infinite."""
    wide = values.astype(np.float64)
    exponent = np.maximum(np.frexp(wide)[1] - 1, smallest_exponent)
    unit = np.ldexp(1.0, exponent - (kept_bits - 1))
    out = np.rint(wide / unit) * unit
    return np.where(np.abs(out) > largest, np.copysign(np.inf, wide), out)


@pytest.mark.parametrize(
    ("wire", "how"),
    [(codec.BFLOAT16, (8, -126, 255 * 2.0**120)), (codec.FLOAT16, (11, -14, 65504.0))],
)
def test_every_float32_is_rounded_to_the_nearest_and_ties_to_even(wire, how):
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 1 << 32, 200_000, np.uint32)
    exponents = np.arange(0, 256, dtype=np.uint32)[:, None] << np.uint32(23)
    dropped = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    kept = np.array([0, 1 << 13, 1 << 16, 0x7F << 16, 0x7FE000], np.uint32)[:, None]
    ties = (exponents + (dropped + kept).reshape(-1)).reshape(-1)
    bits = np.concatenate([anything, ties, ties | np.uint32(1 << 31)])
    values = bits.view(np.float32)[:, None]
    back = there_and_back(values, wire)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(back[finite], nearest(values[finite], *how).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(back), np.signbit(values))
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_array_equal(back[np.isinf(values)], values[np.isinf(values)])


@settings(deadline=None, max_examples=300)
@given(matrices(2.0**127))
def test_int8_is_within_half_a_step_of_the_rows_largest_value(rows):
    wide = rows.astype(np.float64)
    error = np.abs(there_and_back(rows, codec.INT8).astype(np.float64) - wide)
    largest = np.abs(wide).max(axis=1, initial=0.0, keepdims=True)
    # Below about 1e-36 the scale itself is a subnormal float32 and has fewer bits: off by at most half of the
    # smallest one for each of the 127 steps.
    assert (error <= largest / 127 * 0.5001 + 127 * 2**-149).all()


def test_int8_never_wraps_around_to_the_other_sign():
    rows = (np.arange(1, 2000, dtype=np.float64) * 2**-149).astype(np.float32)[:, None]
    assert (there_and_back(rows, codec.INT8) >= 0).all()
    assert (there_and_back(-rows, codec.INT8) <= 0).all()


def test_rows_of_zeros_travel_as_zeros():
    for wire in WIRES:
        assert there_and_back(np.zeros((2, 3), np.float32), wire).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_arrive_as_such_and_are_not_hidden(wire, bad):
    rows = np.array([[1.0, bad], [2.0, 3.0]], np.float32)
    with warnings.catch_warnings(), np.errstate(invalid="raise", over="raise"):
        warnings.simplefilter("error")
        back = there_and_back(rows, wire)
    assert not np.isfinite(back[0]).all()
    assert np.isfinite(back[1]).all()


def test_a_value_beyond_float16_arrives_as_infinite_without_a_warning():
    back = there_and_back(np.array([[1e6]], np.float32), codec.FLOAT16)
    assert np.isinf(back).all()


def test_wire_names_and_numbers_are_those_of_the_contract():
    assert {name.upper(): number for name, number in codec.WIRE_NUMBER.items()} == dict(pb.WireType.items())
    assert codec.WIRE_DTYPE[codec.BFLOAT16] == ml_dtypes.bfloat16
