"""Health endpoints: ``/livez``, ``/readyz`` and ``/metrics`` on the operations port."""

from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyturn_receiver.core.printable import printable
from keyturn_receiver.telemetry.metrics import Metrics


def health_app(
    stuck: Callable[[], Sequence[str]], not_ready: Callable[[], Sequence[str]], metrics: Metrics
) -> Starlette:
    """Build the ASGI application.

    ``stuck`` returns the names of the parts that make no progress. ``not_ready`` returns the conditions that readiness
    still waits for. /livez and /readyz answer 503 with these texts. If there are none, they answer 200.
    """

    async def livez(_: Request) -> Response:
        return _report("stuck", stuck())

    async def readyz(_: Request) -> Response:
        return _report("not ready", not_ready())

    async def exposition(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", exposition)])


def _report(state: str, names: Sequence[str]) -> Response:
    return PlainTextResponse(f"{state}: {printable(', '.join(names))}\n", 503) if names else PlainTextResponse("ok\n")
