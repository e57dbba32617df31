"""What a trainer keeps with a snapshot comes back to the bit, and what cannot is refused by its path and type."""

import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import safe_open
from safetensors.numpy import load

from rowloom.proto.errors import InvalidRequest, SnapshotCorrupt
from rowloom.proto.snapshots.extra import MAX_EXTRA_BYTES, decode_extra, encode_extra

FLOATS = st.one_of(st.floats(), st.binary(min_size=8, max_size=8).map(lambda b: struct.unpack("<d", b)[0]))
DTYPES = st.one_of(npst.scalar_dtypes(), npst.byte_string_dtypes(), npst.unicode_string_dtypes())
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, min_side=0, max_side=3))
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, TEXTS, st.binary(), ARRAYS)
KEYS = st.one_of(TEXTS, st.sampled_from(["$bytes", "$array", "$dict", "__metadata__", "dtype"]))
EXTRAS = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
)


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray | np.generic):
        return (
            a.dtype == b.dtype
            and a.dtype.str == b.dtype.str
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    return struct.pack("<d", a) == struct.pack("<d", b) if isinstance(a, float) else a == b


@given(EXTRAS)
def test_what_is_kept_comes_back_with_every_bit_and_type(extra):
    assert same(decode_extra(encode_extra(extra)), extra)


@pytest.mark.parametrize(
    "value",
    [
        10**5000,
        -(10**5000),
        2**63,
        -0.0,
        math.nan,
        math.inf,
        -math.inf,
        5e-324,
        np.float32(-0.0),
        np.int64(7),
        np.bool_(True),
        np.datetime64("2026-01-01"),
        np.array([1.5, np.nan], ">f8"),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.array([1 + 2j]),
        np.array("a\0b"),
        np.empty((0, 3), np.uint16),
        {},
        {"a": {"b": {"c": b"\0"}}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_at_the_edges_come_back(value):
    assert same(decode_extra(encode_extra({"x": value}))["x"], value)


def test_an_array_that_comes_back_may_be_written_to():
    decode_extra(encode_extra({"x": np.zeros(3)}))["x"][0] = 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"a": {"b": object()}}, r"extra\['a'\]\['b'\] is object, which is not kept"),
        ({"a": [1]}, r"extra\['a'\] is list"),
        ({1: 2}, "key 1 is int, keys must be str"),
        ({"a": np.array([object()])}, r"extra\['a'\] is of dtype object"),
        ({"a": np.zeros(2, [("x", "f4")])}, "is of dtype"),
        ({"a": np.zeros(2, ml_dtypes.bfloat16)}, "is of dtype bfloat16"),
        ({"a": "\ud800"}, "no text"),
        ([1], "extra must be a dict, got list"),
        ([], "extra must be a dict, got list"),
        (b"", "extra must be a dict, got bytes"),
        ({"a": bytes(MAX_EXTRA_BYTES)}, f"at most {MAX_EXTRA_BYTES} are kept"),
    ],
)  # fmt: skip
def test_what_is_not_kept_is_refused_by_its_path_and_type(extra, words):
    with pytest.raises(InvalidRequest, match=words):
        encode_extra(extra)


def test_a_dict_that_contains_itself_is_refused():
    extra: dict = {}
    extra["me"] = extra
    with pytest.raises(InvalidRequest, match="deep"):
        encode_extra(extra)


def test_anyone_with_safetensors_reads_it(tmp_path):
    data = encode_extra({"step": 7, "w": np.arange(3, dtype="f4"), "model": b"abc"})
    file = tmp_path / "extra.safetensors"
    file.write_bytes(data)
    with safe_open(str(file), "np") as opened:
        told = json.loads(opened.metadata()["extra"])
    assert told == {"step": 7, "w": {"$array": "0", "dtype": "<f4", "shape": [3]}, "model": {"$bytes": "1"}}
    tensors = load(data)
    assert tensors["0"].view("<f4").tolist() == [0, 1, 2]
    assert tensors["1"].tobytes() == b"abc"


@given(st.integers(0, 400), st.binary(max_size=3))
def test_damage_is_said_or_harmless_and_never_another_error(place, junk):
    data = encode_extra({"step": 7, "w": np.arange(3), "model": b"abc", "x": math.nan})
    try:
        decode_extra(data[:place] + junk)
        decode_extra(data[:place] + junk + data[place + 1 :])
    except SnapshotCorrupt:
        pass


def a_file(told: dict, places: list[tuple[int, int]], size: int) -> bytes:
    header = {"__metadata__": {"extra": json.dumps(told)}}
    header |= {
        str(k): {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for k, (begin, end) in enumerate(places)
    }
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(size)


def test_one_tensor_named_many_times_made_gigabytes_of_a_megabyte():
    assert decode_extra(a_file({"a": {"$bytes": "0"}}, [(0, 9)], 9)) == {"a": bytes(9)}
    with pytest.raises(SnapshotCorrupt, match="tensor '0' is not there, or is meant twice"):
        decode_extra(a_file({"a": {"$bytes": "0"}, "b": {"$bytes": "0"}}, [(0, 9)], 9))


@pytest.mark.parametrize("places", [[(0, 9), (8, 9)], [(0, 9), (0, 9)], [(-4, 9)], [(9, 4)], [(0, 10)]])
def test_tensors_that_lie_over_others_or_outside_were_taken(places):
    told = {str(k): {"$bytes": str(k)} for k in range(len(places))}
    with pytest.raises(SnapshotCorrupt, match="not one behind the other in 9"):
        decode_extra(a_file(told, places, 9))
