"""The seam to the network: operations in, requests on the wire, events back. Here: gRPC."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any, Protocol

import grpc

from ..proto.channel import CHANNEL_OPTIONS, error_of
from .session import Event, Operation, Send


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


class GrpcTransport:
    """Channels to every address that was used, made when first needed, made anew after a fork."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._methods: dict[tuple[str, str], Any] = {}

    def open(self) -> GrpcWire:
        """A wire for one operation."""
        if self._pid != os.getpid():
            self._forget()  # the parent's channels are of no use here, and closing them could hang
        return GrpcWire(self)

    def method(self, address: str, method: str) -> Any:
        """The callable of a method at an address: bytes in, bytes out."""
        found = self._methods.get((address, method))
        if found is None:
            with self._lock:
                if address not in self._channels:
                    self._channels[address] = grpc.insecure_channel(address, CHANNEL_OPTIONS)
                found = self._channels[address].unary_unary(method)
                self._methods[address, method] = found
        return found

    def close(self) -> None:
        """Close all channels."""
        if self._pid == os.getpid():
            with self._lock:
                for channel in self._channels.values():
                    channel.close()
                self._channels.clear()
                self._methods.clear()


class GrpcWire:
    """One operation's calls."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport
        self._ended: queue.SimpleQueue[tuple[Send, Any]] = queue.SimpleQueue()
        self._under_way: dict[int, Any] = {}

    def send(self, send: Send) -> None:
        """Start the call."""
        method = self._transport.method(send.address, send.method)
        call = method.future(b"".join(send.buffers), timeout=max(send.timeout_s, 0.001))
        self._under_way[send.tag] = call
        call.add_done_callback(lambda done: self._ended.put((send, done)))

    def wait(self, timeout_s: float) -> Event | None:
        """The next call that ends."""
        try:
            send, call = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._under_way.pop(send.tag, None)
        try:
            return Event(send.tag, call.result())
        except grpc.FutureCancelledError:
            return None
        except grpc.RpcError as e:
            return Event(send.tag, error=error_of(e, send.address))

    def close(self) -> None:
        """Cancel the calls that nobody waits for."""
        for call in self._under_way.values():
            call.cancel()
        self._under_way.clear()
