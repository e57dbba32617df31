"""The bytes of one record of a log.

    magic u32 | crc32c u32 of all that follows | length u32 of the payload | kind u16 | version u16 | lsn u64
    | own offset u64 | prefix u64 | rows after it u64 | fold u32 | time u32 | payload | zeros to a multiple of 8

All little-endian. Offsets count the bytes of records since the log began; files and their headers are not in them.
The time is in whole seconds since 1970, UTC, by the shard's clock: who restores to a point in time needs no finer one,
and the four bytes were kept free, as zeros. So zero means that it is not known; versions read each other's records.

Why it is so. What must hold: a reader tells a record that was never finished from one that was damaged later. Records
are written beside each other, so after a crash a whole one may well follow a torn one, and neither was acknowledged.
Hence the *prefix*: how far the log was safe when room for this record was reserved. If the prefix of a whole record
lies behind a bad one, the bad one had been acknowledged. The *own offset* finds what was written to a wrong place and
makes records easy to find behind a bad one; the *lsn* says that none is missing.
The checksum starts from the *salt* of the segment, a number that no client knows. So a payload cannot hold bytes that
look like a record, and those that a file holds from its life as an earlier segment fail.
Rejected: a checksum that goes on from record to record. It would have to be made under the shard's lock, in order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

from ...proto.errors import StateLost
from ...proto.framing import Buffer

MAGIC = 0x4C57_4C52  # "RLWL"
VERSION = 1
ALIGNMENT = 8  # of records, so that those behind a bad one are looked for in a few places only
MAX_PAYLOAD_BYTES = (1 << 32) - 64
MAX_TIME_S = (1 << 32) - 1  # in the year 2106
OFFSET_AT = 24  # where a record has its own offset
_HEAD = struct.Struct("<IIIHHQQQQII")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
_CHECKED_FROM = 8
_PADS = [bytes(n) for n in range(ALIGNMENT)]


class LogCorrupt(StateLost):
    """A log lacks or garbles what had been acknowledged. Nothing of it was changed."""


class BadRecord(Exception):
    """There is no whole record at a place; the message says why."""


class Kind(IntEnum):
    """What a record holds."""

    PUSH = 1  # the request as it arrived
    CREATE = 2
    DROP = 3
    SET_LR = 4
    RECEIVE = 5  # the request to become a shard of another epoch, as it arrived
    RECEIVED = 6  # what another shard answered: rows
    LEDGER = 7  # and a piece of its ledger
    CUT = 8  # the state up to here is in a snapshot
    STEP = 9  # the request as it arrived; its pull is not looked at


class Head(NamedTuple):
    """What stands before a payload.

    Attributes:
        kind: a Kind; an unknown number where a newer version has written it.
        length: of the payload, in bytes.
        lsn: 1 for the first record of a log, then one more for each.
        offset: where the record begins, in bytes of records since the log began.
        prefix: up to which offset the log was safe when this record was reserved.
        rows_after: rows of the shard when the record had been applied.
        fold: 32 bits of what it made of its last row; replay compares.
        version: of this format.
        time_s: when it was made, in whole seconds since 1970; 0: the rowloom that wrote it did not say.
    """

    kind: int
    length: int
    lsn: int
    offset: int
    prefix: int
    rows_after: int = 0
    fold: int = 0
    version: int = VERSION
    time_s: int = 0

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + size_of(self.length)


class LoggedRecord(NamedTuple):
    """One record, checked; the payload lies in the buffer that it was parsed from."""

    head: Head
    payload: memoryview


def size_of(length: int) -> int:
    """Bytes of a record with a payload of so many."""
    return HEAD_BYTES + length + -length % ALIGNMENT


def encode(head: Head, payload: Sequence[Buffer], salt: int) -> list[Buffer]:
    """The record as buffers to be written one after the other; the payload is not copied.

    Args:
        head: length is that of the whole payload.
        payload: bytes-like, contiguous.
        salt: of the segment, below 2**32.
    """
    found = sum([memoryview(part).nbytes for part in payload])
    assert found == head.length, f"room was reserved for a payload of {head.length} bytes, got {found}"
    packed = bytearray(HEAD_BYTES)
    _HEAD.pack_into(
        packed,
        0,
        MAGIC,
        0,
        head.length,
        head.kind,
        head.version,
        head.lsn,
        head.offset,
        head.prefix,
        head.rows_after,
        head.fold,
        head.time_s,
    )
    crc = crc32c(memoryview(packed)[_CHECKED_FROM:], salt)
    for part in payload:
        crc = crc32c(part, crc)
    _CRC.pack_into(packed, 4, crc)
    return [memoryview(packed), *payload, _PADS[-head.length % ALIGNMENT]]


def parse_head(buffer: memoryview) -> Head:
    """The head at the beginning of a buffer of bytes. Its checksum is not looked at. Raises BadRecord."""
    if len(buffer) < HEAD_BYTES:
        raise BadRecord(f"{len(buffer)} bytes are left, a record has at least {HEAD_BYTES}")
    magic, _, length, kind, version, lsn, offset, prefix, rows_after, fold, time_s = _HEAD.unpack_from(buffer)
    if magic != MAGIC:
        raise BadRecord(f"it begins with {magic:#010x}, a record with {MAGIC:#010x}")
    return Head(kind, length, lsn, offset, prefix, rows_after, fold, version, time_s)


def parse(buffer: memoryview, salt: int) -> LoggedRecord:
    """The record at the beginning of a buffer of bytes, if every byte of it is as it was written.

    Raises:
        BadRecord: it is not.
        LogCorrupt: it is, but this version does not know what it means.
    """
    head = parse_head(buffer)
    end = HEAD_BYTES + head.length
    if len(buffer) < end:
        raise BadRecord(f"its payload of {head.length} bytes is cut off: {len(buffer) - HEAD_BYTES} are left")
    (written,) = _CRC.unpack_from(buffer, 4)
    found = crc32c(buffer[_CHECKED_FROM:end], salt)
    if found != written:
        raise BadRecord(f"its checksum is {written:#010x}, that of its bytes {found:#010x}")
    if head.version != VERSION or head.kind not in _KINDS:
        raise LogCorrupt(
            f"record {head.lsn} is of kind {head.kind} in version {head.version}; this version of rowloom knows kinds "
            f"{min(Kind)} to {max(Kind)} in version {VERSION}: a newer one has written it, so use that"
        )
    return LoggedRecord(head, buffer[HEAD_BYTES:end])


_KINDS = frozenset(Kind)
