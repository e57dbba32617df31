"""Who has connected to the row lane's Unix socket and not yet said hello. Each has a thread, of few.

Why it is so. What must hold: whoever connects without knowing the key keeps nobody waiting whom it need not. Over a
Unix socket it can hand over descriptors, and the system closes in our name what it has handed over, whether we take it,
have no room for it or end the connection. To close one may take as long as its owner likes: a socket that lingers, a
file of a file system of its own. So a stranger has a thread, and only this one closes what it brings, and its
connection.
Rejected: one thread that hears all of them, and another one that closes descriptors. To read a message, or to close a
connection, may be what takes so long.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import socket
import threading
import time
from collections.abc import Callable

from ...proto.errors import InvalidRequest
from ...proto.lane import ARENA_BYTES, HELLO_BYTES, Hello
from ..call import Caller
from .strangers import HELLO_TIMEOUT_S, MOST_STRANGERS, admitted

log = logging.getLogger(__name__)


class LocalStrangers:
    """Connections that have not said hello, and those that have not been closed since. Thread-safe.

    Args:
        admit: who it is that brings a key in its hello; None: the key is nobody's.
        serve: given a connection that has said hello, the memory that it shares, if any, and who it is; on a thread of
            its own, and closes the connection.
    """

    def __init__(
        self,
        admit: Callable[[bytes], Caller | None],
        serve: Callable[[socket.socket, mmap.mmap | None, Caller], None],
    ) -> None:
        self._admit = admit
        self._serve = serve
        self._moved = threading.Condition()
        self._heard: dict[socket.socket, None] = {}  # the one that has waited longest comes first
        self._places = 0  # taken: those, and those that are being closed

    def __len__(self) -> int:
        return self._places

    def make_room(self, limit_s: float) -> bool:
        """Whether there is a place for one more; the one that has waited longest gives up its own, if it can."""
        with self._moved:
            if self._places >= MOST_STRANGERS:
                self._show_out_oldest()
                self._moved.wait_for(lambda: self._places < MOST_STRANGERS, limit_s)
            return self._places < MOST_STRANGERS

    def drop_oldest(self) -> None:
        """End the one that has waited longest, if there is one."""
        with self._moved:
            self._show_out_oldest()

    def close(self) -> None:
        """End all; waits for none."""
        with self._moved:
            while self._heard:
                self._show_out_oldest()

    def hear(self, end: socket.socket) -> None:
        """Somebody has connected. Raises RuntimeError: the system has no thread; call again with the same one."""
        with self._moved:
            self._heard[end] = None
            self._places += 1
        try:
            threading.Thread(target=self._run, args=(end,), name="rowloom-lane", daemon=True).start()
        except RuntimeError:
            with self._moved:
                self._heard.pop(end, None)
                self._leave()
            raise

    def _show_out_oldest(self) -> None:
        """Its thread then finds it ended, and closes it."""
        if self._heard:
            end = next(iter(self._heard))
            del self._heard[end]
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _leave(self) -> None:
        self._places -= 1
        self._moved.notify_all()

    def _run(self, end: socket.socket) -> None:
        """Hear one, and serve it if it is one of ours."""
        caller, arena = None, None
        try:
            caller, arena = self._hello(end)
        except (OSError, InvalidRequest) as e:
            log.debug("what connected to the row lane is shown the door: %s", e)
        except Exception:
            log.exception("a connection of the row lane could not be taken")
        finally:
            with self._moved:
                self._heard.pop(end, None)
            if caller is None:
                end.close()  # what it has sent and nobody has read is closed with it
            with self._moved:
                self._leave()
        if caller is not None:
            self._serve(end, arena, caller)

    def _hello(self, end: socket.socket) -> tuple[Caller, mmap.mmap | None]:
        """Raises OSError, InvalidRequest: it is none of ours."""
        descriptors: list[int] = []
        try:
            hello = Hello.decode(_read(end, descriptors))
            caller = admitted(self._admit, hello)
            return caller, _arena(descriptors, hello.arena_bytes) if hello.arena_bytes else None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _read(end: socket.socket, descriptors: list[int]) -> bytes:
    """A hello, and the one descriptor that may come with it. Raises OSError, InvalidRequest."""
    until, data = time.monotonic() + HELLO_TIMEOUT_S, b""
    while len(data) < HELLO_BYTES:
        end.settimeout(max(until - time.monotonic(), 0.001))
        some, brought, flags, _ = socket.recv_fds(end, HELLO_BYTES - len(data), 1)
        descriptors += brought
        if len(descriptors) > 1 or flags & socket.MSG_CTRUNC:
            raise InvalidRequest("what connected brings more than the one descriptor of its shared memory")
        if not some:
            raise InvalidRequest(f"what connected left after {len(data)} bytes of its hello")
        data += some
    return data


def _arena(descriptors: list[int], size: int) -> mmap.mmap:
    """The client's shared memory, if it can never shrink under our feet. Raises InvalidRequest."""
    if len(descriptors) != 1 or not 0 < size <= ARENA_BYTES:
        raise InvalidRequest(f"shared memory of {size} bytes with {len(descriptors)} descriptors")
    seals = fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK or os.fstat(descriptors[0]).st_size < size:
        raise InvalidRequest("shared memory must be sealed against shrinking")
    return mmap.mmap(descriptors[0], size)
