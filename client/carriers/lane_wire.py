"""Requests of one operation: pulls and pushes on lanes that are its own meanwhile, the rest over gRPC.

While every lane has one reply to come, they are received one after the other by blocking: the fastest way to wait. As
soon as there is more to look after - several replies on a lane, a socket whose buffer is full, gRPC calls, something
that the operation wants to be woken for before the reply - all of them are polled.

A lane is of the token that it was opened with, and a token counts until it has been replaced twice. So a lane that does
not know its caller any more is opened once more, with the newest token, before anybody hears of it.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Callable

from ...proto.errors import InvalidRequest, NoAnswer, Unauthenticated
from ...proto.lane import NUMBER
from ..calls.operation import Event, Send
from .grpc_wire import LOOK_S, GrpcWire
from .lane import PATIENCE_S, Lane
from .lanes import Lanes

MIXED_S = 0.002  # how often gRPC is looked after while lanes are waited for; both at once is rare


class LaneWire:
    """A wire over lanes, and over gRPC to whom has none.

    Args:
        lanes: of this process.
        grpc_wire: makes one, when it is first needed.
    """

    def __init__(self, lanes: Lanes, grpc_wire: Callable[[], GrpcWire]) -> None:
        self._lanes = lanes
        self._make_grpc = grpc_wire
        self._grpc: GrpcWire | None = None
        self._mine: dict[str, Lane] = {}
        self._ended: deque[Event] = deque()
        self._opened_anew: set[str] = set()  # addresses whose lanes did not know us any more
        # No lane has more than one reply to come, or something left to send, and nothing goes over gRPC.
        self._one_each = True

    def send(self, send: Send) -> None:
        """Start the request."""
        number, address = NUMBER.get(send.method), send.address
        lane = None if number is None else self._mine.get(address) or self._take(address, send.until)
        if lane is None or number is None:
            if self._grpc is None:
                self._grpc, self._one_each = self._make_grpc(), False
            self._grpc.send(send)
            return
        try:
            if not lane.send(number, send):
                self._one_each = False
        except OSError as e:
            self._broken(address, e)

    def _take(self, address: str, until: float) -> Lane | None:
        lane = self._lanes.take(address, until, anew=address in self._opened_anew)
        if lane is not None:
            self._mine[address] = lane
        return lane

    def wait(self, until: float) -> Event | None:
        """As `Wire.wait`."""
        looks = False
        while not self._ended:
            if self._one_each:
                for address, lane in self._mine.items():
                    if lane.waiting and lane.waiting[0][0].until <= until + PATIENCE_S:
                        event = self._receive(address, lane, block=True)
                        if event is not None:
                            return event
                        self._one_each = False  # it takes long: others may be quicker
                        break
            if not looks:  # not before: who is answered at once needs no clock
                looks, until = True, min(until, time.monotonic() + LOOK_S)
            calling = self._grpc is not None and self._grpc.busy
            busy = {address: lane for address, lane in self._mine.items() if lane.waiting}
            if not busy or calling:
                event = self._wait_for_grpc(0.0 if busy else until)
                if event is not None or not busy:
                    return event
            seconds = until - time.monotonic()
            self._poll(busy, min(seconds, MIXED_S) if calling else seconds)
            if time.monotonic() >= until:
                break
        return self._ended.popleft() if self._ended else None

    def _wait_for_grpc(self, until: float) -> Event | None:
        if self._grpc is not None:
            return self._grpc.wait(until)
        time.sleep(max(0.0, until - time.monotonic()))
        return None

    def _receive(self, address: str, lane: Lane, *, block: bool) -> Event | None:
        """A lane's next reply; None if it has none yet. Of a lane that breaks, the ends of all its requests follow."""
        send = lane.waiting[0][0]
        try:
            event = lane.receive(block=block)
        except (OSError, InvalidRequest) as e:
            self._broken(address, e)
            return self._ended.popleft()
        if event is None or not isinstance(event.error, Unauthenticated) or address in self._opened_anew:
            return event
        self._opened_anew.add(address)
        self._broken(address, ConnectionAbortedError("it was opened with a token that is replaced"))
        self.send(send)  # it was refused before anything was done; if the newest token is refused, so is this
        return None

    def _poll(self, busy: dict[str, Lane], seconds: float) -> None:
        """Wait for any lane, and take what they bring."""
        poll = select.poll()
        at: dict[int, str] = {}
        first = math.inf
        for address, lane in busy.items():
            poll.register(lane.fileno(), select.POLLIN | (select.POLLOUT if lane.clogged else 0))
            at[lane.fileno()] = address
            first = min(first, lane.waiting[0][0].until)
        seconds = max(0.0, min(seconds, first - time.monotonic()))
        for descriptor, _ in poll.poll(math.ceil(seconds * 1000)):
            address = at[descriptor]
            lane = busy[address]
            try:
                lane.flush()
            except OSError as e:
                self._broken(address, e)
                continue
            while lane.waiting and self._mine.get(address) is lane:
                event = self._receive(address, lane, block=False)
                if event is None:
                    break
                self._ended.append(event)
        now = time.monotonic()
        for address, lane in busy.items():
            if self._mine.get(address) is lane and lane.waiting and lane.waiting[0][0].until <= now:
                self._broken(address, TimeoutError("no answer in time"))

    def _broken(self, address: str, error: Exception) -> None:
        """Nobody knows what became of the requests on a lane."""
        lane = self._mine.pop(address)
        lane.close()
        self._lanes.lost(address)
        for send, *_ in lane.waiting:
            error_of = NoAnswer.of(address, _in_words(error))
            self._ended.append(Event(send.tag, error=error_of))

    def close(self) -> None:
        """Give the lanes back."""
        if self._grpc is not None:
            self._grpc.close()
        mine, self._mine = self._mine, {}
        self._lanes.give_back(mine)


def _in_words(error: Exception) -> str:
    """Why a lane is of no use any more, as people read it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    why = (isinstance(error, OSError) and error.strerror) or str(error)
    return f"the connection broke ({why})"
