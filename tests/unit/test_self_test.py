"""The heartbeat of ``helm test``: its content, and the conclusions from the answer."""

from datetime import UTC, datetime, timedelta

import pytest

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    MAX_HEARTBEAT_AGE,
    Notification,
    Outcome,
    Result,
    decode,
    encode,
    encode_reply,
)
from keyturn_contract.signature import TOLERANCE
from keyturn_receiver.self_test import evaluate, old_heartbeat
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.notification_handler import NotificationHandler

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SENT = old_heartbeat(NOW)


async def answered(notification: Notification, now: datetime) -> tuple[Result, int]:
    """Return what the receiver answers at ``now``, and how many heartbeats it has counted for the event path."""
    heard: list[datetime] = []
    handler = NotificationHandler(None, None, None, heard.append, Metrics(), lambda: now)
    return await handler.handle(notification, lambda: 0.0), len(heard)


@pytest.mark.anyio
@pytest.mark.parametrize("skew", [-TOLERANCE, 0, TOLERANCE])
async def test_self_test_heartbeat_is_not_recorded_within_the_tolerated_clock_skew(skew: float) -> None:
    (received,) = decode(CONTENT_TYPE_BATCH, encode([SENT]))
    result, heard = await answered(received, NOW + timedelta(seconds=skew))
    assert (result.outcome, heard) == (Outcome.IGNORED, 0)


@pytest.mark.anyio
async def test_event_path_heartbeat_is_recorded() -> None:
    fresh = old_heartbeat(NOW + timedelta(seconds=MAX_HEARTBEAT_AGE + 2 * TOLERANCE))
    assert (await answered(fresh, NOW))[1] == 1


GOOD = encode_reply([Result(SENT.id, Outcome.IGNORED, reason="heartbeat")])
OTHER = encode_reply([Result("another", Outcome.IGNORED)])
FAILED = encode_reply([Result(SENT.id, Outcome.APPLIED)])
REFUSED = b'{"error": "not verified"}'
ANSWERS = {
    "taken": (200, GOOD, True, True, "accepts signatures of this key"),
    "another's result": (200, OTHER, True, False, "Something else"),
    "another outcome": (200, FAILED, True, False, "Something else"),
    "a page": (200, b"<html>", True, False, "Something else"),
    "refused": (401, REFUSED, True, False, "another key"),
    "not ready": (503, b"", True, False, "not ready"),
    "no such path": (404, b"", True, False, "/v1/notifications"),
    "elsewhere": (302, b"", True, False, "Use its target as the URL"),
    "broken": (500, b"", True, False, "log"),
    "unsigned and refused": (401, REFUSED, False, True, "rejects what is unsigned"),
    "unsigned and taken": (200, GOOD, False, False, "accepts an unsigned delivery"),
    "unsigned and not ready": (503, b"", False, False, "not ready"),
}


@pytest.mark.parametrize(("status", "reply", "signed", "passed", "words"), ANSWERS.values(), ids=ANSWERS)
def test_answer_is_evaluated_with_its_reason(status: int, reply: bytes, signed: bool, passed: bool, words: str) -> None:
    conclusion = evaluate(status, reply, SENT, signed)
    assert conclusion.passed is passed
    assert words in conclusion.text
