"""A fake OTLP endpoint on loopback. It keeps the traces that it receives.

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import gzip
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.http_server import HttpServer, body_of, reply


class OtlpCollector(HttpServer):
    """An endpoint that receives traces and keeps the body of each request in ``bodies``."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(self._answer)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        self.bodies.append(gzip.decompress(body) if request.headers["Content-Encoding"] == "gzip" else body)
        reply(request, 200)

    @property
    def settings(self) -> dict[str, str]:
        """The settings that make a receiver send its traces to this endpoint every 200 ms."""
        return {"KEYTURN_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}

    @property
    def spans(self) -> list[Any]:
        """All spans that have been received so far."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [scope for each in requests for resource in each.resource_spans for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]
