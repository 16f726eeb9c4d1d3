"""Webhook to which the notifier delivers: ``POST /v1/notifications`` (docs/design.md#wire-contract).

Once the receiver is ready, the webhook makes five checks of each delivery, the cheapest check first: the size of the
body, the signature, the content, whether the delivery is a replay, and the free capacity. A delivery that is refused,
or that is a replay, causes no call to AWS or Kubernetes.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keyturn_contract.message import (
    CONTRACT_VERSION,
    MAX_BODY,
    RECEIVER_HEADER,
    MalformedMessage,
    Notification,
    Result,
    UnsupportedMediaType,
    decode,
)
from keyturn_contract.signature import Ed25519, NotVerified, content, verify
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span, no_traces
from keyturn_receiver.web import reply_status
from keyturn_receiver.web.delivery_limiter import DeliveryLimiter
from keyturn_receiver.web.replay_cache import ReplayCache

BODY_TIMEOUT = 10.0  # seconds in which a body of at most MAX_BODY bytes (16 KiB) has to arrive
_MARK = (RECEIVER_HEADER.lower().encode(), CONTRACT_VERSION.encode())

_log = logging.getLogger(__name__)


class Handler(Protocol):
    """A handler of notifications (``notification_handler.py``)."""

    async def handle(
        self, notification: Notification, deadline: Callable[[], float], keeps_running: Callable[[], bool] = ...
    ) -> Result: ...


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """The settings of the webhook.

    ``deadline`` is the number of seconds in which a delivery has to be answered. ``max_deliveries`` is the number of
    deliveries that are handled at once. Signatures by one of ``public_keys`` are always accepted, in addition to
    signatures by the signing keys.
    """

    public_keys: Sequence[Ed25519]
    deadline: float
    max_deliveries: int


class WebhookEndpoint:
    """Webhook endpoint. It checks each delivery, passes its notifications to the handler, and replies with their
    results.

    ``keys`` returns the signing keys that are valid now. ``now`` returns seconds since 1970.
    """

    def __init__(
        self,
        handler: Handler,
        keys: Callable[[], Sequence[bytes]],
        ready: Callable[[], bool],
        now: Callable[[], float],
        config: WebhookConfig,
        metrics: Metrics,
        span: Span = no_traces,
    ) -> None:
        self._handler = handler
        self._keys = keys
        self._ready = ready
        self._now = now
        self._config = config
        self._metrics = metrics
        self._span = span
        self._replays = ReplayCache()
        self._limiter = DeliveryLimiter(config.max_deliveries)
        self._shutdown_deadline = math.inf
        self._draining = False
        self._rejection_logged_at = 0.0

    def app(self) -> ASGIApp:
        """Build the ASGI application. Each of its replies has RECEIVER_HEADER."""
        app = Starlette(routes=[Route("/v1/notifications", self._post, methods=["POST"])])
        app.router.redirect_slashes = False  # a redirect would go to any host in the Host header
        return _mark_replies(app)

    def start_draining(self) -> None:
        """Close each connection after its next response. Clients then open new connections, and the new connections
        reach other replicas."""
        self._draining = True

    def set_deadline(self, seconds: float) -> None:
        """Answer all deliveries within ``seconds`` from now. This includes deliveries that arrive later."""
        self._shutdown_deadline = time.monotonic() + seconds

    async def _post(self, request: Request) -> Response:
        try:
            response = await self._deliver(request)
        except HTTPException as error:
            response = JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
        if self._draining:
            response.headers["Connection"] = "close"
        self._metrics.deliveries.labels(str(response.status_code)).inc()
        return response

    async def _deliver(self, request: Request) -> Response:
        deadline = time.monotonic() + self._config.deadline
        if not self._ready():
            raise reply_status.not_ready()
        body = await _read(request)
        delivery, notifications = self._verify_and_decode(request.headers, body)
        digest = hashlib.sha256(content(delivery, request.headers["webhook-timestamp"], body)).digest()
        if digest in self._replays:
            self._metrics.replays.inc()
        return reply_status.results_reply(
            await self._replays.get(digest, lambda: self._handle(delivery, notifications, deadline))
        )

    async def _handle(self, delivery: str, notifications: Sequence[Notification], deadline: float) -> Sequence[Result]:
        # Only verified deliveries use capacity. So a client without a key cannot use up the capacity.
        with (
            self._limiter.slot(),
            self._span("delivery", [notification.id for notification in notifications], delivery=delivery),
        ):
            results = await asyncio.gather(
                *(
                    self._handler.handle(
                        notification, lambda: min(deadline, self._shutdown_deadline), lambda: not self._draining
                    )
                    for notification in notifications
                )
            )
        self._record(delivery, results)
        return results

    def _verify_and_decode(self, headers: Mapping[str, str], body: bytes) -> tuple[str, Sequence[Notification]]:
        """Verify the signature, then decode the body. Return the delivery's id and its notifications."""
        try:
            delivery = verify(self._keys(), headers, body, self._now(), public_keys=self._config.public_keys)
            return delivery, decode(headers.get("content-type", ""), body)
        except NotVerified as error:
            self._log_rejection(error.reason)
            raise reply_status.not_verified() from None
        except UnsupportedMediaType as error:
            raise reply_status.unsupported_media_type(str(error)) from None
        except MalformedMessage as error:
            raise reply_status.malformed(str(error)) from None

    def _log_rejection(self, reason: str) -> None:
        # At most one line per second is logged, so that forged deliveries cannot flood the log. The metric counts every
        # forged delivery.
        if time.monotonic() - self._rejection_logged_at >= 1:
            self._rejection_logged_at = time.monotonic()
            _log.warning("delivery refused", extra={"fields": {"reason": reason}})

    def _record(self, delivery: str, results: Sequence[Result]) -> None:
        notifications = []
        for result in results:
            self._metrics.notifications.labels(result.outcome.value).inc()
            notifications.append(
                {
                    "id": result.id,
                    "outcome": result.outcome.value,
                    "secrets": result.secrets,
                    "consumers": result.consumers,
                    "retrying": result.retrying,
                    "reason": result.reason,
                }
            )
        _log.info("delivery", extra={"fields": {"delivery": delivery, "notifications": notifications}})


def _mark_replies(app: ASGIApp) -> ASGIApp:
    """Put RECEIVER_HEADER on every reply, including the replies 404, 405 and 500 that Starlette itself makes."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), _MARK]
            await send(message)

        await app(scope, receive, send_marked)

    return marked


async def _read(request: Request) -> bytes:
    """Read a body of at most MAX_BODY bytes. A longer body is rejected as soon as its length is known."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY:
        raise reply_status.body_too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise reply_status.body_too_large()
    except TimeoutError:
        raise reply_status.body_too_slow(BODY_TIMEOUT) from None
    except ClientDisconnect:
        raise reply_status.body_cut_off() from None
    return bytes(body)
