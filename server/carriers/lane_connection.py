"""One client of the row lane: its requests, one after the other, and the memory that they and their replies take.

Why it is so. What must hold: whoever announces large messages, or asks for large replies and does not read them, takes
no more memory than the budget that all connections share. So a buffer grows as the bytes of a message arrive, place
for a reply is taken before the reply is made, and what stalls for STALL_S ends its connection, which gives all of it
back. What a connection has taken it keeps for its next message, until the budget is tight: taking and giving costs a
call of 100 us about 2.
"""

from __future__ import annotations

import logging
import mmap
import socket
import time
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

import numpy as np

from ...proto.errors import Overloaded, RowloomError, encode_error
from ...proto.framing import Buffer, size_of
from ...proto.lane import (
    NOWHERE,
    OK,
    REFUSED,
    REPLY_BYTES,
    REQUEST_BYTES,
    SOCKET_BUFFER_BYTES,
    WELCOME,
    Request,
    encode_reply,
)
from ...proto.methods import ON_LANE
from ...proto.security.lane_socket import be_patient
from ..call import LANE, Call, Caller
from .budget import Budget

log = logging.getLogger(__name__)
# For a whole message to come, once it has begun, and for a client to read a little of its reply.
STALL_S = 20.0
BUDGET_WAIT_S = 10.0  # until others give memory back; then the request is refused
OWN_BYTES = 10 << 20  # of a reply that is made where it is sent from: a little more than clients ask for
MOST_KEPT_BYTES = OWN_BYTES + (10 << 20)  # of the budget, from one message to the next
FREE_BYTES = 1 << 16  # of the receive buffer that every connection has
_GROWTH = 4
_LONG_BYTES = 1 << 16  # a shorter copy takes less than to let go of the GIL for it

Handle = Callable[[Call], Sequence[Buffer]]


class LaneConnection:
    """A client that has said hello.

    Args:
        end: connected; this is its only reader and writer.
        arena: the memory that it shares, or None.
        handle: answers a call; raises RowloomError.
        budget: of all connections.
        copied: methods whose messages are copied first out of memory that the client shares: they are read more than
            once, and must not change in between.
        caller: who it is.
        renewed: the same one with the rights of now; raises Unauthorized. None: they never change.
    """

    def __init__(
        self,
        end: socket.socket,
        arena: mmap.mmap | None,
        handle: Handle,
        budget: Budget,
        copied: Collection[str] = (),
        caller: Caller | None = None,
        renewed: Callable[[Caller], Caller] | None = None,
    ) -> None:
        self._end = end
        self._arena = memoryview(arena) if arena is not None else memoryview(b"")
        self._handle = handle
        self._budget = budget
        self._held = 0  # of the budget
        self._caller = caller or Caller(LANE)
        self._renewed = renewed
        self._copied = frozenset(ON_LANE.index(method) for method in copied)
        self._copy = np.empty(0, np.uint8)  # the last one; its memory is used again
        # Requests, one behind the other: how many bytes are there, and how many of them are the one in work.
        self._buffer = np.empty(FREE_BYTES, np.uint8).data
        self._got = self._mine = 0
        # Where replies are made that are not made in the arena, behind their heads; memory only where it is written.
        self._own: memoryview | None = None
        self._space: memoryview | None = None

    def run(self) -> None:
        """Until the client closes. Raises OSError, InvalidRequest."""
        try:
            self._welcome()
            while self._fill(REQUEST_BYTES, idle=True):
                self._mine = REQUEST_BYTES
                head = Request.decode(self._buffer[:REQUEST_BYTES], len(self._arena))
                try:
                    message = self._message(head)
                except Overloaded as e:
                    self._send(REFUSED, [encode_error(e)])
                else:
                    self._answer(head, message)
                    del message
                left = self._got - self._mine
                if left:  # it came together with the next one
                    self._buffer[:left] = self._buffer[self._mine : self._got]
                self._got = left
                if self._held > MOST_KEPT_BYTES or (self._held and self._budget.tight):
                    self._give_back()
        finally:
            self._got = 0
            self._give_back()

    def _welcome(self) -> None:
        end = self._end
        if end.family != socket.AF_UNIX:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        be_patient(end, STALL_S, STALL_S)
        end.sendall(WELCOME)

    # ---------------------------------------------------------------------------------------------------- receive

    def _fill(self, least: int, *, idle: bool = False) -> bool:
        """Have so many bytes in the buffer; False when the client closed before the first.

        A little more may come, of the next request: head and message are then one call of the system, not two.

        Args:
            least: how many; they are there within STALL_S.
            idle: that time begins with the first byte only.

        Raises:
            OSError: the client closed, or was too slow.
        """
        began = 0.0
        while self._got < least:
            got = self._got
            # Of what is long nothing but the rest, all at once.
            short = least <= FREE_BYTES
            view = self._buffer[got : FREE_BYTES if short else least]
            try:
                n = self._end.recv_into(view, 0, 0 if short else socket.MSG_WAITALL)
            except BlockingIOError:
                if not idle or got:
                    raise TimeoutError(f"{got} of {least} bytes came in {STALL_S:g} s") from None
                continue
            if n == 0:
                if idle and got == 0:
                    return False
                raise ConnectionResetError(f"the client closed after {got} of {least} bytes")
            self._got = got + n
            if self._got < least:
                began = began or time.monotonic()
                if time.monotonic() - began > STALL_S:
                    raise TimeoutError(f"{self._got} of {least} bytes came in {STALL_S:g} s")
        return True

    def _message(self, head: Request) -> memoryview:
        """A request's message. Raises OSError; Overloaded when there was no memory: it has then been passed over."""
        through_socket = head.offset == NOWHERE
        if through_socket:
            self._mine += head.length
        # Before the message, so that nobody who has all of a message waits for others who wait as well.
        if self._own is None and not head.reply_bytes and not self._make_space():
            self._refuse(f"a reply to one of {head.length}")
        if not through_socket:
            message = self._arena[head.offset : head.offset + head.length]
            return self._copy_of(message) if head.method in self._copied else message
        end = self._mine
        while self._got < end:
            # The rest, as far as the buffer reaches; a larger one only when this has come.
            if self._got == len(self._buffer) and not self._grow(end):
                self._refuse(f"one of {head.length}")
            self._fill(min(end, len(self._buffer)))
        return self._buffer[REQUEST_BYTES:end]

    def _copy_of(self, message: memoryview) -> memoryview:
        """A message in memory that nobody else writes to, until the next one."""
        size = len(message)
        if len(self._copy) < size:
            if not self._take(size - len(self._copy)):
                self._refuse(f"the copy of one of {size}")
            self._copy = np.empty(size, np.uint8)
        copy = self._copy[:size]
        np.copyto(copy, np.frombuffer(message, np.uint8))
        return copy.data

    def _grow(self, wanted: int) -> bool:
        """A larger buffer, with what is in the old one; whether there was memory for it."""
        old = self._buffer
        size = min(wanted, _GROWTH * len(old))
        if not self._take(size - len(old)):
            return False
        try:
            self._buffer = np.empty(size, np.uint8).data
        except MemoryError:
            return False
        _copy(self._buffer[: len(old)], old)
        return True

    def _refuse(self, what: str) -> NoReturn:
        """Pass over what is left of a message, and raise Overloaded."""
        while self._got < self._mine:
            self._mine -= self._got
            self._got = 0
            self._fill(min(self._mine, len(self._buffer)))
        raise Overloaded(
            f"messages and replies under way take {self._budget.used} of the {self._budget.limit} bytes that this "
            f"server has for them, so {what} bytes must wait: send again, or smaller ones"
        )

    # ----------------------------------------------------------------------------------------------------- memory

    def _take(self, size: int) -> bool:
        if not self._budget.take(size, BUDGET_WAIT_S):
            return False
        self._held += size
        return True

    def _make_space(self) -> bool:
        """Make room for replies that are not made in the arena, before one is made; whether there was memory for it."""
        if not self._take(OWN_BYTES):
            return False
        self._own = np.empty(REPLY_BYTES + OWN_BYTES, np.uint8).data
        self._space = self._own[REPLY_BYTES:]
        return True

    def _give_back(self) -> None:
        """All but what every connection has."""
        if len(self._buffer) > FREE_BYTES:
            old, self._buffer = self._buffer, np.empty(FREE_BYTES, np.uint8).data
            self._buffer[: self._got] = old[: self._got]
        self._own = self._space = None
        self._copy = np.empty(0, np.uint8)
        if self._held:
            self._budget.give(self._held)
            self._held = 0

    # ----------------------------------------------------------------------------------------------------- answer

    def _answer(self, head: Request, message: memoryview) -> None:
        space = self._space
        if head.reply_bytes:
            space = self._arena[head.reply_offset : head.reply_offset + head.reply_bytes]
        call = Call(ON_LANE[head.method], message, self._caller, space)
        try:
            if self._renewed is not None:
                call.caller = self._caller = self._renewed(self._caller)
            buffers = self._handle(call)
        except RowloomError as e:
            self._send(REFUSED, [encode_error(e)])
        except Exception:
            log.exception("%s failed", call.method)
            error = RowloomError("internal error; the server's log has the traceback")
            self._send(REFUSED, [encode_error(error)])
        else:
            length = call.placed or _put(space, buffers)
            if length < 0:
                size = size_of(buffers)
                if not self._take(size):
                    raise ConnectionAbortedError(f"no memory to send a reply of {size} bytes")
                self._send(OK, buffers)
            elif head.reply_bytes:
                self._end.sendall(encode_reply(OK, length, head.reply_offset))
            else:
                assert self._own is not None
                self._own[:REPLY_BYTES] = encode_reply(OK, length)
                self._end.sendall(self._own[: REPLY_BYTES + length])

    def _send(self, status: int, buffers: Sequence[Buffer]) -> None:
        """A reply that lies in no space."""
        left = [memoryview(encode_reply(status, size_of(buffers))), *map(memoryview, buffers)]
        while left:
            sent = self._end.sendmsg(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left and sent:
                left[0] = left[0][sent:]


def _put(space: memoryview | None, buffers: Sequence[Buffer]) -> int:
    """Write buffers one after the other to the beginning of a space; returns where they end, -1 if they do not fit."""
    if space is None or size_of(buffers) > len(space):
        return -1
    at = 0
    for one in buffers:
        end = at + len(one)
        _copy(space[at:end], one)
        at = end
    return at


def _copy(place: memoryview, block: Buffer) -> None:
    """Copy bytes to a place of their length."""
    if len(block) < _LONG_BYTES:
        place[:] = block
    else:
        # Python copies a memoryview with the GIL held: 0.4 ms for 4 MB to new memory, in which no other
        # connection is served. numpy lets go of it.
        np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(block, np.uint8))
