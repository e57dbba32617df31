"""How the row lane frames messages: the same requests and replies as over gRPC, on a plain socket.

A client asks for a shard's lane over gRPC (`Shard/DescribeLane`), connects, and says hello with the key that it
was given. Then requests and replies alternate in order, each a head and a message. On one machine the hello brings a
piece of shared memory along, the arena, and a head may say where in it the message lies instead of sending it.

    client ── Hello(key, arena bytes) [+ arena] ──▶ server          client ◀── one byte: WELCOME ── server
    client ── Request + message ─────────────────▶ server          client ◀── Reply + message ── server
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from .channel import MAX_MESSAGE_BYTES
from .errors import InvalidRequest
from .methods import ON_LANE

MAGIC = b"rowloom1"
WELCOME = b"w"
NUMBER = {method: i for i, method in enumerate(ON_LANE)}
SOCKET_BUFFER_BYTES = 4 << 20
ARENA_BYTES = 32 << 20  # of address space; memory is taken where it is used
NOWHERE = 0xFFFFFFFFFFFFFFFF  # in place of an offset: the message follows the head

_HELLO = struct.Struct("<8s16sQ")
_REQUEST = struct.Struct("<IIQQQ")
_REPLY = struct.Struct("<IIQQ")
HELLO_BYTES, REQUEST_BYTES, REPLY_BYTES = _HELLO.size, _REQUEST.size, _REPLY.size
OK, REFUSED = 0, 1  # Reply.status; the message of a refusal is an ErrorInfo

# Shared memory without a name, handed over with its descriptor: nothing can be left behind.
HAS_ARENAS = sys.platform == "linux"


class Hello(NamedTuple):
    """The first thing that a client sends. arena_bytes: 0 for none."""

    key: bytes
    arena_bytes: int

    def encode(self) -> bytes:
        """As bytes."""
        return _HELLO.pack(MAGIC, self.key, self.arena_bytes)

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        """From HELLO_BYTES bytes. Raises InvalidRequest."""
        magic, key, arena_bytes = _HELLO.unpack(data)
        if magic != MAGIC:
            raise InvalidRequest("what connected does not speak the row lane")
        return cls(key, arena_bytes)


# The same without objects, which take a good part of a small call's time.


encode_request: Callable[[int, int, int, int, int], bytes] = _REQUEST.pack  # as `Request.encode`


def encode_reply(status: int, length: int, offset: int = NOWHERE) -> bytes:
    """As `Reply.encode`."""
    return _REPLY.pack(status, 0, length, offset)


def decode_reply(data: bytes | bytearray | memoryview, arena_bytes: int) -> tuple[int, int, int]:
    """As `Reply.decode`, of the beginning of some bytes: (status, length, offset)."""
    status, _, length, offset = _REPLY.unpack_from(data)
    if (
        (offset + length <= arena_bytes or offset == NOWHERE)
        and status <= REFUSED
        and length <= MAX_MESSAGE_BYTES
    ):
        return status, length, offset
    raise InvalidRequest(f"malformed head on the row lane: status {status}, {length} bytes at {offset}")


class Request(NamedTuple):
    """The head of a request.

    Attributes:
        method: index in methods.ON_LANE.
        length: bytes of the message.
        offset: of the message in the arena, or NOWHERE.
        reply_offset, reply_bytes: a place in the arena for the reply; 0 bytes for none.
    """

    method: int
    length: int
    offset: int = NOWHERE
    reply_offset: int = 0
    reply_bytes: int = 0

    def encode(self) -> bytes:
        """As bytes."""
        return encode_request(*self)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview, arena_bytes: int = 0) -> Request:
        """From REQUEST_BYTES bytes; everything it says is checked. Raises InvalidRequest."""
        head = tuple.__new__(cls, _REQUEST.unpack(data))
        if head.method >= len(ON_LANE) or head.length > MAX_MESSAGE_BYTES:
            raise InvalidRequest(f"malformed head on the row lane: {head}")
        if head.offset != NOWHERE and head.offset + head.length > arena_bytes:
            raise InvalidRequest(
                f"the message lies outside of the {arena_bytes} bytes of shared memory: {head}"
            )
        if head.reply_bytes and head.reply_offset + head.reply_bytes > arena_bytes:
            raise InvalidRequest(
                f"the reply lies outside of the {arena_bytes} bytes of shared memory: {head}"
            )
        return head


class Reply(NamedTuple):
    """The head of a reply. status: OK or REFUSED; length and offset as in Request."""

    status: int
    length: int
    offset: int = NOWHERE

    def encode(self) -> bytes:
        """As bytes."""
        return encode_reply(*self)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview, arena_bytes: int = 0) -> Reply:
        """From REPLY_BYTES bytes; everything it says is checked. Raises InvalidRequest."""
        return cls(*decode_reply(data, arena_bytes))
