"""The operations port: is it alive, is it ready, what has it counted."""

from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyturn_receiver.telemetry.metrics import Metrics


def operations(stuck: Callable[[], Sequence[str]], missing: Callable[[], Sequence[str]], metrics: Metrics) -> Starlette:
    """The ASGI application; ``stuck`` names what makes no progress, ``missing`` what readiness waits for."""

    async def live(_: Request) -> Response:
        return _verdict("no progress of ", stuck())

    async def ready(_: Request) -> Response:
        return _verdict("waiting for ", missing())

    async def counted(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", counted)])


def _verdict(what: str, faults: Sequence[str]) -> Response:
    return PlainTextResponse(what + ", ".join(faults) + "\n", 503) if faults else PlainTextResponse("ok\n")
