"""Calls of gRPC whose message has not come yet: how long each may take, so that they cannot shut out the others.

Why it is so. What must hold: calls whose message never comes hold a bounded number of threads and bytes, and whoever
comes after them is answered within seconds. gRPC's own handler of a unary call blocks a thread until the message is
there, without an end. So ours is told of a stream, of which it takes one message: it looks the same on the wire, and it
is ours to break off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import grpc

from ...proto.errors import InvalidRequest

MOST_RECEIVING = 16  # each holds a thread, and up to MAX_MESSAGE_BYTES
STALL_S = 20.0  # for a message to come
CROWDED_STALL_S = 2.0  # the same while calls wait for a thread
LOOK_S = 0.5


class Receiving:
    """The calls of one server.

    Args:
        waiting: how many calls wait for a thread.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._lock = threading.Lock()
        self._since: dict[grpc.ServicerContext, float] = {}  # the one that has waited longest comes first
        self._stopped = threading.Event()

    def message(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """A call's message.

        Raises:
            InvalidRequest: it has none.
            grpc.RpcError: it was broken off, by the client or by us.
        """
        with self._lock:
            self._since[context] = time.monotonic()
        try:
            return next(messages)
        except StopIteration:
            raise InvalidRequest("a call needs one message, got none") from None
        finally:
            with self._lock:
                del self._since[context]

    def start(self) -> None:
        """Begin to look after them."""
        threading.Thread(target=self._look, name="rowloom-rpc-look", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _look(self) -> None:
        while not self._stopped.wait(LOOK_S):
            for context in self.overdue(time.monotonic()):
                context.cancel()

    def overdue(self, now: float) -> list[grpc.ServicerContext]:
        """Those that have had their time; fewer seconds for as many as calls wait, the longest first."""
        waiting = self._waiting()
        with self._lock:
            return [
                context
                for k, (context, since) in enumerate(self._since.items())
                if now - since > (CROWDED_STALL_S if k < waiting else STALL_S)
            ]
