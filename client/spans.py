"""Spans of a client's calls, for OpenTelemetry: `connect(..., tracing=True)`.

Why it is so. What must hold: a step of 16,384 ids takes at most 3 % longer. A span costs tens of microseconds, so
each side makes one: the client of a call, each shard of what it answers, as its child. Rejected: spans of the
client's requests between them, which say what the shards' spans say, and what the network took beside; one that fails
is an event of the call. Also rejected: a span of every call. With those of the shards that is 11 to 21 % of a step
over shared memory, however they are made, as the SDKs of three processes share the cores with them. So a client
begins at most so many traces a second, as Jaeger's rate limiting sampler does: slow calls are all there, and of fast
ones as many as a person can look at. A fixed share would lose the slow ones. What belongs to a span of the trainer
was decided there. Take both up again when OpenTelemetry's spans cost a tenth.
"""

from __future__ import annotations

import contextvars
import dataclasses
import numbers
import threading
import time
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

TRACES_A_SECOND = 20.0  # that a client begins by itself when `tracing` is True
MISSING = "tracing needs OpenTelemetry's API: pip install 'rowloom[otel]', and set up its SDK in the trainer"


class CallSpans:
    """Makes a span of each call that moves rows. Where they go is what the trainer's SDK was told.

    Args:
        per_second: most calls a second that begin a trace; those within a span of the trainer are not counted.

    Raises:
        InvalidRequest: OpenTelemetry is not installed.
    """

    def __init__(self, per_second: float = TRACES_A_SECOND) -> None:
        try:
            from opentelemetry import trace
        except ImportError as e:
            raise InvalidRequest(MISSING) from e
        self.per_second = per_second
        self._budget = TraceRate(per_second)
        self._current = trace.get_current_span
        self._tracer: Tracer = trace.get_tracer("rowloom.client")
        self._kind = trace.SpanKind.CLIENT

    def drive(self, operation: Operation, wire: Wire, about: Sequence[tuple[Any, ...]]) -> Any:
        """As `carriers.transport.drive`, within a span. about: (table's entry, ids, ...) of what it is for."""
        if not about:
            return drive(operation, wire)
        within = self._current().get_span_context().is_valid
        if not within and not self._budget.left():
            return drive(operation, wire)
        attributes = {
            "rowloom.tables": tuple(dict.fromkeys(entry.spec.name for entry, *_ in about)),
            "rowloom.ids": sum(_count(one[1]) for one in about if len(one) > 1),
        }
        name = f"rowloom {getattr(operation, '__name__', 'call')}"
        span = self._tracer.start_span(name, kind=self._kind, attributes=attributes)
        if not span.is_recording():
            return drive(operation, wire)
        if not within:
            self._budget.take()  # not before: what the trainer's sampler leaves out takes no part of it
        try:
            return drive(operation, TracedWire(wire, span))
        except BaseException as e:
            _failed(span, e)
            raise
        finally:
            span.end()

    @staticmethod
    def kept(call: Callable[..., Any]) -> Callable[..., Any]:
        """A call for another thread, whose spans belong to what is traced here."""
        return partial(contextvars.copy_context().run, call)


class TraceRate:
    """So many a second, and at most a fifth of these at once: a token bucket."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._most = max(1.0, per_second / 5)
        self._tokens, self._at = self._most, clock()
        self._lock = threading.Lock()

    def left(self) -> bool:
        """Whether there is one."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_second)
            self._at = now
            return self._tokens >= 1

    def take(self) -> None:
        """Use one. Threads that ask at once may take one more each; it is paid back."""
        with self._lock:
            self._tokens -= 1


def as_traces_a_second(tracing: object) -> float:
    """What `connect(tracing=...)` was given as traces a second; 0: none.

    Raises:
        InvalidRequest: neither True nor False nor a number above 0.
    """
    if isinstance(tracing, bool | np.bool_):
        return TRACES_A_SECOND if tracing else 0.0
    if isinstance(tracing, numbers.Real) and float(tracing) > 0:
        return float(tracing)
    raise InvalidRequest(
        f"tracing must be True, False or how many traces a second it may begin, such as 20, got {tracing!r}; "
        "float('inf') traces every call"
    )


class TracedWire:
    """A wire whose requests carry the context of a call's span to the shards; what fails of them is an event there."""

    def __init__(self, wire: Wire, span: Span) -> None:
        self._wire, self._span = wire, span
        self._trace = _encoded(span.get_span_context())

    def send(self, send: Send) -> None:
        """As `Wire`."""
        message = send.message
        if send.method in methods.ROWS:
            message = TracedMessage(message, self._trace)
        self._wire.send(dataclasses.replace(send, message=message))

    def wait(self, until: float) -> Event | None:
        """As `Wire`."""
        event = self._wire.wait(until)
        if event is not None and event.error is not None:
            self._span.add_event("a request failed", {"error.type": type(event.error).__name__})
        return event

    def close(self) -> None:
        """As `Wire`."""
        self._wire.close()


class TracedMessage:
    """A message behind the context of a span, as `_encoded`; see `proto/framing.py`."""

    def __init__(self, message: Writable, trace: np.ndarray) -> None:
        self._message, self._trace = message, trace

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
        buffer[begin - TRACE_BYTES : begin] = self._trace
        return begin - TRACE_BYTES, end


def _encoded(context: SpanContext) -> np.ndarray:
    """[TRACE_BYTES] uint8."""
    trace = context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")
    return np.frombuffer(TRACE + trace + bytes([context.trace_flags]), np.uint8)


def _failed(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", type(error).__name__)
    span.set_status(StatusCode.ERROR)


def _count(ids: Any) -> int:
    """How many ids those of a caller are, whatever holds them."""
    return ids.numel() if hasattr(ids, "numel") else int(np.size(ids))
