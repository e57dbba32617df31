"""The row lane on the server's side: requests off a plain socket, through the same handler as gRPC's.

One thread accepts over TCP and hears hellos; each connection that said the right one has a thread. With TLS that
thread shakes hands too, without waiting for anybody. Another one accepts over the Unix socket, where who says hello has
a thread already (`local_strangers` says why). On shared memory there is no TLS: nothing leaves the machine, the key
came over gRPC, and clients look whose process it is that listens. It holds nothing that
outlives the connection: shared memory has no name, the Unix socket lies in the abstract namespace, and both are gone
when the last process that has them ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import mmap
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest
from ...proto.lane import HAS_ARENAS
from ...proto.security.wrapping import wrapped
from ..access.gate import Gate
from ..call import Caller
from .budget import Budget
from .lane_connection import Handle, LaneConnection
from .lane_keys import LaneKeys
from .local_strangers import LocalStrangers
from .strangers import Strangers

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 1024  # what comes beyond them is closed at once, and goes on over gRPC
BUDGET_BYTES = 1 << 30  # that all connections hold for messages at once
BACK_OFF_S = 0.1  # before the system is asked again that had no descriptor, or no memory, for a connection
TELL_S = 60.0  # between two lines of the log that say so
_LOOK_S = 1.0  # how often strangers are looked after
_GONE = (errno.ECONNABORTED, errno.EAGAIN, errno.EPROTO)  # who wanted to connect has changed its mind


class LaneServer:
    """The listening sockets and their connections.

    Args:
        handle: answers a call; raises RowloomError.
        host: interface to listen on.
        budget_bytes: what all connections may hold at once for messages that are not whole or not yet sent.
        copied: as LaneConnection's.
        gate: what the server asks of whoever connects; None: nothing.
    """

    def __init__(
        self,
        handle: Handle,
        host: str,
        *,
        budget_bytes: int = BUDGET_BYTES,
        copied: Collection[str] = (),
        gate: Gate | None = None,
    ) -> None:
        self._handle = handle
        self._copied = copied
        self._gate = gate
        self._keys = LaneKeys(once=gate is not None and gate.asks)
        self._unix_address = "rowloom-" + secrets.token_hex(16)
        self._budget = Budget(budget_bytes)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._stopping = threading.Event()
        self._accepting: list[threading.Thread] = []
        self._told_s = -math.inf  # when the log was last told that connections could not be accepted
        self._tcp: socket.socket | None = None
        self._unix: socket.socket | None = None
        self._local = LocalStrangers(self._keys.take, self._admit)
        self._port = 0
        with contextlib.suppress(OSError):  # without it there is gRPC
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            tcp = socket.create_server((host.strip("[]"), 0), family=family, backlog=128)
            self._tcp = tcp
            self._port = tcp.getsockname()[1]
        if HAS_ARENAS:
            unix = socket.socket(socket.AF_UNIX)
            unix.bind("\0" + self._unix_address)
            unix.listen(128)
            self._unix = unix

    def describe(self, caller: Caller | None = None) -> pb.LaneReply:
        """What clients are told over gRPC. caller: who asks, and will be who opens a lane with the key."""
        if self._stopping.is_set():
            return pb.LaneReply()
        reply = pb.LaneReply(
            key=self._keys.give(caller),
            port=self._port,
            unix_address=self._unix_address if HAS_ARENAS else "",
            once=self._keys.once,
        )
        if self._gate is not None and self._gate.security.tls:
            reply.tls, reply.user = True, os.geteuid()
        return reply

    @property
    def connections(self) -> int:
        """How many there are, that said hello."""
        return len(self._connections)

    def start(self) -> None:
        """Begin to accept."""
        for listener, accept in ((self._tcp, self._accept), (self._unix, self._accept_local)):
            if listener is not None:
                thread = threading.Thread(
                    target=accept, args=(listener,), name="rowloom-lane-accept", daemon=True
                )
                thread.start()
                self._accepting.append(thread)

    def stop(self) -> None:
        """Close; requests under way are still answered."""
        with self._lock:
            self._stopping.set()
            connections = list(self._connections)
        for listener in (self._tcp, self._unix):
            if listener is not None:
                with contextlib.suppress(OSError):  # it wakes the thread that polls it, which close does not
                    listener.shutdown(socket.SHUT_RDWR)
        for thread in self._accepting:
            thread.join(2 * _LOOK_S)
        if not self._accepting:
            self._close_listeners()
        for end in connections:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)

    def _close_listeners(self) -> None:
        for listener in (self._tcp, self._unix):
            if listener is not None:
                listener.close()

    # ----------------------------------------------------------------------------------------------------- accept

    def _accept(self, listener: socket.socket) -> None:
        """Take connections and hear hellos, until the server stops. Nothing that connects can end this."""
        with contextlib.closing(listener), selectors.DefaultSelector() as poll:
            strangers = Strangers(self._keys.take, poll)
            listener.setblocking(False)
            poll.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in poll.select(_LOOK_S):
                    end: socket.socket = key.fileobj  # type: ignore[assignment]
                    self._guarded(
                        lambda end=end: (
                            self._take(end, strangers) if end is listener else self._hear(end, strangers)
                        )
                    )
                strangers.expire(time.monotonic())
            strangers.close()

    def _accept_local(self, listener: socket.socket) -> None:
        """The same of the Unix socket. It closes none of what connects: that may take long, also at the end."""
        with contextlib.closing(listener), selectors.DefaultSelector() as poll:
            listener.setblocking(False)
            poll.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if poll.select(_LOOK_S):
                    self._guarded(lambda: self._take_local(listener))
            self._local.close()

    @staticmethod
    def _guarded(take: Callable[[], None]) -> None:
        try:
            take()
        except Exception:
            log.exception("a connection of the row lane could not be taken")

    def _take_local(self, listener: socket.socket) -> None:
        if not self._local.make_room(BACK_OFF_S):
            self._tell(f"{len(self._local)} of them are being closed, which takes long")
            return
        try:
            end, _ = listener.accept()
        except OSError as e:
            if e.errno not in _GONE and not self._stopping.is_set():
                self._local.drop_oldest()
                self._starve(e)
            return
        while not self._stopping.is_set():
            try:
                return self._local.hear(end)
            except RuntimeError as e:  # the system has no thread to give
                self._starve(e)

    def _take(self, listener: socket.socket, strangers: Strangers) -> None:
        try:
            end, _ = listener.accept()
        except OSError as e:
            if e.errno not in _GONE and not self._stopping.is_set():
                self._starve(e)
                strangers.drop_oldest()
            return
        context = self._gate.socket_context() if self._gate is not None else None
        if context is not None:
            end.setblocking(False)
            try:
                end = wrapped(end, context, serves=True)
            except OSError as e:
                log.debug("what connected to the row lane has gone again: %s", e)
                return
        strangers.add(end, time.monotonic())

    def _starve(self, error: Exception) -> None:
        """No descriptor, memory or thread for a connection: it waits in the backlog, and we for others to end."""
        self._tell(error)
        self._stopping.wait(BACK_OFF_S)

    def _tell(self, why: object) -> None:
        """Say in the log that connections have to wait; not at each of them."""
        now = time.monotonic()
        if now - self._told_s >= TELL_S:
            self._told_s = now
            log.error("the row lane cannot accept connections for now, clients go on over gRPC: %s", why)

    def _hear(self, end: socket.socket, strangers: Strangers) -> None:
        try:
            caller = strangers.hear(end)
        except (OSError, InvalidRequest) as e:
            log.debug("what connected to the row lane is shown the door: %s", e)
            return
        if caller is None:
            return
        try:
            threading.Thread(
                target=self._admit, args=(end, None, caller), name="rowloom-lane", daemon=True
            ).start()
        except RuntimeError as e:  # the system has no thread to give: this one goes on over gRPC
            log.error("a connection of the row lane is refused: %s", e)
            end.close()

    def _admit(self, end: socket.socket, arena: mmap.mmap | None, caller: Caller) -> None:
        """Serve a connection, on its thread, if there are not too many."""
        with self._lock:
            full = self._stopping.is_set() or len(self._connections) >= MAX_CONNECTIONS
            if not full:
                self._connections.add(end)
        if full:
            end.close()
        else:
            self._serve(end, arena, caller)

    def _serve(self, end: socket.socket, arena: mmap.mmap | None, caller: Caller) -> None:
        try:
            with end:
                renewed = None if self._gate is None else self._gate.renewed
                LaneConnection(end, arena, self._handle, self._budget, self._copied, caller, renewed).run()
        except (OSError, InvalidRequest) as e:
            log.debug("a connection of the row lane ended: %s", e)
        except Exception:
            log.exception("a connection of the row lane failed")
        finally:
            with self._lock:
                self._connections.discard(end)
