"""The row lane on the server's side: requests off a plain socket, through the same handler as gRPC's.

A thread for each connection. It holds nothing that outlives the connection: shared memory has no name, the Unix
socket lies in the abstract namespace, and both are gone when the last process that has them ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import logging
import mmap
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, encode_error
from ...proto.framing import Buffer, size_of
from ...proto.lane import (
    ARENA_BYTES,
    HAS_ARENAS,
    HELLO_BYTES,
    NOWHERE,
    OK,
    REFUSED,
    REPLY_BYTES,
    REQUEST_BYTES,
    SOCKET_BUFFER_BYTES,
    WELCOME,
    Hello,
    Request,
    encode_reply,
)
from ...proto.methods import ROWS
from ..call import LANE, Call, Caller

log = logging.getLogger(__name__)
HELLO_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 1024  # what comes beyond them is closed at once, and goes on over gRPC
OWN_BYTES = 10 << 20  # of a reply that is made where it is sent from: a little more than clients ask for
KEEP_BYTES = 10 << 20  # a receive buffer that grew larger than this is not kept

Handle = Callable[[Call], Sequence[Buffer]]


class LaneServer:
    """The listening sockets and their connections.

    Args:
        handle: answers a call; raises RowloomError.
        host: interface to listen on.
    """

    def __init__(self, handle: Handle, host: str) -> None:
        self._handle = handle
        self._key = secrets.token_bytes(16)
        self._unix_address = "rowloom-" + secrets.token_hex(16)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._stopping = False
        self._listeners: list[socket.socket] = []
        self._port = 0
        with contextlib.suppress(OSError):  # without it there is gRPC
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            tcp = socket.create_server((host.strip("[]"), 0), family=family, backlog=128)
            self._listeners.append(tcp)
            self._port = tcp.getsockname()[1]
        if HAS_ARENAS:
            unix = socket.socket(socket.AF_UNIX)
            unix.bind("\0" + self._unix_address)
            unix.listen(128)
            self._listeners.append(unix)

    def describe(self) -> pb.LaneReply:
        """What clients are told over gRPC."""
        if self._stopping:
            return pb.LaneReply()
        return pb.LaneReply(
            key=self._key, port=self._port, unix_address=self._unix_address if HAS_ARENAS else ""
        )

    def start(self) -> None:
        """Begin to accept."""
        for listener in self._listeners:
            threading.Thread(
                target=self._accept, args=(listener,), name="rowloom-lane-accept", daemon=True
            ).start()

    def stop(self) -> None:
        """Close; requests under way are still answered."""
        with self._lock:
            self._stopping = True
            connections = list(self._connections)
        for end in self._listeners:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes accept, which close does not
            end.close()
        for end in connections:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                end, _ = listener.accept()
            except OSError:
                if self._stopping:
                    return
                continue
            with self._lock:
                full = self._stopping or len(self._connections) >= MAX_CONNECTIONS
                if not full:
                    self._connections.add(end)
            if full:
                end.close()
            else:
                threading.Thread(target=self._serve, args=(end,), name="rowloom-lane", daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        try:
            with end:
                arena = self._welcome(end)
                _Connection(end, arena, self._handle).run()
        except (OSError, InvalidRequest) as e:
            log.debug("a connection of the row lane ended: %s", e)
        finally:
            with self._lock:
                self._connections.discard(end)

    def _welcome(self, end: socket.socket) -> mmap.mmap | None:
        """Receive the hello and answer it. Raises InvalidRequest for strangers."""
        end.settimeout(HELLO_TIMEOUT_S)
        if end.family == socket.AF_UNIX:
            data, descriptors, _, _ = socket.recv_fds(end, HELLO_BYTES, 1)
        else:
            data, descriptors = end.recv(HELLO_BYTES, socket.MSG_WAITALL), []
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if len(data) < HELLO_BYTES:
                raise InvalidRequest("what connected said no whole hello")
            hello = Hello.decode(data)
            if not hmac.compare_digest(hello.key, self._key):
                raise InvalidRequest("what connected has another server's key")
            arena = _arena(descriptors, hello.arena_bytes) if hello.arena_bytes else None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        end.sendall(WELCOME)
        end.settimeout(None)
        return arena


def _arena(descriptors: Sequence[int], size: int) -> mmap.mmap:
    """The client's shared memory, if it can never shrink under our feet. Raises InvalidRequest."""
    if len(descriptors) != 1 or not 0 < size <= ARENA_BYTES:
        raise InvalidRequest(f"shared memory of {size} bytes with {len(descriptors)} descriptors")
    seals = fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK or os.fstat(descriptors[0]).st_size < size:
        raise InvalidRequest("shared memory must be sealed against shrinking")
    return mmap.mmap(descriptors[0], size)


class _Connection:
    """One client's requests, one after the other."""

    def __init__(self, end: socket.socket, arena: mmap.mmap | None, handle: Handle) -> None:
        self._end = end
        self._arena = memoryview(arena) if arena is not None else memoryview(b"")
        self._handle = handle
        self._caller = Caller(LANE)
        self._head = memoryview(bytearray(REQUEST_BYTES))
        self._buffer = np.empty(1 << 16, np.uint8).data
        # Where replies are made that are not made in the arena, behind their heads; memory only where it is written.
        self._own = np.empty(REPLY_BYTES + OWN_BYTES if arena is None else 0, np.uint8).data
        self._space = self._own[REPLY_BYTES:] or None

    def run(self) -> None:
        """Until the client closes. Raises OSError, InvalidRequest."""
        while self._receive(self._head):
            head = Request.decode(self._head, len(self._arena))
            self._answer(head, self._message(head))

    def _receive(self, view: memoryview) -> bool:
        """Fill a view; False when the client closed before its first byte."""
        got = self._end.recv_into(view, 0, socket.MSG_WAITALL)
        while 0 < got < len(view):
            n = self._end.recv_into(view[got:], 0, socket.MSG_WAITALL)
            if n == 0:
                raise ConnectionResetError(f"the client closed after {got} of {len(view)} bytes")
            got += n
        return got > 0

    def _message(self, head: Request) -> memoryview:
        if head.offset != NOWHERE:
            return self._arena[head.offset : head.offset + head.length]
        if len(self._buffer) < head.length or len(self._buffer) > KEEP_BYTES:
            self._buffer = np.empty(max(head.length, 1 << 16), np.uint8).data
        message = self._buffer[: head.length]
        if head.length and not self._receive(message):
            raise ConnectionResetError("the client closed between head and message")
        return message

    def _answer(self, head: Request, message: memoryview) -> None:
        space = self._space
        if head.reply_bytes:
            space = self._arena[head.reply_offset : head.reply_offset + head.reply_bytes]
        call = Call(ROWS[head.method], message, self._caller, space)
        try:
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
                self._send(OK, buffers)
            elif head.reply_bytes:
                self._end.sendall(encode_reply(OK, length, head.reply_offset))
            else:
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
        space[at:end] = one
        at = end
    return at
