"""The seam to the network: operations in, requests on the wire, events back. Here: gRPC, and the row lane beside it."""

from __future__ import annotations

import math
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import InvalidRequest, NoAnswer, RowloomError
from ...proto.framing import joined
from ...proto.lane import NUMBER
from ..calls.session import Event, Operation, Send
from .lane import Lane, Lanes

CARRIERS = ("auto", "tcp", "grpc")
MIXED_S = 0.002  # how often gRPC is looked after while lanes are waited for; both at once is rare


class Wire(Protocol):
    """What one operation needs of a network. Not shared between threads."""

    def send(self, send: Send) -> None:
        """Put a request on its way; its end will come from `wait`."""
        ...

    def wait(self, timeout_s: float) -> Event | None:
        """The next end of a request, or None after `timeout_s`."""
        ...

    def close(self) -> None:
        """Give up what is still under way."""
        ...


def drive(operation: Operation, wire: Wire, clock) -> Any:
    """Run an operation to its end on a real network. Returns what it returns, raises what it raises."""
    try:
        turn = next(operation)
        while True:
            for send in turn.sends:
                wire.send(send)
            event = wire.wait(max(0.0, turn.wake_at - clock()))
            turn = operation.send(event)
    except StopIteration as end:
        return end.value
    finally:
        wire.close()


class Transport:
    """Connections to every address that was used, made when first needed, made anew after a fork.

    Args:
        carrier: "grpc"; "tcp", the row lane on plain sockets; "auto", the lane on shared memory where that can be had.
            Whatever cannot be had falls back to gRPC.
    """

    def __init__(self, carrier: str = "grpc") -> None:
        if carrier not in CARRIERS:
            raise InvalidRequest(f"carrier must be one of {', '.join(CARRIERS)}, got {carrier!r}")
        self._carrier = carrier
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self.channels = Channels()
        self.callers = Callers()
        self._lanes = (
            None if self._carrier == "grpc" else Lanes(self._lane_of, shared=self._carrier == "auto")
        )

    def open(self) -> Wire:
        """A wire for one operation."""
        lanes, grpc_wire = self.lanes(), GrpcWire(self)
        return grpc_wire if lanes is None else LaneWire(lanes, grpc_wire)

    def lanes(self) -> Lanes | None:
        """The lanes of this process; None if all goes over gRPC."""
        if self._pid != os.getpid():
            self._forget()  # the parent's channels are of no use here, and closing them could hang
        return self._lanes

    def _lane_of(self, address: str, timeout_s: float) -> pb.LaneReply:
        return pb.LaneReply.FromString(self.channels.call(address, methods.DESCRIBE_LANE, b"", timeout_s))

    def close(self) -> None:
        """Close all channels."""
        if self._pid == os.getpid():
            self.channels.close()
            self.callers.close()
            if self._lanes is not None:
                self._lanes.close()


class GrpcWire:
    """One operation's calls. Each blocks a thread, the last one the caller's own: futures take half as long again."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._ended: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._kept: Send | None = None
        self._waited = False
        self._under_way = 0

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._under_way > 0

    def send(self, send: Send) -> None:
        """Start the call, or keep it until the next one is sent or waited for."""
        self._start_kept()
        self._kept = send
        self._under_way += 1
        if self._waited:  # more calls follow each other: the caller's thread has to start them
            self._start_kept()

    def _start_kept(self) -> None:
        if self._kept is not None:
            send, self._kept = self._kept, None
            self._transport.callers.run(lambda: self._ended.put(self._call(send)))

    def _call(self, send: Send) -> Event:
        timeout_s = max(send.timeout_s, 0.001)
        try:
            data = joined(send.buffers)
            return Event(send.tag, self._transport.channels.call(send.address, send.method, data, timeout_s))
        except RowloomError as e:
            return Event(send.tag, error=e)
        except MemoryError as e:  # no room for the message
            return Event(send.tag, error=NoAnswer(f"{send.address}: {e}"))

    def wait(self, timeout_s: float) -> Event | None:
        """The next call that ends."""
        self._waited = True
        if self._kept is not None and timeout_s >= self._kept.timeout_s:
            send, self._kept = self._kept, None
            self._under_way -= 1
            return self._call(send)
        self._start_kept()
        try:
            event = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._under_way -= 1
        return event

    def close(self) -> None:
        """Leave the calls that nobody waits for to their threads: each ends at its own deadline."""


class Callers:
    """Threads that block in calls, as many as there are at once; they end with the process, or when they are closed."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue] = []
        self._closed = False

    def run(self, job: Callable[[], None]) -> None:
        """Run a job beside the others."""
        try:
            mine = self._idle.pop()
        except IndexError:
            mine = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(mine,), name="rowloom-call", daemon=True).start()
        mine.put(job)

    def _serve(self, mine: queue.SimpleQueue) -> None:
        while (job := mine.get()) is not None:
            job()
            self._idle.append(mine)
            if self._closed:
                self.close()

    def close(self) -> None:
        """End those that have nothing to do, and the others when they are done."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)


class LaneWire:
    """One operation's requests: pulls and pushes on lanes that are its own meanwhile, the rest over gRPC."""

    def __init__(self, lanes: Lanes, grpc_wire: GrpcWire) -> None:
        self._lanes = lanes
        self._grpc = grpc_wire
        self._mine: dict[str, Lane] = {}
        self._at: dict[int, str] = {}  # file descriptor -> address
        self._poll = select.poll()
        self._ended: deque[Event] = deque()

    def send(self, send: Send) -> None:
        """Start the request."""
        number = NUMBER.get(send.method)
        lane = None if number is None else self._lane(send.address, send.timeout_s)
        if lane is None or number is None:
            self._grpc.send(send)
            return
        try:
            lane.send(send.tag, number, send.buffers, send.reply_bytes, time.monotonic() + send.timeout_s)
            if lane.clogged:
                self._poll.modify(lane.fileno(), select.POLLIN | select.POLLOUT)
        except OSError as e:
            self._broken(send.address, e)

    def _lane(self, address: str, timeout_s: float) -> Lane | None:
        lane = self._mine.get(address)
        if lane is None:
            lane = self._lanes.take(address, timeout_s)
            if lane is not None:
                self._mine[address] = lane
                self._at[lane.fileno()] = address
                self._poll.register(lane.fileno(), select.POLLIN)
        return lane

    def wait(self, timeout_s: float) -> Event | None:
        """The next request that ends."""
        until = time.monotonic() + timeout_s
        while not self._ended:
            left = until - time.monotonic()
            waits = [lane.waiting[0][1] for lane in self._mine.values() if lane.waiting]
            if not waits or self._grpc.busy:
                event = self._grpc.wait(max(0.0, left if not waits else 0.0))
                if event is not None or not waits:
                    return event
                left = min(left, MIXED_S)
            self._look(max(0.0, min(left, min(waits) - time.monotonic())))
            if time.monotonic() >= until:
                break
        return self._ended.popleft() if self._ended else None

    def _look(self, seconds: float) -> None:
        """Wait for the lanes, and take what they bring."""
        ready = self._poll.poll(math.ceil(seconds * 1000))
        for descriptor, _ in ready:
            address = self._at.get(descriptor)
            if address is None:
                continue
            lane = self._mine[address]
            try:
                if lane.clogged:
                    lane.flush()
                    if not lane.clogged:
                        self._poll.modify(descriptor, select.POLLIN)
                for tag, answer in lane.receive():
                    failed = isinstance(answer, RowloomError)
                    self._ended.append(Event(tag, error=answer) if failed else Event(tag, answer))
            except (OSError, InvalidRequest) as e:
                self._broken(address, e)
        if not ready:
            now = time.monotonic()
            for address, lane in list(self._mine.items()):
                if lane.waiting and lane.waiting[0][1] <= now:
                    self._broken(address, TimeoutError("no answer in time"))

    def _broken(self, address: str, error: Exception) -> None:
        """Nobody knows what became of the requests on a lane."""
        lane = self._drop(address)
        self._lanes.lost(address)
        for tag, _ in lane.waiting:
            self._ended.append(Event(tag, error=NoAnswer(f"{address}: the connection broke: {error}")))

    def _drop(self, address: str) -> Lane:
        lane = self._mine.pop(address)
        self._poll.unregister(lane.fileno())
        del self._at[lane.fileno()]
        lane.close()
        return lane

    def close(self) -> None:
        """Give the lanes back; those on which answers are still to come are of no use to anybody."""
        self._grpc.close()
        for address, lane in list(self._mine.items()):
            if lane.waiting:
                self._drop(address)
            else:
                self._lanes.give_back(address, lane)
        self._mine.clear()
