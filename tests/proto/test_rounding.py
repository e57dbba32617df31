"""float32 to bfloat16: the bits of ml_dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto import codec
from rowloom.proto.rounding import to_bfloat16

CORNERS = [0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7F7FFFFF, 0x7F800000, 0x7F7F8000, 0x7F7F7FFF, 0x00010000]


@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from(CORNERS), max_size=40))
def test_every_pattern_of_bits_is_rounded_as_ml_dtypes_rounds_it(bits: list[int]) -> None:
    rows = np.array(bits, np.uint32).view(np.float32)
    out = np.empty(len(rows), np.uint16)
    to_bfloat16(rows, out)
    with np.errstate(all="ignore"):
        expected = rows.astype(ml_dtypes.bfloat16)
    numbers = ~np.isnan(rows)
    np.testing.assert_array_equal(out[numbers], expected.view(np.uint16)[numbers])
    assert np.isnan(out.view(ml_dtypes.bfloat16)[~numbers].astype(np.float32)).all()


@pytest.mark.parametrize("wire", [codec.FLOAT32, codec.BFLOAT16, codec.FLOAT16])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_rows_are_written_at_any_byte(wire: int, at: int) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)[:, ::-1]
    expected = codec.to_wire(rows, wire).data.tobytes()
    buffer = np.zeros(at + len(expected), np.uint8)
    codec.write_rows(rows, wire, buffer[at:])
    assert buffer[at:].tobytes() == expected


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 6), (np.float16, 6), (np.float32, 5)])
def test_rounding_wrote_past_its_buffer_when_rows_were_not_float32(dtype: type, size: int) -> None:
    out = np.full(64, 7, np.uint16)  # room, so that a break of this test harms nobody
    with pytest.raises(
        ValueError, match=r"rows must be float32 and out 6 uint16 .* got float\d\d rows and uint16"
    ):
        to_bfloat16(np.ones((2, 3), dtype), out[:size])
    assert (out == 7).all()
