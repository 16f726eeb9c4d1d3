"""Disposition of messages. From a receiver's reply, this module decides what to do with the SQS message of each
notification. It is pure."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import IntEnum

from keyturn_contract.message import MalformedMessage, Notification, Outcome, Result, decode_reply

MAX_RETRY_AFTER = 900.0  # seconds


class Disposition(IntEnum):
    """What is to be done with the message of a notification. If several receivers give different results, the highest
    value applies."""

    DONE = 0  # delete it from the queue
    POISON = 1  # move it to the dead-letter queue, because every further attempt would be refused, too
    RETRY = 2  # leave it in the queue


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of one notification at one receiver.

    ``status`` is the HTTP status. It is 0 if there was no answer, or if nothing was sent. ``retry_after`` is in
    seconds. It is the Retry-After of the receiver, or the rest of a cooldown, or 0 if there is neither. ``result`` is
    the receiver's own result, if the reply lists the notification.
    """

    disposition: Disposition
    reason: str
    status: int = 0
    retry_after: float = 0.0
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one POST. If there was no answer, ``status`` is 0, and ``failure`` is the reason. ``seconds`` is the
    duration of the POST.

    ``retry_after`` and ``content_type`` are the unparsed headers. ``from_receiver`` is true if the reply has
    RECEIVER_HEADER. ``tls_failed`` is true if there was no answer because the TLS handshake failed, for example because
    the receiver's certificate is not trusted.
    """

    status: int
    seconds: float
    body: bytes = b""
    retry_after: str | None = None
    content_type: str = ""
    failure: str = ""
    from_receiver: bool = False
    tls_failed: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """The report of one delivery to one receiver: the result of each notification by its id, and the replies to all
    POSTs."""

    results: Mapping[str, DeliveryResult]
    replies: Sequence[Reply]


def classify(batch: Sequence[Notification], reply: Reply, now: float) -> dict[str, DeliveryResult]:
    """Return the result of each notification in ``batch``, by its id. ``now`` is in seconds since the epoch.

    A notification is done if a reply 200 or 503 lists it with an outcome other than FAILED. Otherwise it is poison if
    the receiver itself refuses it. In all other cases it has to be retried. This includes a refusal by another server
    in front of the receiver, such as a load balancer, a firewall or an ingress. Such a refusal can end although the
    notification stays the same.
    """
    if refuses(reply) and reply.from_receiver:
        refused = DeliveryResult(Disposition.POISON, f"the receiver refuses it: {describe_reply(reply)}", reply.status)
        return same_for_all(batch, refused)
    by_id = {result.id: result for result in _results(reply)}
    reason, retry_after = describe_reply(reply), parse_retry_after(reply, now)

    def classify_one(result: Result | None) -> DeliveryResult:
        if result is not None and result.outcome is not Outcome.FAILED:
            return DeliveryResult(Disposition.DONE, reason, reply.status, result=result)
        return DeliveryResult(Disposition.RETRY, reason, reply.status, retry_after, result)

    return {notification.id: classify_one(by_id.get(notification.id)) for notification in batch}


def describe_reply(reply: Reply) -> str:
    """Describe a reply in words, for logs and dead letters."""
    if not reply.status:
        return reply.failure or "no answer"
    if reply.from_receiver or _results(reply):
        return f"status {reply.status}"
    is_page = reply.content_type.strip().lower().startswith("text/html")
    stranger = "a web page" if is_page else "a load balancer, proxy or firewall"
    return f"status {reply.status}: {stranger} answers in the receiver's place"


def refuses(reply: Reply) -> bool:
    """Return whether the reply refuses the whole batch. This is any 4xx except 401, 408 and 429, which ask for another
    attempt."""
    return 400 <= reply.status < 500 and reply.status not in (401, 408, 429)


def same_for_all(batch: Sequence[Notification], result: DeliveryResult) -> dict[str, DeliveryResult]:
    """Return a map from the id of each notification to ``result``."""
    return {notification.id: result for notification in batch}


def parse_retry_after(reply: Reply, now: float) -> float:
    """Return the seconds in Retry-After, from 0 to MAX_RETRY_AFTER. The header has either seconds or a date.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    text = (reply.retry_after or "").strip()
    seconds = 0.0
    if text.isascii() and text.isdecimal():
        seconds = float(text[:9])
    elif text:
        with suppress(ValueError):
            moment = parsedate_to_datetime(text)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def unavailable(reply: Reply) -> bool:
    """Return whether the receiver is down or refuses every request. A 503 with results does not count, because it comes
    from a receiver that works."""
    return reply.status in (0, 429) or (reply.status == 503 and not _results(reply))


def _results(reply: Reply) -> Sequence[Result]:
    if reply.status in (200, 503):
        with suppress(MalformedMessage):  # a malformed reply is not from a receiver, so it lists nothing as done
            return decode_reply(reply.body)
    return ()
