"""The door: `POST /v1/notifications` (docs/design.md#wire-contract).

In this order, each step cheaper than the next: is it small enough, who sent it, what does it say, is there room. What
fails any of these has caused no call to AWS or Kubernetes.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keyturn_contract.message import (
    MAX_BODY,
    MalformedMessage,
    Notification,
    Outcome,
    Result,
    UnsupportedMediaType,
    decode,
    encode_reply,
)
from keyturn_contract.signature import Ed25519, NotVerified, verify
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span, no_traces
from keyturn_receiver.web.notification_handler import NotificationHandler

BODY_SECONDS = 10.0  # for a body of at most 16 KiB
_AGAIN = {"Retry-After": "2"}  # seconds

_log = logging.getLogger(__name__)


class WebhookEndpoint:
    """Takes deliveries; ``keys`` gives the signing keys that are valid now, ``now`` seconds since the epoch.

    ``public_keys`` are valid always.
    """

    def __init__(
        self,
        answer: NotificationHandler,
        keys: Callable[[], Sequence[bytes]],
        public_keys: Sequence[Ed25519],
        ready: Callable[[], bool],
        now: Callable[[], float],
        deadline: float,
        max_deliveries: int,
        metrics: Metrics,
        span: Span = no_traces,
    ) -> None:
        self._answer = answer
        self._keys = keys
        self._public_keys = public_keys
        self._ready = ready
        self._now = now
        self._deadline = deadline
        self._max_deliveries = max_deliveries
        self._metrics = metrics
        self._span = span
        self._deliveries = 0
        self._shutdown_deadline = math.inf
        self._draining = False
        self._refusal_noted_at = 0.0

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(routes=[Route("/v1/notifications", self._post, methods=["POST"])])
        app.router.redirect_slashes = False  # it would send people wherever the Host header says
        return app

    def start_draining(self) -> None:
        """Send everybody elsewhere with their next request: connections that stand would lead here to the end."""
        self._draining = True

    def set_deadline(self, seconds: float) -> None:
        """Answer within ``seconds`` whatever is under way, and whatever comes."""
        self._shutdown_deadline = time.monotonic() + seconds

    async def _post(self, request: Request) -> Response:
        try:
            response = await self._deliver(request)
        except _Refused as refused:
            response = refused.response()
        if self._draining:
            response.headers["Connection"] = "close"
        self._metrics.deliveries.labels(str(response.status_code)).inc()
        return response

    async def _deliver(self, request: Request) -> Response:
        deadline = time.monotonic() + self._deadline
        if not self._ready():
            raise _Refused(503, "not ready: send it again")
        body = await _read(request)
        delivery, notifications = self._understand(request.headers, body)
        # Only now: who holds no key cannot take the room away from those who do.
        if self._deliveries >= self._max_deliveries:
            raise _Refused(503, "busy: send it again")
        self._deliveries += 1
        try:
            with self._span("delivery", [notification.id for notification in notifications], delivery=delivery):
                answers = [
                    self._answer(notification, lambda: min(deadline, self._shutdown_deadline))
                    for notification in notifications
                ]
                results = [await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers)
        finally:
            self._deliveries -= 1
        self._note(delivery, results)
        failed = any(result.outcome is Outcome.FAILED for result in results)
        return Response(
            encode_reply(results),
            status_code=503 if failed else 200,
            headers=_AGAIN if failed else None,
            media_type="application/json",
        )

    def _understand(self, headers: Mapping[str, str], body: bytes) -> tuple[str, Sequence[Notification]]:
        """Verify, then read: gives the delivery's id and its notifications."""
        try:
            delivery = verify(self._keys(), headers, body, self._now(), public_keys=self._public_keys)
            return delivery, decode(headers.get("content-type", ""), body)
        except NotVerified as error:
            self._note_refusal(error.reason)
            raise _Refused(401, "not verified") from None
        except UnsupportedMediaType as error:
            raise _Refused(415, str(error)) from None
        except MalformedMessage as error:
            raise _Refused(400, str(error)) from None

    def _note_refusal(self, why: str) -> None:
        # Whoever floods the door with forgeries shall not flood the log, too; all are counted.
        if time.monotonic() - self._refusal_noted_at >= 1:
            self._refusal_noted_at = time.monotonic()
            _log.warning("delivery refused", extra={"fields": {"why": why}})

    def _note(self, delivery: str, results: Sequence[Result]) -> None:
        notifications = []
        for result in results:
            self._metrics.notifications.labels(result.outcome.value).inc()
            told = {"secrets": result.secrets, "consumers": result.consumers, "why": result.reason}
            notifications.append({"id": result.id, "outcome": result.outcome.value, **told})
        _log.info("delivery", extra={"fields": {"delivery": delivery, "notifications": notifications}})


class _Refused(Exception):
    """The delivery is answered with ``status`` and ``why``, and nothing has been done."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status

    def response(self) -> Response:
        # Who has not sent a whole body, or too much of one, would have the rest of it taken for the next request.
        headers = _AGAIN if self.status == 503 else {"Connection": "close"} if self.status in (408, 413) else None
        return JSONResponse({"error": str(self)}, self.status, headers=headers)


async def _read(request: Request) -> bytes:
    """Read a body of at most MAX_BODY bytes; refuse it as soon as it is known to be longer."""
    declared = request.headers.get("content-length", "")
    too_large = _Refused(413, f"the body is over {MAX_BODY} bytes: send fewer notifications at once")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        raise _Refused(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise _Refused(400, "the body was cut off") from None
    return bytes(body)
