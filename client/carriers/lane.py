"""A row lane on the client's side: one connection to one shard, and the memory that its messages lie in.

Why a request is written where it is sent from: copying 2 MB of gradients costs as much as applying them. On shared
memory the message lies in the arena and only its head is sent; on a plain socket the head stands in front of it in
memory, and both go in one call. The reply has its place in the same memory: rows are read from where they arrive.
"""

from __future__ import annotations

import mmap
import socket
from collections import deque

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, decode_error
from ...proto.lane import (
    ARENA_BYTES,
    NOWHERE,
    OK,
    REPLY_BYTES,
    REQUEST_BYTES,
    decode_reply,
    encode_request,
)
from ...proto.security.credentials import NOTHING, Credentials
from ...proto.security.lane_dial import dial
from ..calls.operation import Event, Send

BUFFER_BYTES = 20 << 20  # of a plain socket's lane: memory only where it is written
PATIENCE_S = 0.2  # how long `receive` blocks before it lets its caller look at the clock
_ROOM = 64  # in front of a message and of a reply, for their heads; their places are multiples of it
_NOW = socket.MSG_DONTWAIT


# A reply that is to come: its request; it may lie in buffer[at : at + room].
Expected = tuple[Send, np.ndarray, int, int]


class Lane:
    """One connection. Used by one operation at a time; replies come in the order of the requests.

    Args:
        end: connected and welcomed.
        arena: memory shared with the server, or None.

    Attributes:
        waiting: replies to come.
    """

    def __init__(self, end: socket.socket, arena: mmap.mmap | None) -> None:
        self._end = end
        self._arena_bytes = 0 if arena is None else len(arena)
        self._space = np.empty(BUFFER_BYTES, np.uint8) if arena is None else np.frombuffer(arena, np.uint8)
        self._used = 0
        self._unsent: list[memoryview] = []
        self.waiting: deque[Expected] = deque()
        self._body: np.ndarray | None = None  # of the reply whose head is here
        self._status = OK
        self._got = 0  # bytes of the head, then of the body

    def fileno(self) -> int:
        """For poll."""
        return self._end.fileno()

    def close(self) -> None:
        """Close the connection. What it handed out stays readable."""
        self._end.close()

    @property
    def clogged(self) -> bool:
        """Whether something waits for room in the socket's buffer: call `flush` when it can be written to."""
        return bool(self._unsent)

    def start_anew(self) -> bool:
        """All that was handed out is read: the memory may be written over. Whether nothing more can arrive there."""
        self._used = 0
        return not self.waiting

    def send(self, method: int, send: Send) -> bool:
        """Put a request on its way; whether all there is to do now is to wait for its reply. Raises OSError."""
        message, waiting, shared = send.message, self.waiting, self._arena_bytes
        room = message.reply_bytes
        buffer, begin = self._space, self._used + _ROOM
        reply_at = begin + (message.size + 2 * _ROOM - 1 & -_ROOM)
        if (end := reply_at + room) <= len(buffer):
            self._used = end + _ROOM - 1 & -_ROOM
        else:  # too much for what is left: it travels through the socket, from memory of its own
            shared, begin, reply_at = 0, _ROOM, reply_at - begin + _ROOM
            buffer = np.empty(reply_at + room, np.uint8)
        # First, so that a lane on which anything was sent is never taken for an idle one, whatever happens now.
        waiting.append((send, buffer, reply_at, room))
        begin, end = message.write(buffer, begin)
        if shared:
            piece = encode_request(method, end - begin, begin, reply_at, room)
        else:
            piece = buffer.data[begin - REQUEST_BYTES : end]
            piece[:REQUEST_BYTES] = encode_request(method, end - begin, NOWHERE, 0, 0)
        if not self._unsent:
            try:
                sent = self._end.send(piece, _NOW)
            except BlockingIOError:
                sent = 0
            if sent == len(piece):
                return len(waiting) == 1
            piece = memoryview(piece)[sent:]
        self._unsent.append(memoryview(piece))
        return False

    def flush(self) -> None:
        """Send as much as the socket takes. Raises OSError."""
        left = self._unsent
        while left:
            try:
                sent = self._end.send(left[0], _NOW)
            except BlockingIOError:
                return
            if sent == len(left[0]):
                left.pop(0)
            else:
                left[0] = left[0][sent:]

    def receive(self, *, block: bool) -> Event | None:
        """The next reply; None if it is not whole yet.

        Args:
            block: wait for it, for PATIENCE_S at the most.

        Raises:
            OSError, InvalidRequest: the connection is of no use any more.
        """
        send, buffer, at, room = self.waiting[0]
        flags, body = 0 if block else _NOW, self._body
        if body is None:
            # Through a socket head and body come together; but never more than this reply.
            more = 0 if self._arena_bytes or len(self.waiting) > 1 else room
            view = buffer.data[at - REPLY_BYTES : at + more]
            if not self._fill(view, REPLY_BYTES, flags):
                return None
            self._status, length, offset = decode_reply(view, self._arena_bytes)
            if offset != NOWHERE:  # it is there
                body, self._got = self._space[offset : offset + length], length
            else:
                body = self._begin_body(length, buffer, at, room)
        if self._got < len(body) and not self._fill(body.data, len(body), flags):
            self._body = body
            return None
        self._body, self._got = None, 0
        self.waiting.popleft()
        if self._status == OK:
            return Event(send.tag, body)
        return Event(send.tag, error=decode_error(body.tobytes()))

    def _begin_body(self, length: int, buffer: np.ndarray, at: int, room: int) -> np.ndarray:
        """Where the body comes to lie: the head is here, and perhaps some of the body behind it."""
        self._got -= REPLY_BYTES
        if self._got > length:
            raise InvalidRequest(f"a reply of {length} bytes was followed by {self._got - length} more")
        if length <= room:
            return buffer[at : at + length]
        body = np.empty(length, np.uint8)  # a refusal with many words
        body[: self._got] = buffer[at : at + self._got]
        return body

    def _fill(self, view: memoryview, least: int, flags: int) -> bool:
        """Go on filling a view until it has at least so many bytes; whether it does."""
        got = self._got
        while got < least:
            try:
                n = self._end.recv_into(view[got:] if got else view, 0, flags)
            except BlockingIOError:
                return False
            if n == 0:
                raise ConnectionResetError("the server closed the connection")
            self._got = got = got + n
        return True


def open_lane(
    description: pb.LaneReply, host: str, *, shared: bool, until: float, credentials: Credentials = NOTHING
) -> Lane:
    """Connect to a lane, with shared memory if that is wanted and the server is on this machine.

    Args:
        description: of the server's lane.
        host: the server's.
        shared: try shared memory first.
        until: on `time.monotonic`, when to give up.
        credentials: of the client, for a lane that speaks TLS.

    Raises:
        OSError: it cannot be reached.
    """
    end, arena = dial(
        description,
        host,
        shared=shared,
        until=until,
        patience_s=PATIENCE_S,
        credentials=credentials,
        arena_bytes=ARENA_BYTES,
    )
    return Lane(end, arena)
