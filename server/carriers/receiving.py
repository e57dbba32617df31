"""Calls of gRPC whose message has not come yet: how long each may take, so that they cannot shut out the others.

Why it is so. What must hold: calls whose message never comes hold a bounded number of threads and bytes, and whoever
comes after them is answered soon. gRPC's own handler of a unary call blocks a thread until the message is there,
without an end. So ours is told of a stream, of which it takes one message: it looks the same on the wire, and it is
ours to break off.

Only so many messages are held at once, because each may be large, from when they begin to come until they are answered;
what waits for that costs a thread that does nothing. No connection gets all of these places (see `places`). Where one
has none and none is free, or no thread is left, calls that are still to come are broken off at once, of the connection
with most of them; where each connection has one, those that have had CROWDED_STALL_S.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import grpc

from ...proto.errors import InvalidRequest
from .places import Place, Places

MOST_MESSAGES = 24  # each up to MAX_MESSAGE_BYTES
MOST_WAITING = 232  # until theirs may come; each holds a thread
STALL_S = 20.0  # for a message to come
CROWDED_STALL_S = 2.0  # the same while others are shut out
GREEDY_S = 0.05  # the same of one of several of a connection
LOOK_S = 0.2  # at the latest: who is shut out is looked at sooner
_PAUSE_S = 0.01  # at the soonest


class Receiving:
    """The calls of one server.

    Args:
        waiting: how many calls wait for a thread.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._lock = threading.Lock()
        self._places = Places(MOST_MESSAGES)
        # When it came, and its turn; the one that came first is the first.
        self._there: dict[grpc.ServicerContext, tuple[float, Place]] = {}
        self._hurry = threading.Event()  # somebody is shut out
        self._stopped = threading.Event()

    def enter(self, context: grpc.ServicerContext) -> Place:
        """A call is here. `leave` must follow, when it is answered."""
        with self._lock:
            turn = self._places.take(context.peer)
            self._there[context] = time.monotonic(), turn
        return turn

    def leave(self, turn: Place) -> None:
        """A call is answered, or was broken off: its place is free."""
        with self._lock:
            self._places.leave(turn)

    def message(self, messages: Iterator[bytes], context: grpc.ServicerContext, turn: Place) -> bytes:
        """The message of a call that has entered.

        Raises:
            InvalidRequest: it has none.
            grpc.RpcError: it was broken off, by the client or by us.
        """
        try:
            if turn.ready is not None:
                self._hurry.set()
                turn.ready.wait()
            return next(messages)
        except StopIteration:
            raise InvalidRequest("a call needs one message, got none") from None
        finally:
            with self._lock:
                del self._there[context]

    @property
    def queued(self) -> int:
        """Calls that wait for a place."""
        with self._lock:
            return self._places.queued

    def start(self) -> None:
        """Begin to look after them."""
        threading.Thread(target=self._look, name="rowloom-rpc-look", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._hurry.set()

    def _look(self) -> None:
        while not self._stopped.wait(_PAUSE_S):
            self._hurry.wait(LOOK_S)
            self._hurry.clear()
            for context in self.overdue(time.monotonic()):
                context.cancel()
            self._wake_ended()

    def overdue(self, now: float) -> list[grpc.ServicerContext]:
        """Those that have had their time; fewer seconds for as many as are shut out."""
        with self._lock:
            waiting, shut_out = self._waiting(), self._places.shut_out
            there = [(context, now - since, turn) for context, (since, turn) in self._there.items()]
        out = [context for context, age, _ in there if age > STALL_S]
        wanted = waiting + shut_out
        brief = [(context, turn) for context, age, turn in there if GREEDY_S < age <= STALL_S]
        out += _greedy([one for one in brief if one[1].has], min(shut_out, wanted - len(out)))
        out += _greedy([one for one in brief if one[0] not in out], min(waiting, wanted - len(out)))
        crowding = [c for c, age, _ in there if age > CROWDED_STALL_S and c not in out]
        return out + crowding[: max(0, wanted - len(out))]

    def _wake_ended(self) -> None:
        """Calls that were broken off wait for no place: they find out when they ask for their message."""
        with self._lock:
            waiting = [(c, turn.ready) for c, (_, turn) in self._there.items() if turn.ready and not turn.has]
        for context, ready in waiting:
            if not context.is_active():
                ready.set()


def _greedy(there: list[tuple[grpc.ServicerContext, Place]], wanted: int) -> list[grpc.ServicerContext]:
    """So many calls of connections that have several: each time the oldest one of the connection that has most."""
    of: defaultdict[str, list[grpc.ServicerContext]] = defaultdict(list)
    for context, turn in there:
        of[turn.who].append(context)
    found: list[grpc.ServicerContext] = []
    while of and len(found) < wanted:
        most = max(of.values(), key=len)
        if len(most) < 2:
            break
        found.append(most.pop(0))
    return found
