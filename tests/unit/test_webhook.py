"""The mark on every reply of the webhook. It lets the notifier tell a receiver from a proxy in front of it."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    CONTRACT_VERSION,
    MAX_BODY,
    RECEIVER_HEADER,
    Outcome,
    Result,
    encode,
)
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.webhook import WebhookConfig, WebhookEndpoint
from support.deliveries import notification, signed

KEY = b"k" * 32
BODY = encode([notification("prod/db")])


class Handler:
    """A handler that gives every notification the same outcome, or raises an error if ``outcome`` is None."""

    def __init__(self, outcome: Outcome | None) -> None:
        self._outcome = outcome

    async def handle(self, notification: Any, deadline: object, keeps_running: object) -> Result:
        if self._outcome is None:
            raise RuntimeError
        return Result(notification.id, self._outcome)


def send(
    method: str = "POST",
    path: str = "/v1/notifications",
    body: bytes = BODY,
    content_type: str = CONTENT_TYPE_BATCH,
    is_signed: bool = True,
    outcome: Outcome | None = Outcome.APPLIED,
    ready: bool = True,
) -> httpx.Response:
    """Send a request. It is signed when it is sent, because a signature is valid for five minutes."""
    headers = {**signed(KEY, body), "content-type": content_type} if is_signed else {}
    config = WebhookConfig(public_keys=[], deadline=8.0, max_deliveries=1)
    handler: Any = Handler(outcome)
    endpoint = WebhookEndpoint(handler, lambda: [KEY], lambda: ready, time.time, config, Metrics())

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(endpoint.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(request())


@pytest.mark.parametrize(
    ("status", "request_of"),
    {
        "200": (200, {}),
        "503, failed": (503, {"outcome": Outcome.FAILED}),
        "503, not ready": (503, {"ready": False}),
        "500, an error in the code": (500, {"outcome": None}),
        "400": (400, {"body": b"[]"}),
        "401": (401, {"is_signed": False}),
        "404, another path": (404, {"path": "/elsewhere"}),
        "405, another method": (405, {"method": "GET"}),
        "413": (413, {"body": b"x" * (MAX_BODY + 1)}),
        "415": (415, {"content_type": "text/plain"}),
    }.values(),
)
def test_every_reply_has_the_mark_of_a_receiver(status: int, request_of: dict[str, Any]) -> None:
    reply = send(**request_of)
    assert reply.status_code == status
    assert reply.headers.get_list(RECEIVER_HEADER) == [CONTRACT_VERSION]


def test_reply_has_the_results() -> None:
    assert [each["outcome"] for each in json.loads(send().content)["results"]] == ["applied"]


@pytest.mark.parametrize("outcome", Outcome)
def test_status_asks_for_a_resend_exactly_if_the_outcome_is_failed(outcome: Outcome) -> None:
    reply = send(outcome=outcome)
    asks = {"status": reply.status_code, "retry_after": reply.headers.get("Retry-After")}
    failed = {"status": 503, "retry_after": "2"}
    assert asks == (failed if outcome is Outcome.FAILED else {"status": 200, "retry_after": None})
