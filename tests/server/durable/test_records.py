"""A record's bytes: what goes in comes out, and nothing else does."""

import struct

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto.errors import StateLost
from rowloom.server.durable.records import (
    HEAD_BYTES,
    MAGIC,
    OFFSET_AT,
    BadRecord,
    Head,
    Kind,
    LogCorrupt,
    encode,
    parse,
    parse_head,
    size_of,
)

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)


def joined(head, payload, salt):
    return memoryview(b"".join(encode(head, payload, salt)))


@given(
    st.sampled_from(list(Kind)),
    st.lists(st.binary(max_size=40), max_size=4),
    U64,
    U64,
    U64,
    U64,
    U32,
    U32,
    U32,
)
def test_a_record_comes_back_as_it_was(kind, parts, lsn, offset, prefix, rows_after, fold, salt, time_s):
    head = Head(kind, sum(map(len, parts)), lsn, offset, prefix, rows_after, fold, time_s=time_s)
    data = joined(head, parts, salt)
    assert len(data) == size_of(head.length) == head.end - offset
    assert len(data) % 8 == 0
    record = parse(data, salt)
    assert (record.head, bytes(record.payload)) == (head, b"".join(parts))
    assert parse_head(data) == head


def test_a_head_is_laid_out_as_its_file_says():
    data = bytes(joined(Head(Kind.CUT, 3, 7, 80, 40, 1000, 0xABCD, time_s=9), [b"xyz"], 5))
    assert HEAD_BYTES == 56
    assert struct.unpack_from("<I4xIHHQQQQII", data) == (MAGIC, 3, 8, 1, 7, 80, 40, 1000, 0xABCD, 9)
    assert struct.unpack_from("<Q", data, OFFSET_AT) == (80,)
    assert struct.unpack_from("<I", data, 4) == (crc32c(data[8:59], 5),)
    assert data[56:] == b"xyz" + bytes(5)


def test_payloads_are_not_copied():
    rows = np.arange(1000, dtype=np.float32).reshape(10, 100)
    buffers = encode(Head(Kind.RECEIVED, rows.nbytes, 1, 0, 0), [rows.data, memoryview(b"")], 0)
    assert np.shares_memory(np.asarray(buffers[1]), rows)


def test_a_record_of_before_there_were_times_is_read_and_says_none():
    old = struct.pack("<IHHQQQQI4x", 3, Kind.PUSH, 1, 7, 80, 40, 1000, 0xABCD)
    data = struct.pack("<II", MAGIC, crc32c(old + b"xyz", 5)) + old + b"xyz" + bytes(5)
    assert parse(memoryview(data), 5).head == Head(Kind.PUSH, 3, 7, 80, 40, 1000, 0xABCD)


@given(st.binary(min_size=0, max_size=30), st.data())
def test_any_byte_that_is_flipped_is_noticed(payload, data):
    whole = joined(Head(Kind.PUSH, len(payload), 9, 160, 80), [payload], 77)
    place = data.draw(st.integers(0, HEAD_BYTES + len(payload) - 1))
    broken = bytearray(whole)
    broken[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadRecord):
        parse(memoryview(broken), 77)


@given(st.binary(max_size=30), st.data())
def test_any_record_that_is_cut_is_noticed(payload, data):
    whole = joined(Head(Kind.PUSH, len(payload), 9, 160, 80), [payload], 77)
    length = data.draw(st.integers(0, HEAD_BYTES + len(payload) - 1))
    with pytest.raises(BadRecord, match=r"are left|cut off"):
        parse(whole[:length], 77)


def test_a_record_with_another_segments_salt_is_none():
    with pytest.raises(BadRecord, match="checksum"):
        parse(joined(Head(Kind.PUSH, 5, 1, 0, 0), [b"bytes"], 1), 2)


@pytest.mark.parametrize(("kind", "version"), [(Kind.PUSH, 2), (99, 1), (0, 1)])
def test_a_whole_record_of_a_newer_version_is_refused_and_not_dropped(kind, version):
    data = joined(Head(kind, 5, 4, 0, 0, version=version), [b"bytes"], 1)
    with pytest.raises(LogCorrupt, match=f"record 4 is of kind {int(kind)} in version {version}.*newer"):
        parse(data, 1)
    assert issubclass(LogCorrupt, StateLost)


def test_a_payload_of_another_length_than_was_reserved_is_our_own_mistake():
    with pytest.raises(AssertionError, match="reserved for a payload of 5 bytes, got 4"):
        encode(Head(Kind.PUSH, 5, 1, 0, 0), [b"four"], 0)
