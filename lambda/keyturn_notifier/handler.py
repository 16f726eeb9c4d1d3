"""What Lambda calls: records from SQS in, those to come again out. The composition root of the notifier."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from keyturn_contract.message import EventType, Notification
from keyturn_notifier import aws
from keyturn_notifier.event import Ignored, Malformed, read
from keyturn_notifier.queue import Queue
from keyturn_notifier.settings import read_settings
from keyturn_notifier.signing import KeyRing, kms_signer
from keyturn_notifier.telemetry import Metric, logger, metrics, note
from keyturn_notifier.verdict import Answer, Fate, Verdict, everything

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from keyturn_notifier.delivery import Receiver

RESERVE_SECONDS = 4.0  # of an invocation, for what is said to SQS at its end

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sending:
    """One notification, and the messages that it came in: EventBridge may send an event twice."""

    notification: Notification
    records: Sequence[Record]


class Notifier:
    """Delivers what the records of one invocation say, to every receiver at once."""

    def __init__(
        self, receivers: Sequence["Receiver"], queue: Queue, signing_key_id: str, threads: ThreadPoolExecutor
    ) -> None:
        self._receivers = receivers
        self._queue = queue
        self._signing_key_id = signing_key_id
        self._threads = threads

    def handle(self, records: Sequence[Record], seconds: float) -> list[str]:
        """Deliver the events in ``records`` within ``seconds``; return the ids of the messages that stay queued."""
        note(Metric.EVENTS_RECEIVED, len(records))
        sendings, stay = self._understand(records)
        answers = self._deliver([each.notification for each in sendings], seconds - RESERVE_SECONDS)
        postponed: list[tuple[Record, float]] = []
        for sending in sendings:
            verdicts = {host: verdicts[sending.notification.id] for host, verdicts in answers.items()}
            fate = max(verdict.fate for verdict in verdicts.values())
            _tell(sending.notification, fate, verdicts)
            if sending.notification.type is EventType.HEARTBEAT:
                continue  # an old one says nothing: the next comes by itself
            if fate is Fate.AGAIN:
                wait_seconds = max(verdict.retry_after for verdict in verdicts.values())
                postponed += [(record, wait_seconds) for record in sending.records]
            elif fate is Fate.POISON:
                why = "; ".join(f"{host}: {each.why}" for host, each in verdicts.items() if each.fate is Fate.POISON)
                stay += [message for record in sending.records for message in self._bury(record, why)]
        self._queue.postpone(postponed)
        return stay + [record["messageId"] for record, _ in postponed]

    def _understand(self, records: Sequence[Record]) -> tuple[list[Sending], list[str]]:
        by_id: dict[str, tuple[Notification, list[Record]]] = {}
        stay: list[str] = []
        for record in records:
            try:
                outcome = read(json.loads(record["body"]), self._signing_key_id)
            except Malformed as error:
                stay += self._bury(record, str(error))
            except (ValueError, RecursionError):
                stay += self._bury(record, "the body is not JSON")
            else:
                if isinstance(outcome, Ignored):
                    note(Metric.EVENTS_IGNORED)
                    logger.info("ignored", extra={"message_id": record["messageId"], "reason": outcome.reason})
                else:
                    by_id.setdefault(outcome.id, (outcome, []))[1].append(record)
        return [Sending(notification, records) for notification, records in by_id.values()], stay

    def _deliver(self, notifications: Sequence[Notification], seconds: float) -> Mapping[str, Mapping[str, Verdict]]:
        """Give each receiver all notifications, all receivers at once; returns their verdicts by host and id."""
        if not notifications:
            return {}
        deadline = time.monotonic() + seconds
        under_way = {
            receiver: self._threads.submit(receiver.deliver, notifications, deadline) for receiver in self._receivers
        }
        wait(under_way.values(), timeout=seconds)
        answers: dict[str, Mapping[str, Verdict]] = {}
        for receiver, delivering in under_way.items():
            late = Verdict(Fate.AGAIN, "no answer in this invocation")
            answer = delivering.result() if delivering.done() else Answer(everything(notifications, late), ())
            answers[receiver.host] = answer.verdicts
            for reply in answer.replies:
                note(Metric.DELIVERY_LATENCY, round(reply.seconds * 1000, 1))
        return answers

    def _bury(self, record: Record, reason: str) -> list[str]:
        note(Metric.DELIVERIES_POISON)
        logger.error("poison", extra={"message_id": record["messageId"], "reason": reason})
        return [] if self._queue.bury(record, reason) else [record["messageId"]]


def _tell(notification: Notification, fate: Fate, verdicts: Mapping[str, Verdict]) -> None:
    heartbeat = notification.type is EventType.HEARTBEAT
    if heartbeat:
        note(Metric.HEARTBEATS_ACCEPTED if fate is Fate.DONE else Metric.HEARTBEATS_REFUSED)
    elif fate is not Fate.POISON:  # which is counted where it is buried
        note(Metric.DELIVERIES_DONE if fate is Fate.DONE else Metric.DELIVERIES_AGAIN)
    if any(verdict.status == 401 for verdict in verdicts.values()):
        note(Metric.DELIVERIES_REFUSED)
    age = time.time() - datetime.fromisoformat(notification.time).timestamp()
    if fate is Fate.DONE and not heartbeat:
        note(Metric.EVENT_AGE, round(age * 1000))
    logger.info(
        "delivered" if fate is Fate.DONE else "not delivered",
        extra={
            "correlation_id": notification.id,
            "event_name": notification.data.event_name,
            "secret_arn": None if heartbeat else notification.subject,
            "version_id": notification.data.version_id,
            "fate": fate.name.lower(),
            "answers": {host: verdict.why for host, verdict in verdicts.items()},
            "age_seconds": round(age, 3),
        },
    )


@cache
def _notifier() -> Notifier:
    """Put the parts together, once for all invocations of one sandbox."""
    # Here and not at the top: the HTTP client, too, takes long to import.
    import urllib3

    from keyturn_notifier.delivery import Receiver, tls

    settings = read_settings()
    ed25519 = kms_signer(aws.client("kms"), settings.kms_key_id) if settings.kms_key_id else None
    key_ring = KeyRing(aws.client("secretsmanager"), settings.signing_key_secret_id, ed25519)
    queue = Queue(
        aws.client("sqs"),
        settings.queue_url,
        settings.dlq_url,
        lambda text, about: logger.warning(text, extra=dict(about)),
    )
    context = tls(settings.ca_bundle)
    receivers = [Receiver(url, key_ring, urllib3.PoolManager(ssl_context=context)) for url in settings.receiver_urls]
    return Notifier(receivers, queue, settings.signing_key_secret_id, ThreadPoolExecutor(2 * len(receivers)))


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, list[dict[str, str]]]:
    """Handle one batch of SQS records, with partial failures.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    stay = _notifier().handle(event["Records"], context.get_remaining_time_in_millis() / 1000)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in stay]}
