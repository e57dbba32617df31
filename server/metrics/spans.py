"""Spans of the calls that a shard answers, for OpenTelemetry: of those calls only whose clients trace them.

Why it is so. What must hold: a call does not wait for its span. To make one takes 30 us, and four times that between
two calls that move megabytes, which leave nothing of it in the caches. So a call leaves a note of some microseconds,
and a thread makes spans of all notes, several times a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...proto.errors import InvalidRequest
from ...proto.framing import Buffer
from ..call import Call

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)
EVERY_S = 0.1
MOST_WAITING = 2048  # answers of which no span was made yet; further ones get none
MISSING = "tracing of shards needs OpenTelemetry's SDK and its OTLP exporter: pip install 'rowloom[otel]'"
Handler = Callable[[Call], Sequence[Buffer]]


class Answered(NamedTuple):
    """One that was given, of which a span is made. began_ns, ended_ns: wall clock; error: a class's name, or ""."""

    method: str
    trace: bytes
    carrier: str
    request_bytes: int
    began_ns: int
    ended_ns: int
    error: str


class Spans:
    """Makes them, and sends them on in the background. What samples, batches and limits is set by OTEL_*, as ever.

    Args:
        endpoint: URL of an OTLP collector, over HTTP, as http://127.0.0.1:4318/v1/traces.

    Raises:
        InvalidRequest: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        exporter = exporter_to(endpoint)
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "rowloom-shard"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rowloom.server")
        self._answers: deque[Answered] = deque()
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rowloom-spans", daemon=True)
        self._thread.start()

    def around(self, call: Call, trace: bytes, answered: Handler) -> Sequence[Buffer]:
        """Answer a call, of which there will be a span. trace: its context, as in the request. Raises as `answered`."""
        size, began, error = len(call.data), time.time_ns(), ""
        try:
            return answered(call)
        except BaseException as e:  # recorded by its class: its message may name ids
            error = type(e).__name__
            raise
        finally:
            if len(self._answers) < MOST_WAITING:
                carrier = call.caller.carrier
                self._answers.append(
                    Answered(call.method, trace, carrier, size, began, time.time_ns(), error)
                )
            else:
                self._dropped += 1

    def _work(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._make()

    def _make(self) -> None:
        """The spans of what was answered since."""
        while self._answers:
            self._make_one(self._answers.popleft())
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("%d spans were left out: more than %d came in %g s", dropped, MOST_WAITING, EVERY_S)

    def _make_one(self, answer: Answered) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        service, _, method = answer.method[1:].partition("/")
        attributes: dict[str, str | int] = {
            "rpc.system": "rowloom",
            "rpc.service": service,
            "rpc.method": method,
            "rowloom.carrier": answer.carrier,
            "rowloom.request_bytes": answer.request_bytes,
        }
        if answer.error:
            attributes["error.type"] = answer.error
        context, name = _context_of(answer.trace), answer.method[1:]
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes, start_time=answer.began_ns)
        if answer.error:
            span.set_status(StatusCode.ERROR)
        span.end(answer.ended_ns)

    def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for long."""
        self._closing.set()
        self._thread.join()
        self._make()
        self._provider.force_flush(1000)
        self._provider.shutdown()


def exporter_to(endpoint: str) -> SpanExporter:
    """What sends spans to a collector. Raises InvalidRequest: OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as e:
        raise InvalidRequest(MISSING) from e
    return OTLPSpanExporter(endpoint=endpoint)


def _context_of(trace: bytes) -> Context:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    ids = int.from_bytes(trace[:16], "big"), int.from_bytes(trace[16:24], "big")
    return set_span_in_context(
        NonRecordingSpan(SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(trace[24])))
    )
