"""Protobuf's wire format, as far as the hot messages need it: fields out, fields in, arrays without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from .errors import InvalidRequest

Buffer = bytes | memoryview

# What one message for rows may be made of. Its bytes are bounded, but a field may be two of them, and costs a shard
# some microseconds while all others wait. Clients cut what names more tables into several requests.
MOST_TABLES = 4096
OTHER_FIELDS = 1024  # names of a push among them, and what a newer version may have
MOST_FIELDS = MOST_TABLES + OTHER_FIELDS
MOST_TABLE_FIELDS = 32  # of one table: there are six


def joined(buffers: Sequence[Buffer]) -> bytes:
    """All of their bytes, one after the other."""
    return b"".join(buffers)


def size_of(buffers: Sequence[Buffer]) -> int:
    """How many bytes they have together."""
    size = 0
    for buffer in buffers:
        size += len(buffer) if isinstance(buffer, bytes) else buffer.nbytes
    return size


def varint(value: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, lowest first."""
    if value < 0x80:
        return _BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_BYTE = [bytes([i]) for i in range(0x80)]


def varint_bytes(value: int) -> int:
    """How long `varint` is."""
    return (value.bit_length() + 6) // 7 or 1


def framed(number: int, buffers: Sequence[Buffer]) -> list[Buffer]:
    """A length-delimited field whose content is the buffers, one after the other."""
    return [_BYTE[number << 3 | 2] + varint(size_of(buffers)), *buffers]


def scalar(number: int, value: int) -> bytes:
    """A number's field; nothing for 0."""
    return varint(number << 3) + varint(value) if value else b""


def raw(array: np.ndarray, dtype: np.dtype) -> memoryview:
    """An array's bytes in C order; a view if it lies so."""
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    return flat.view(np.uint8).data


def fields(data: memoryview, most: int = MOST_FIELDS) -> list[tuple[int, Any]]:
    """(field number, value): ints for varints, memoryviews for what has a length or a fixed size. Raises as `spans`."""
    return [
        (number, data[begin:end] if value is None else value)
        for number, value, begin, end, _ in spans(data, most)
    ]


def spans(data: memoryview, most: int = MOST_FIELDS) -> list[tuple[int, int | None, int, int, int]]:
    """(field number, varint or None, where its bytes begin and end, where the field begins) of each field.

    Raises InvalidRequest: it is malformed, or has more than so many fields.
    """
    out: list[tuple[int, int | None, int, int, int]] = []
    at, size = 0, len(data)
    try:
        while at < size:
            start = at
            tag, at = read_varint(data, at)
            kind = tag & 7
            value = None
            begin = at
            if kind == 2:
                length, begin = read_varint(data, at)
                at = begin + length
            elif kind == 0:
                value, at = read_varint(data, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                raise InvalidRequest(f"malformed message: wire type {kind} at byte {at}")
            if at > size or tag < 8:
                raise InvalidRequest(f"malformed message: a field runs past its end at byte {size}")
            if len(out) == most:
                raise InvalidRequest(
                    f"a message of {size} bytes has more than {most} fields, the most that are read: "
                    "send fewer tables in one request"
                )
            out.append((tag >> 3, value, begin, at, start))
    except IndexError:
        raise InvalidRequest("malformed message: cut short in the middle of a number") from None
    return out


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """(number, where it ends). Raises IndexError at the end of data, InvalidRequest."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + 1
        shift += 7
        if shift > 63:
            raise InvalidRequest(f"malformed message: a number longer than 10 bytes at byte {at}")


def array_of(value: object, dtype: np.dtype, what: str) -> np.ndarray:
    """A field's bytes as a flat array, a view that is not to be written to. Raises InvalidRequest."""
    if not isinstance(value, memoryview):
        raise InvalidRequest(f"malformed message: {what} must be bytes")
    if len(value) % dtype.itemsize:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidRequest(
            f"{what} has {len(value)} bytes, which is no multiple of {dtype.itemsize} ({dtype.name})"  # pyright: ignore[reportUnknownArgumentType]
        )
    return np.frombuffer(value, dtype)  # pyright: ignore[reportUnknownArgumentType]


def too_many_tables(most: int) -> InvalidRequest:
    """What is said of a request that names more than so many."""
    return InvalidRequest(
        f"one request names more than {most} tables, the most that it may: send fewer in one"
    )


def refuse_longer(size: int, most: int, what: str) -> None:
    """Raise InvalidRequest for what has more bytes than it may."""
    if size > most:
        raise InvalidRequest(f"{what} has {size} bytes, at most {most} are read")


def message_of(cls: type, value: object) -> Any:
    """A small submessage, by protobuf itself."""
    # bytes() of a number would be that many zeros: what comes from the wire must not choose how many.
    data = value if isinstance(value, bytearray) else submessage(value)
    try:
        return cls.FromString(bytes(data))  # type: ignore[attr-defined]
    except DecodeError as e:
        raise InvalidRequest(f"malformed message: {cls.__name__} does not parse") from e


def submessage(value: object) -> memoryview:
    """A field's bytes. Raises InvalidRequest for a number."""
    if not isinstance(value, memoryview):
        raise InvalidRequest("malformed message: a number where a message should be")
    return value  # pyright: ignore[reportUnknownVariableType]


# ---------------------------------------------------------------------------------------------------- trace context

TRACE = (
    b"\xfa\x06\x19"  # the head of `trace_context`, field 111, of 25 bytes; no other message begins like that
)
TRACE_BYTES = len(TRACE) + 25  # divisible by 4, so that what follows lies as well as without it


def split_trace(data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """(the trace context that a request for rows begins with, or nothing; the request without it, a view)."""
    if len(data) < TRACE_BYTES or bytes(data[: len(TRACE)]) != TRACE:
        return b"", data
    return bytes(data[len(TRACE) : TRACE_BYTES]), memoryview(data)[TRACE_BYTES:]
