"""The operations port: is it alive, is it ready, what has it counted."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyturn_receiver.telemetry import Metrics


def operations(missing: Callable[[], list[str]], metrics: Metrics) -> Starlette:
    """The ASGI application; ``missing`` names what readiness waits for."""

    async def live(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        lacks = missing()
        return PlainTextResponse("waiting for " + ", ".join(lacks) + "\n", 503) if lacks else PlainTextResponse("ok\n")

    async def counted(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", counted)])
