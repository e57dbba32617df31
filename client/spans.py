"""Spans of a client's calls, and of the request to each shard, for OpenTelemetry: `connect(..., tracing=True)`."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..proto import methods
from ..proto.errors import InvalidRequest
from ..proto.framing import TRACE, TRACE_BYTES
from .calls.operation import Event, Operation, Send, Writable
from .carriers.transport import Wire, drive

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

MISSING = "tracing needs OpenTelemetry's API: pip install 'rowloom[otel]', and set up its SDK in the trainer"


class CallSpans:
    """Makes a span of each call that moves rows. Where they go is what the trainer's SDK was told.

    Raises:
        InvalidRequest: OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
        except ImportError as e:
            raise InvalidRequest(MISSING) from e
        self._tracer: Tracer = trace.get_tracer("rowloom.client")

    def drive(self, operation: Operation, wire: Wire, about: Sequence[tuple[Any, ...]]) -> Any:
        """As `carriers.transport.drive`, within a span. about: (table's entry, ids, ...) of what it is for."""
        if not about:
            return drive(operation, wire)
        span = self._tracer.start_span(f"rowloom {getattr(operation, '__name__', 'call')}")
        if not span.is_recording():
            return drive(operation, wire)
        span.set_attribute("rowloom.tables", list(dict.fromkeys(entry.spec.name for entry, *_ in about)))
        span.set_attribute("rowloom.ids", sum(_count(one[1]) for one in about if len(one) > 1))
        try:
            return drive(operation, TracedWire(wire, self._tracer, span))
        except BaseException as e:
            _failed(span, e)
            raise
        finally:
            span.end()

    @staticmethod
    def kept(call: Callable[..., Any]) -> Callable[..., Any]:
        """A call for another thread, whose spans belong to what is traced here."""
        return partial(contextvars.copy_context().run, call)


class TracedWire:
    """A wire with a span of each request, whose context goes to the shard with it."""

    def __init__(self, wire: Wire, tracer: Tracer, call: Span) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._wire, self._tracer = wire, tracer
        self._kind, self._context = SpanKind.CLIENT, set_span_in_context(call)
        self._spans: dict[int, Span] = {}

    def send(self, send: Send) -> None:
        """As `Wire`."""
        service, _, method = send.method[1:].partition("/")
        host, _, port = send.address.rpartition(":")
        attributes = {
            "rpc.system": "rowloom",
            "rpc.service": service,
            "rpc.method": method,
            "server.address": host,
            "server.port": int(port) if port.isdecimal() else 0,
            "rowloom.request_bytes": send.message.size,
        }
        span = self._tracer.start_span(send.method[1:], self._context, self._kind, attributes)
        self._spans[send.tag] = span
        message = send.message
        if send.method in methods.ROWS and span.is_recording():
            message = TracedMessage(message, span.get_span_context())
        self._wire.send(Send(send.tag, send.address, send.method, message, send.until))

    def wait(self, until: float) -> Event | None:
        """As `Wire`."""
        event = self._wire.wait(until)
        span = self._spans.pop(event.tag, None) if event is not None else None
        if event is not None and span is not None:
            if event.error is not None:
                _failed(span, event.error)
            else:
                span.set_attribute("rowloom.reply_bytes", len(event.data))
            span.end()
        return event

    def close(self) -> None:
        """As `Wire`. Requests that nobody waits for any more end here."""
        self._wire.close()
        for span in self._spans.values():
            span.set_attribute("error.type", "cancelled")
            span.end()
        self._spans = {}


class TracedMessage:
    """A message behind the context of its span; see `proto/framing.py`."""

    def __init__(self, message: Writable, context: SpanContext) -> None:
        self._message = message
        trace = context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")
        self._trace = TRACE + trace + bytes([context.trace_flags])

    @property
    def size(self) -> int:
        """As `Writable`."""
        return self._message.size + TRACE_BYTES

    @property
    def reply_bytes(self) -> int:
        """As `Writable`."""
        return self._message.reply_bytes

    def write(self, buffer: np.ndarray, at: int) -> tuple[int, int]:
        """As `Writable`."""
        begin, end = self._message.write(buffer, at + TRACE_BYTES)
        buffer[begin - TRACE_BYTES : begin] = np.frombuffer(self._trace, np.uint8)
        return begin - TRACE_BYTES, end


def _failed(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", type(error).__name__)
    span.set_status(StatusCode.ERROR)


def _count(ids: Any) -> int:
    """How many ids those of a caller are, whatever holds them."""
    return ids.numel() if hasattr(ids, "numel") else int(np.size(ids))
