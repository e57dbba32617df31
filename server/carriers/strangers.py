"""Who has connected to the row lane over TCP and not yet said hello: a few at a time, without a thread for any of them.

Over its Unix socket: `local_strangers`.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from ...proto.errors import InvalidRequest
from ...proto.lane import HELLO_BYTES, Hello
from ..call import Caller

HELLO_TIMEOUT_S = 5.0
MOST_STRANGERS = 64  # who comes beyond them takes the place of the one that has waited longest


@dataclass
class _Stranger:
    until: float
    shaking: bool = False  # its TLS handshake is not done
    data: bytearray = field(default_factory=bytearray)


class Strangers:
    """Connections, none of which may block: their owner polls them, and calls `hear` for those that are ready.

    Args:
        admit: who it is that brings a key in its hello; None: the key is nobody's.
        poll: where they are registered while they are here.
    """

    def __init__(self, admit: Callable[[bytes], Caller | None], poll: selectors.BaseSelector) -> None:
        self._admit = admit
        self._poll = poll
        self._there: dict[socket.socket, _Stranger] = {}  # the one that has waited longest comes first

    def __len__(self) -> int:
        return len(self._there)

    def add(self, end: socket.socket, now: float) -> None:
        """Somebody has connected."""
        if len(self._there) >= MOST_STRANGERS:
            self.drop_oldest()
        end.setblocking(False)
        self._poll.register(end, selectors.EVENT_READ)
        self._there[end] = _Stranger(now + HELLO_TIMEOUT_S, shaking=isinstance(end, ssl.SSLSocket))

    def hear(self, end: socket.socket) -> Caller | None:
        """Take what somebody says: who it is, None as long as it is a stranger.

        Raises:
            OSError, InvalidRequest: it will never be one of ours; it is gone from here, and closed.
        """
        stranger = self._there.get(end)
        if stranger is None:  # closed since it was ready
            return None
        try:
            if stranger.shaking and isinstance(end, ssl.SSLSocket):
                end.do_handshake()
                stranger.shaking = False
            left = HELLO_BYTES - len(stranger.data)
            data = end.recv(left)
            stranger.data += data
            if not data:
                raise InvalidRequest(f"what connected left after {len(stranger.data)} bytes of its hello")
            if len(stranger.data) < HELLO_BYTES:
                return None
            hello = Hello.decode(bytes(stranger.data))
            caller = admitted(self._admit, hello)
            if hello.arena_bytes:
                raise InvalidRequest(f"shared memory of {hello.arena_bytes} bytes cannot come over TCP")
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:  # more than the socket's buffer takes: no client of ours
            self._drop(end)
            raise
        except BaseException:
            self._drop(end)
            raise
        self._forget(end)
        return caller

    def expire(self, now: float) -> None:
        """Close those that have been silent for too long."""
        while self._there and next(iter(self._there.values())).until <= now:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Close the one that has waited longest, if there is one."""
        if self._there:
            self._drop(next(iter(self._there)))

    def close(self) -> None:
        """Close all."""
        while self._there:
            self.drop_oldest()

    def _drop(self, end: socket.socket) -> None:
        self._forget(end)
        end.close()

    def _forget(self, end: socket.socket) -> None:
        self._poll.unregister(end)
        del self._there[end]


def admitted(admit: Callable[[bytes], Caller | None], hello: Hello) -> Caller:
    """Who says a hello. Raises InvalidRequest: nobody whom this server knows."""
    caller = admit(hello.key)
    if caller is None:
        raise InvalidRequest("what connected has a key that is not of this server, or not any more")
    return caller
