"""What a receiver's reply means for each notification. Pure."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import IntEnum

from keyturn_contract.message import MalformedMessage, Notification, Outcome, Result, decode_reply

MAX_RETRY_AFTER = 900.0  # seconds


class Fate(IntEnum):
    """What to do with the message that a notification came in. Of several receivers' the highest counts."""

    DONE = 0
    POISON = 1  # it would be refused for ever
    AGAIN = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one notification at one receiver: ``status`` of the reply (0: none, or not asked), ``retry_after``
    in seconds, where it told one."""

    fate: Fate
    why: str
    status: int = 0
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one POST gave: status 0 means no answer; ``seconds`` it took."""

    status: int
    seconds: float
    body: bytes = b""
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one delivery: a verdict for each notification, by id, and the replies that they are from."""

    verdicts: Mapping[str, Verdict]
    replies: Sequence[Reply]


def judge(batch: Sequence[Notification], reply: Reply, now: float) -> dict[str, Verdict]:
    """Tell what came of each of ``batch``, by id; ``now`` in seconds since the epoch.

    Done is what the reply says is done. No answer, 401, 408, 429 and 5xx: again. Another 4xx: poison.
    """
    if 400 <= reply.status < 500 and reply.status not in (401, 408, 429):
        return everything(batch, Verdict(Fate.POISON, f"it refuses: status {reply.status}", reply.status))
    done = _done(reply)
    why = f"status {reply.status}" if reply.status else "no answer"
    taken = Verdict(Fate.DONE, why, reply.status)
    again = Verdict(Fate.AGAIN, why, reply.status, retry_after(reply, now))
    return {each.id: taken if each.id in done else again for each in batch}


def everything(batch: Sequence[Notification], verdict: Verdict) -> dict[str, Verdict]:
    """One verdict for all."""
    return {each.id: verdict for each in batch}


def retry_after(reply: Reply, now: float) -> float:
    """Read Retry-After, in seconds or as a date: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after"""
    text = (reply.retry_after or "").strip()
    seconds = 0.0
    if text.isascii() and text.isdecimal():
        seconds = float(text[:9])
    elif text:
        with suppress(ValueError):
            moment = parsedate_to_datetime(text)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def looked_at_nothing(reply: Reply) -> bool:
    """Whether the receiver is gone, or turns everybody away: who has failed at one event says so in its results."""
    return reply.status in (0, 429) or (reply.status == 503 and not _results(reply))


def _done(reply: Reply) -> frozenset[str]:
    return frozenset(each.id for each in _results(reply) if each.outcome is not Outcome.FAILED)


def _results(reply: Reply) -> Sequence[Result]:
    if reply.status in (200, 503):
        with suppress(MalformedMessage):  # not our receiver's answer: nothing counts as done
            return decode_reply(reply.body)
    return ()
