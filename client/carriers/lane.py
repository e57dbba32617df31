"""The row lane on the client's side: connections to one shard each, and which of them are free."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.codec import Buffer
from ...proto.errors import InvalidRequest, RowloomError, decode_error
from ...proto.framing import Deferred, made, size_of
from ...proto.lane import (
    ARENA_BYTES,
    HAS_ARENAS,
    NOWHERE,
    OK,
    REPLY_BYTES,
    REQUEST_BYTES,
    SOCKET_BUFFER_BYTES,
    WELCOME,
    Hello,
    Reply,
    Request,
)
from ...proto.memory import address_of

CONNECT_TIMEOUT_S = 2.0
BEGIN = 64  # where in a lane's space a request may begin: its head stands in front of it
MOST_BYTES = 9 << 20  # of ids and rows in a request, and in a reply, that use a lane's space
HEADS_BYTES = 1 << 16  # more than stands beside ids and rows in a request and its reply, see `Direct`
PATIENCE_US = 200_000  # how often one who waits for a lane looks at the clock
RETRY_S = 5.0  # how long an address goes without a lane after one could not be had
_ALIGN = 64
_NOW = socket.MSG_DONTWAIT

Answer = bytes | memoryview | RowloomError


class Lane:
    """One connection. Used by one operation at a time; replies come in the order of the requests.

    Args:
        end: connected and welcomed.
        arena: memory shared with the server, or None.
    """

    def __init__(self, end: socket.socket, arena: mmap.mmap | None) -> None:
        self._end = end
        self._arena = memoryview(arena) if arena is not None else memoryview(b"")
        self._used = 0
        self.waiting: deque[tuple[int, float]] = deque()  # (tag, until when) of requests without a reply
        self._unsent: list[memoryview] = []
        self._head = memoryview(bytearray(REPLY_BYTES))
        self._got = 0
        self._reply: Reply | None = None
        self._body = memoryview(b"")
        self.space = np.frombuffer(self._arena, np.uint8)
        if arena is None:
            self.space = np.empty(2 * MOST_BYTES + HEADS_BYTES, np.uint8)
        self.base = address_of(self.space)
        self._reply_at = 0

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

    def start_anew(self) -> None:
        """All that was handed out is read: the arena may be written over."""
        self._used = 0

    def send(self, tag: int, method: int, buffers: Sequence[Buffer], reply_bytes: int, until: float) -> None:
        """Put a request on its way. Raises OSError."""
        length = size_of(buffers)
        begin, reply = self._used, self._used + -(-length // _ALIGN) * _ALIGN
        end = reply + -(-reply_bytes // _ALIGN) * _ALIGN
        if end <= len(self._arena):
            at = begin
            for buffer in buffers:
                size = len(buffer) if isinstance(buffer, bytes) else buffer.nbytes
                if isinstance(buffer, Deferred):
                    buffer.fill(self._arena[at : at + size])
                else:
                    self._arena[at : at + size] = buffer
                at += size
            self._used = end
            pieces: list[bytes | memoryview] = [Request(method, length, begin, reply, reply_bytes).encode()]
        else:
            pieces = [Request(method, length).encode(), *map(made, buffers)]
        self.waiting.append((tag, until))
        self._unsent += [memoryview(p) for p in pieces if len(p)]
        if len(self._unsent) == len(pieces) or len(pieces) == 1:
            self.flush()

    def ask(self, method: int, begin: int, end: int, reply_bytes: int) -> None:
        """Send the request that lies at [begin, end) in `space`; nothing else is under way. Raises OSError.

        begin: at least BEGIN. There must be room for BEGIN + reply_bytes after the end.
        """
        self._reply_at = (-(-end // BEGIN) + 1) * BEGIN
        if self._arena:
            self._end.sendall(Request(method, end - begin, begin, self._reply_at, reply_bytes).encode())
            return
        head = begin - REQUEST_BYTES
        self.space.data[head:begin] = Request(method, end - begin).encode()
        self._end.sendall(self.space.data[head:end])

    def hear(self, until: float) -> tuple[int, int] | None:
        """Wait for the answer to `ask`. Raises OSError, InvalidRequest.

        Returns:
            Where in `space` the reply begins and ends; None if it is a refusal.
        """
        at = self._reply_at - REPLY_BYTES
        view = self.space.data[at:]
        got = self._some(view[:REPLY_BYTES] if self._arena else view, REPLY_BYTES, until)
        reply = Reply.decode(view[:REPLY_BYTES], len(self._arena))
        begin, size = reply.offset, reply.length
        if begin == NOWHERE:
            begin = self._reply_at
            if size > len(view) - REPLY_BYTES:
                raise InvalidRequest(f"a reply of {size} bytes, which is more than was asked for")
            self._some(view[got : REPLY_BYTES + size], REPLY_BYTES + size - got, until)
        return (begin, begin + size) if reply.status == OK else None

    def _some(self, view: memoryview, least: int, until: float) -> int:
        """Wait for at least so many bytes; how many have come."""
        got = 0
        while got < least:
            try:
                n = self._end.recv_into(view[got:])
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise TimeoutError("no answer in time") from None
                continue
            if n == 0:
                raise ConnectionResetError("the server closed the connection")
            got += n
        return got

    def flush(self) -> None:
        """Send as much as the socket takes. Raises OSError."""
        left = self._unsent
        while left:
            try:
                sent = self._end.sendmsg(left[:64], (), _NOW)
            except BlockingIOError:
                return
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left and sent:
                left[0] = left[0][sent:]

    def receive(self) -> Iterator[tuple[int, Answer]]:
        """What has come in, whole: (tag, reply or error). Raises OSError, InvalidRequest."""
        while self.waiting:
            if self._reply is None:
                if not self._fill(self._head):
                    return
                self._reply = reply = Reply.decode(self._head, len(self._arena))
                if reply.offset == NOWHERE:
                    self._body = np.empty(
                        reply.length, np.uint8
                    ).data  # unlike a bytearray, not filled with zeros
                else:
                    self._body, self._got = (
                        self._arena[reply.offset : reply.offset + reply.length],
                        reply.length,
                    )
            if self._got < len(self._body) and not self._fill(self._body):
                return
            status, body = self._reply.status, self._body
            self._reply, self._got, self._body = None, 0, memoryview(b"")
            tag, _ = self.waiting.popleft()
            yield tag, body if status == OK else decode_error(bytes(body))

    def _fill(self, view: memoryview) -> bool:
        """Go on filling a view; whether it is full."""
        while self._got < len(view):
            try:
                n = self._end.recv_into(view[self._got :], 0, _NOW)
            except BlockingIOError:
                return False
            if n == 0:
                raise ConnectionResetError("the server closed the connection")
            self._got += n
        if view is self._head:
            self._got = 0
        return True


def open_lane(description: pb.LaneReply, host: str, *, shared: bool, timeout_s: float) -> Lane:
    """Connect to a lane, with shared memory if that is wanted and the server is on this machine.

    Raises:
        OSError: it cannot be reached.
    """
    if shared and HAS_ARENAS and description.unix_address:
        with contextlib.suppress(OSError):  # another machine, or another container
            return _open_unix(description, timeout_s)
    if not description.port:
        raise ConnectionRefusedError("the server has no lane that can be reached from here")
    end = socket.create_connection((host.strip("[]"), description.port), timeout_s)
    try:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.sendall(Hello(description.key, 0).encode())
        return _welcomed(end, None)
    except BaseException:
        end.close()
        raise


def _open_unix(description: pb.LaneReply, timeout_s: float) -> Lane:
    end = socket.socket(socket.AF_UNIX)
    try:
        end.settimeout(timeout_s)
        end.connect("\0" + description.unix_address)
        descriptor = os.memfd_create("rowloom-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, ARENA_BYTES)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            arena = mmap.mmap(descriptor, ARENA_BYTES)
            socket.send_fds(end, [Hello(description.key, ARENA_BYTES).encode()], [descriptor])
        finally:
            os.close(descriptor)
        return _welcomed(end, arena)
    except BaseException:
        end.close()
        raise


def _welcomed(end: socket.socket, arena: mmap.mmap | None) -> Lane:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    if end.recv(1) != WELCOME:
        raise ConnectionRefusedError("the server did not welcome us on its lane")
    end.settimeout(None)
    # What Python does by itself for a timeout asks the system twice.
    patience = struct.pack("ll", 0, PATIENCE_US)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    return Lane(end, arena)


class Lanes:
    """Free lanes by address, and which addresses have none.

    Args:
        ask: asks an address for its LaneReply over gRPC, within seconds; raises RowloomError.
        shared: use shared memory where it can be had.
    """

    def __init__(self, ask: Callable[[str, float], pb.LaneReply], *, shared: bool) -> None:
        self._ask = ask
        self._shared = shared
        self._lock = threading.Lock()
        self._free: dict[str, list[Lane]] = {}
        self._known: dict[str, pb.LaneReply] = {}
        self._without: dict[str, float] = {}  # address -> until when

    def take(self, address: str, timeout_s: float) -> Lane | None:
        """A lane to an address for the caller alone, or None if it has none for now."""
        with self._lock:
            free = self._free.get(address)
            if free:
                return free.pop()
            if self._without.get(address, 0.0) > time.monotonic():
                return None
            known = self._known.get(address)
        timeout_s = min(timeout_s, CONNECT_TIMEOUT_S)
        try:
            known = known or self._ask(address, timeout_s)
            if not known.key:
                raise ConnectionRefusedError(f"{address} has no lane")
            lane = open_lane(known, address.rpartition(":")[0], shared=self._shared, timeout_s=timeout_s)
        except (RowloomError, OSError):
            self.lost(address)
            with self._lock:
                self._without[address] = time.monotonic() + RETRY_S
            return None
        with self._lock:
            self._known[address] = known
            self._without.pop(address, None)
        return lane

    def lack(self, addresses: Iterable[str]) -> bool:
        """Whether one of the addresses has no lane for now, as far as is known."""
        now = time.monotonic()
        return bool(self._without) and any(self._without.get(a, 0.0) > now for a in addresses)

    def give_back(self, address: str, lane: Lane) -> None:
        """The caller is done with it, and nothing is under way on it."""
        lane.start_anew()
        with self._lock:
            self._free.setdefault(address, []).append(lane)

    def lost(self, address: str) -> None:
        """A lane to an address broke: the others probably did too, and it must be asked anew."""
        with self._lock:
            self._known.pop(address, None)
            broken = self._free.pop(address, [])
        for lane in broken:
            lane.close()

    def close(self) -> None:
        """Close all that are free."""
        with self._lock:
            lanes = [lane for free in self._free.values() for lane in free]
            self._free.clear()
        for lane in lanes:
            lane.close()
