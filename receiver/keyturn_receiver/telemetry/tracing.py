"""Traces, for who has OpenTelemetry: the trace's id is the event's own in EventBridge, so that one id joins it all.

Without the packages of requirements/tracing.txt nothing here does anything; where traces go is for OpenTelemetry's own
variables to say: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

Span = Callable[..., AbstractContextManager[Any]]
"""Opens a span: ``span(name, event_ids=[...], **attributes)``. With event ids it belongs to the trace of the first, and
is linked to the others'; without, to the span around it."""


class TracingUnavailable(RuntimeError):
    """Traces are asked for, and the packages are not there."""


def no_traces(name: str, event_ids: Sequence[str] = (), **attributes: str) -> AbstractContextManager[None]:
    """Open no span."""
    return nullcontext()


def opentelemetry(service: str, version: str) -> tuple[Span, Callable[[], None]]:
    """Give what opens spans, and what sends the last of them at the end. Raises TracingUnavailable."""
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

    def origin(event_id: str) -> trace.SpanContext:
        return trace.SpanContext(*_ids(event_id), is_remote=True, trace_flags=trace.TraceFlags(1))

    def span(name: str, event_ids: Sequence[str] = (), **attributes: str) -> AbstractContextManager[Any]:
        first, *others = map(origin, event_ids) if event_ids else (None,)
        context = trace.set_span_in_context(trace.NonRecordingSpan(first)) if first else None
        links = [trace.Link(each) for each in others if each]
        # An exception's own text may quote what it stumbled over.
        opened: AbstractContextManager[Any] = tracer.start_as_current_span(
            name, context, attributes=attributes, links=links, record_exception=False, set_status_on_exception=False
        )
        return opened

    return span, provider.shutdown


def _ids(event_id: str) -> tuple[int, int]:
    """The ids of an event's trace, 128 bits, and of what stands for the event in it, 64 bits."""
    digest = hashlib.sha256(event_id.encode()).digest()
    try:
        trace_id = UUID(event_id).int
    except ValueError:
        trace_id = int.from_bytes(digest[:16])
    return trace_id or 1, int.from_bytes(digest[16:24]) or 1
