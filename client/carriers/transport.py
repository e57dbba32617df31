"""The seam to the network: operations in, requests on the wire, events back."""

from __future__ import annotations

import os
from typing import Any, Protocol

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import InvalidRequest
from ...proto.security.credentials import NOTHING, Credentials
from ..calls.cutting import RequestSizes
from ..calls.operation import Event, Operation, Send
from .grpc_wire import Callers, GrpcWire
from .lane_wire import LaneWire
from .lanes import Lanes

CARRIERS = ("auto", "tcp", "grpc")
GRPC_SIZES = RequestSizes(whole=4 << 20, piece=4 << 20)
LANE_SIZES = RequestSizes(whole=9 << 20, piece=4 << 20)  # a message and its reply have room on a lane


class Wire(Protocol):
    """What one operation needs of a network. Not shared between threads."""

    def send(self, send: Send) -> None:
        """Put a request on its way; its end will come from `wait`."""
        ...

    def wait(self, until: float) -> Event | None:
        """The next end of a request; None when `time.monotonic()` is at `until`, or nothing has come for a while."""
        ...

    def close(self) -> None:
        """Give up what is still under way."""
        ...


def drive(operation: Operation, wire: Wire) -> Any:
    """Run an operation, whose clock is `time.monotonic`, on a real network. Returns and raises what it does."""
    try:
        turn = next(operation)
        while True:
            for send in turn.sends:
                wire.send(send)
            turn = operation.send(wire.wait(turn.wake_at))
    except StopIteration as end:
        return end.value
    finally:
        operation.close()  # also when something was thrown in between: it accounts for what it has sent
        wire.close()


class Transport:
    """Connections to every address that was used, made when first needed, made anew after a fork.

    Args:
        carrier: "grpc"; "tcp", the row lane on plain sockets; "auto", the lane on shared memory where that can be had.
            Whatever cannot be had falls back to gRPC.
        credentials: what it shows to every server.
    """

    def __init__(self, carrier: str = "grpc", credentials: Credentials = NOTHING) -> None:
        if carrier not in CARRIERS:
            raise InvalidRequest(f"carrier must be one of {', '.join(CARRIERS)}, got {carrier!r}")
        self._carrier = carrier
        self._credentials = credentials
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self.channels = Channels(self._credentials)
        self._callers = Callers()
        self._lanes = (
            None
            if self._carrier == "grpc"
            else Lanes(self._lane_of, shared=self._carrier == "auto", credentials=self._credentials)
        )

    @property
    def sizes(self) -> RequestSizes:
        """How much goes into one request."""
        return GRPC_SIZES if self._carrier == "grpc" else LANE_SIZES

    def open(self) -> Wire:
        """A wire for one operation."""
        if self._pid != os.getpid():
            self._forget()  # the parent's channels are of no use here, and closing them could hang
        if self._lanes is None:
            return self._grpc_wire()
        return LaneWire(self._lanes, self._grpc_wire)

    def _grpc_wire(self) -> GrpcWire:
        return GrpcWire(self.channels, self._callers)

    def _lane_of(self, address: str, timeout_s: float) -> pb.LaneReply:
        return pb.LaneReply.FromString(self.channels.call(address, methods.DESCRIBE_LANE, b"", timeout_s))

    def close(self) -> None:
        """Close all channels."""
        if self._pid == os.getpid():
            self.channels.close()
            self._callers.close()
            if self._lanes is not None:
                self._lanes.close()
