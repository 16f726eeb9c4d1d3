"""The heartbeat of ``helm test``: what is sent, and what an answer means."""

from datetime import UTC, datetime, timedelta

import pytest

from keyturn_contract.message import CONTENT_TYPE_BATCH, Notification, Outcome, Result, decode, encode, encode_reply
from keyturn_contract.signature import TOLERANCE
from keyturn_receiver.self_test import heartbeat, judge
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.notification_handler import FRESH_SECONDS, NotificationHandler

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SENT = heartbeat(NOW)


async def answered(notification: Notification, now: datetime) -> tuple[Result, int]:
    """What the receiver answers at ``now``, and how many signs of life it has counted."""
    heard: list[None] = []
    answer = NotificationHandler(None, None, None, lambda: heard.append(None), Metrics(), lambda: now)
    return await answer(notification, lambda: 0.0), len(heard)


@pytest.mark.anyio
@pytest.mark.parametrize("skew", [-TOLERANCE, 0, TOLERANCE])
async def test_it_is_no_sign_of_life_by_any_clock_that_a_signature_passes(skew: float) -> None:
    (received,) = decode(CONTENT_TYPE_BATCH, encode([SENT]))
    result, heard = await answered(received, NOW + timedelta(seconds=skew))
    assert (result.outcome, heard) == (Outcome.IGNORED, 0)


@pytest.mark.anyio
async def test_a_heartbeat_of_the_event_path_is() -> None:
    fresh = heartbeat(NOW + timedelta(seconds=FRESH_SECONDS + 2 * TOLERANCE))
    assert (await answered(fresh, NOW))[1] == 1


GOOD = encode_reply([Result(SENT.id, Outcome.IGNORED, reason="heartbeat")])
OTHER = encode_reply([Result("another", Outcome.IGNORED)])
FAILED = encode_reply([Result(SENT.id, Outcome.APPLIED)])
REFUSED = b'{"error": "not verified"}'
ANSWERS = {
    "taken": (200, GOOD, True, True, "takes what this key signs"),
    "another's result": (200, OTHER, True, False, "something else"),
    "another outcome": (200, FAILED, True, False, "something else"),
    "a page": (200, b"<html>", True, False, "something else"),
    "refused": (401, REFUSED, True, False, "another key"),
    "not ready": (503, b"", True, False, "not ready"),
    "no such path": (404, b"", True, False, "/v1/notifications"),
    "elsewhere": (302, b"", True, False, "name that URL itself"),
    "broken": (500, b"", True, False, "log"),
    "unsigned and refused": (401, REFUSED, False, True, "nothing unsigned"),
    "unsigned and taken": (200, GOOD, False, False, "nobody had signed it"),
    "unsigned and not ready": (503, b"", False, False, "not ready"),
}


@pytest.mark.parametrize(("status", "reply", "signed", "fine", "words"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_judged(status: int, reply: bytes, signed: bool, fine: bool, words: str) -> None:
    verdict = judge(status, reply, SENT, signed)
    assert verdict.fine is fine
    assert words in verdict.text
