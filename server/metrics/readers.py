"""Who has connected to a port with pages: those that have asked for nothing yet, and those that are answered.

Why they are counted apart. A connection that says nothing must keep nobody out: where there are too many of them, the
one that has waited longest goes, as on the row lane. What asked for a page takes memory and time of the process, and
is one of a few.
"""

from __future__ import annotations

import contextlib
import socket
import threading

MOST_STRANGERS = 64  # each has a thread that waits
MOST_READERS = 8  # at once


class Readers:
    """The connections of one port. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._strangers: dict[socket.socket, None] = {}  # the one that has waited longest comes first
        self._answered: set[socket.socket] = set()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._answered)

    def come(self, end: socket.socket) -> None:
        """Somebody has connected; it may take the place of another one, whose thread then finds it closed."""
        with self._lock:
            if len(self._strangers) >= MOST_STRANGERS:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._strangers[end] = None

    def ask(self, end: socket.socket) -> bool:
        """Somebody has asked for a page that it may see. False: too many are answered already."""
        with self._lock:
            if end not in self._strangers or len(self._answered) >= MOST_READERS:
                return False
            del self._strangers[end]
            self._answered.add(end)
            return True

    def go(self, end: socket.socket) -> None:
        """A connection has ended. No error if it was never here."""
        with self._lock:
            self._strangers.pop(end, None)
            self._answered.discard(end)

    def close(self) -> None:
        """Show all strangers the door: the process ends."""
        with self._lock:
            for end in self._strangers:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
