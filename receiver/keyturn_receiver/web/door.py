"""The door: `POST /v1/notifications` (DESIGN section 3).

In this order, each step cheaper than the next: is there room, is it small enough, who sent it, what does it say. What
fails before the last step has caused no call to AWS or Kubernetes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keyturn_contract.message import (
    MAX_BODY,
    MalformedMessage,
    Outcome,
    Result,
    UnsupportedMediaType,
    decode,
    encode_reply,
)
from keyturn_contract.signature import NotVerified, verify
from keyturn_receiver.telemetry import Metrics
from keyturn_receiver.web.answer import Answer

BODY_SECONDS = 10.0  # for a body of at most 16 KiB

_log = logging.getLogger(__name__)


class Door:
    """Takes deliveries; ``keys`` gives the signing keys that are valid now, ``now`` seconds since the epoch."""

    def __init__(
        self,
        answer: Answer,
        keys: Callable[[], Sequence[bytes]],
        ready: Callable[[], bool],
        now: Callable[[], float],
        deadline: float,
        max_deliveries: int,
        metrics: Metrics,
    ) -> None:
        self._answer = answer
        self._keys = keys
        self._ready = ready
        self._now = now
        self._deadline = deadline
        self._max_deliveries = max_deliveries
        self._metrics = metrics
        self._deliveries = 0

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(routes=[Route("/v1/notifications", self._post, methods=["POST"])])

    async def _post(self, request: Request) -> Response:
        if not self._ready() or self._deliveries >= self._max_deliveries:
            response = _refusal(503, "not ready, or busy: send it again", retry_after=2)
        else:
            self._deliveries += 1
            try:
                response = await self._deliver(request)
            finally:
                self._deliveries -= 1
        self._metrics.deliveries.labels(str(response.status_code)).inc()
        return response

    async def _deliver(self, request: Request) -> Response:
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(request)
        except TimeoutError:
            return _refusal(408, "the body did not come within 10 s")
        except ClientDisconnect:
            return _refusal(400, "the body was cut off")
        if body is None:
            return _refusal(413, f"the body is over {MAX_BODY} bytes: send fewer notifications at once")
        try:
            delivery = verify(self._keys(), request.headers, body, self._now())
        except NotVerified as error:
            _log.warning("delivery refused", extra={"fields": {"why": error.reason}})
            return _refusal(401, "not verified")
        try:
            notifications = decode(request.headers.get("content-type", ""), body)
        except UnsupportedMediaType as error:
            return _refusal(415, str(error))
        except MalformedMessage as error:
            return _refusal(400, str(error))
        deadline = arrived + self._deadline
        results = await asyncio.gather(*(self._answer(notification, deadline) for notification in notifications))
        for result in results:
            self._note(delivery, result)
        failed = any(result.outcome is Outcome.FAILED for result in results)
        return Response(
            encode_reply(results),
            status_code=503 if failed else 200,
            headers={"Retry-After": "2"} if failed else None,
            media_type="application/json",
        )

    def _note(self, delivery: str, result: Result) -> None:
        self._metrics.notifications.labels(result.outcome.value).inc()
        fields = {
            "delivery": delivery,
            "id": result.id,
            "outcome": result.outcome.value,
            "secrets": result.secrets,
            "consumers": result.consumers,
            "why": result.reason,
        }
        _log.info("notification", extra={"fields": fields})


async def _read(request: Request) -> bytes | None:
    """Read a body of at most MAX_BODY bytes; None as soon as it is known to be longer."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _refusal(status: int, why: str, retry_after: int | None = None) -> Response:
    return JSONResponse(
        {"error": why}, status_code=status, headers={"Retry-After": str(retry_after)} if retry_after else None
    )
