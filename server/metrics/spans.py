"""Spans of the calls that a shard answers, for OpenTelemetry: of those calls only whose clients trace them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...proto.errors import InvalidRequest
from ...proto.framing import Buffer
from ..call import Call

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

MISSING = "tracing of shards needs OpenTelemetry's SDK and its OTLP exporter: pip install 'rowloom[otel]'"
Answered = Callable[[Call], Sequence[Buffer]]


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

    def around(self, call: Call, trace: bytes, answered: Answered) -> Sequence[Buffer]:
        """Answer a call within a span. trace: its context, as in the request. Raises as `answered`."""
        from opentelemetry.trace import SpanKind, StatusCode

        service, _, method = call.method[1:].partition("/")
        attributes: dict[str, str | int] = {
            "rpc.system": "rowloom",
            "rpc.service": service,
            "rpc.method": method,
            "rowloom.carrier": call.caller.carrier,
            "rowloom.request_bytes": len(call.data),
        }
        span = self._tracer.start_span(call.method[1:], _context_of(trace), SpanKind.SERVER, attributes)
        try:
            return answered(call)
        except BaseException as e:  # recorded by its class: its message may name ids
            span.set_attribute("error.type", type(e).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for long."""
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
