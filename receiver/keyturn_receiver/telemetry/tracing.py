"""Traces with OpenTelemetry, which is an optional extra. The trace id is the id of the EventBridge event.

So a single id connects the event in AWS, the logs and the trace. The packages are listed in requirements/tracing.txt.
They are needed only if traces are switched on. OpenTelemetry's own variables say where the traces are sent:

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

Span = Callable[..., AbstractContextManager[Any]]
"""Function that opens a span: ``span(name, event_ids=[...], **attributes)``.

With event ids, the span belongs to the trace of the first event and is linked to the traces of the others. Without
event ids, it is a child of the current span."""


class TracingUnavailable(RuntimeError):
    """Traces are switched on, but the OpenTelemetry packages are not installed."""


def no_traces(name: str, event_ids: Sequence[str] = (), **attributes: str) -> AbstractContextManager[None]:
    """Tracer that opens no spans."""
    return nullcontext()


def opentelemetry(service: str, version: str) -> tuple[Span, Callable[[], None]]:
    """Return two functions. The first opens spans. The second sends the remaining spans and shuts the tracer down.
    Raises TracingUnavailable."""
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise TracingUnavailable("traces need the packages of requirements/tracing.txt: install them") from None
    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("keyturn_receiver")

    def event_context(event_id: str) -> trace.SpanContext:
        return trace.SpanContext(*_ids(event_id), is_remote=True, trace_flags=trace.TraceFlags(1))

    def span(name: str, event_ids: Sequence[str] = (), **attributes: str) -> AbstractContextManager[Any]:
        first, *others = map(event_context, event_ids) if event_ids else (None,)
        context = trace.set_span_in_context(trace.NonRecordingSpan(first)) if first else None
        links = [trace.Link(each) for each in others if each]
        # Exceptions are not recorded. The text of an exception may quote its input, which may be a secret value.
        opened: AbstractContextManager[Any] = tracer.start_as_current_span(
            name, context, attributes=attributes, links=links, record_exception=False, set_status_on_exception=False
        )
        return opened

    return span, provider.shutdown


def _ids(event_id: str) -> tuple[int, int]:
    """Return the trace id for an event (128 bits), and the id of the span that represents the event itself (64
    bits)."""
    digest = hashlib.sha256(event_id.encode()).digest()
    try:
        trace_id = UUID(event_id).int
    except ValueError:
        trace_id = int.from_bytes(digest[:16])
    return trace_id or 1, int.from_bytes(digest[16:24]) or 1
