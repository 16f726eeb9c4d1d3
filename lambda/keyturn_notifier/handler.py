"""The Lambda entry point of the notifier. It takes SQS records, and returns the ids of the messages that failed.
Composition root."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from keyturn_contract.message import EventType, Notification, Result
from keyturn_notifier import aws
from keyturn_notifier.authorities import CA_FAULT, Authorities, read_from_secret
from keyturn_notifier.disposition import DeliveryReport, DeliveryResult, Disposition, same_for_all
from keyturn_notifier.event_parser import Ignored, MalformedEvent, MemberHeartbeat, parse_event
from keyturn_notifier.queue import SqsQueue, seconds_in_queue
from keyturn_notifier.receipt_bus import ReceiptBus
from keyturn_notifier.receipt_writer import ReceiptWriter
from keyturn_notifier.settings import read_settings
from keyturn_notifier.signing import KeyRing, kms_signer
from keyturn_notifier.telemetry import Metric, add_metric, count_member_heartbeat, logger, metrics

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from keyturn_notifier.delivery import ReceiverClient

MAX_NAMES = 100  # at most this many names in each list of Secrets or consumers in a log line
RESERVE_SECONDS = 4.0  # seconds at the end of an invocation that are kept free for the calls to SQS

# At most this many deliveries to one receiver run at a time, each in a thread. If a delivery outlives its invocation,
# another thread makes the next delivery. No receiver takes the threads of another one.
MAX_DELIVERIES = 2
MARGIN_SECONDS = 0.5  # the wait for receipts ends at least this number of seconds before the end of an invocation

NO_ANSWER = "no answer in this invocation"
STILL_BUSY = "not sent: two earlier deliveries have not ended"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A notification, and the SQS records that contain it. There may be several records, because EventBridge may send
    an event twice."""

    notification: Notification
    records: Sequence[Record]


class Notifier:
    """Notifier. It delivers the events of one invocation to all receivers in parallel."""

    def __init__(
        self,
        receivers: Sequence["ReceiverClient"],
        queue: SqsQueue,
        signing_key_id: str,
        name_prefixes: Sequence[str],
        threads: ThreadPoolExecutor,
        receipts: ReceiptWriter | None = None,
    ) -> None:
        self._receivers = receivers
        self._queue = queue
        self._signing_key_id = signing_key_id
        self._name_prefixes = name_prefixes
        self._threads = threads
        self._receipts = receipts
        self._unfinished: dict[ReceiverClient, list[Future[DeliveryReport]]] = {each: [] for each in receivers}

    def handle(self, records: Sequence[Record], seconds: float) -> list[str]:
        """Deliver the events in ``records`` within ``seconds``. Return the ids of the messages that have to stay in the
        queue."""
        deadline = time.monotonic() + seconds - MARGIN_SECONDS
        add_metric(Metric.EVENTS_RECEIVED, len(records))
        envelopes, failed_ids = self._parse(records)
        results_by_host = self._deliver([each.notification for each in envelopes], seconds - RESERVE_SECONDS)
        postponed: list[tuple[Record, float]] = []
        for envelope in envelopes:
            results = {host: by_id[envelope.notification.id] for host, by_id in results_by_host.items()}
            disposition = max(result.disposition for result in results.values())
            age = time.time() - datetime.fromisoformat(envelope.notification.time).timestamp()
            is_heartbeat = envelope.notification.type is EventType.HEARTBEAT
            staying = [] if is_heartbeat else self._staying(envelope.records, disposition, results)
            if staying:
                disposition = Disposition.RETRY  # also for a poison message that could not be moved
            _report(envelope.notification, disposition, results, age)
            # The receipt comes after the move to the dead-letter queue, so that it never tells of a move that failed.
            self._collect_receipts(envelope, results, age, disposition is Disposition.POISON)
            # No heartbeat is retried, because a late heartbeat proves nothing, and the next one follows.
            retry_after = max(result.retry_after for result in results.values())
            postponed += [(record, retry_after) for record in staying]
        self._queue.postpone(postponed)
        self._flush_receipts(deadline)  # receipts come last, because no message may wait for a receipt
        return failed_ids + [record["messageId"] for record, _ in postponed]

    def _parse(self, records: Sequence[Record]) -> tuple[list[Envelope], list[str]]:
        """Parse the records. Return envelopes, and the ids of those malformed messages that could not be moved to the
        dead-letter queue."""
        by_id: dict[str, tuple[Notification, list[Record]]] = {}
        failed_ids: list[str] = []
        for record in records:
            try:
                parsed = parse_event(json.loads(record["body"]), self._signing_key_id, self._name_prefixes)
            except MalformedEvent as error:
                failed_ids += self._dead_letter_malformed(record, str(error))
            except (ValueError, RecursionError):
                failed_ids += self._dead_letter_malformed(record, "the body is not JSON")
            else:
                if isinstance(parsed, Ignored):
                    add_metric(Metric.EVENTS_IGNORED)
                    logger.info("event ignored", extra={"message_id": record["messageId"], "reason": parsed.reason})
                elif isinstance(parsed, MemberHeartbeat):
                    count_member_heartbeat(parsed.account, parsed.region)
                else:
                    by_id.setdefault(parsed.id, (parsed, []))[1].append(record)
        return [Envelope(notification, records) for notification, records in by_id.values()], failed_ids

    def _deliver(
        self, notifications: Sequence[Notification], seconds: float
    ) -> Mapping[str, Mapping[str, DeliveryResult]]:
        """Deliver all notifications to every receiver, in parallel. Return the results by host, and for each host by
        notification id."""
        if not notifications:
            return {}
        deadline = time.monotonic() + seconds
        deliveries = {receiver: self._start(receiver, notifications, deadline) for receiver in self._receivers}
        wait([delivery for delivery in deliveries.values() if delivery], timeout=seconds)
        results_by_host: dict[str, Mapping[str, DeliveryResult]] = {}
        for receiver, delivery in deliveries.items():
            if delivery and delivery.done():
                report = delivery.result()
            else:
                reason = NO_ANSWER if delivery else STILL_BUSY
                report = DeliveryReport(same_for_all(notifications, DeliveryResult(Disposition.RETRY, reason)), ())
            results_by_host[receiver.host] = report.results
            for reply in report.replies:
                add_metric(Metric.DELIVERY_LATENCY, round(reply.seconds * 1000, 1))
                if reply.tls_failed:
                    add_metric(Metric.TLS_FAILURES)
        return results_by_host

    def _start(
        self, receiver: "ReceiverClient", notifications: Sequence[Notification], deadline: float
    ) -> Future[DeliveryReport] | None:
        """Start a delivery to one receiver. Return None if as many deliveries to it as it may have still run."""
        unfinished = [delivery for delivery in self._unfinished[receiver] if not delivery.done()]
        self._unfinished[receiver] = unfinished
        if len(unfinished) >= MAX_DELIVERIES:
            return None
        unfinished.append(delivery := self._threads.submit(receiver.deliver, notifications, deadline))
        return delivery

    def _staying(
        self, records: Sequence[Record], disposition: Disposition, results: Mapping[str, DeliveryResult]
    ) -> Sequence[Record]:
        """Move the records to the dead-letter queue if they are poison. Return the records that have to stay in the
        queue: those of a retry, and those that could not be moved."""
        if disposition is not Disposition.POISON:
            return records if disposition is Disposition.RETRY else ()
        refusals = {host: each.reason for host, each in results.items() if each.disposition is Disposition.POISON}
        reason = "; ".join(f"{host}: {why}" for host, why in refusals.items())
        return [record for record in records if not self._dead_letter(record, reason)]

    # If receipts fail, the batch must not fail. Otherwise SQS would deliver all messages of the batch again.
    def _collect_receipts(
        self, envelope: Envelope, results: Mapping[str, DeliveryResult], age: float, dead_lettered: bool
    ) -> None:
        try:
            if self._receipts:
                self._receipts.collect(envelope.notification, envelope.records, results, age, dead_lettered)
        except Exception as error:
            _report_receipts(0, 1, type(error).__name__)

    def _flush_receipts(self, deadline: float) -> None:
        try:
            if self._receipts:
                self._receipts.flush(deadline)
        except Exception as error:
            _report_receipts(0, 1, type(error).__name__)

    def _dead_letter(self, record: Record, reason: str) -> bool:
        """Move a message to the dead-letter queue. Return False if the move fails, so that the message has to stay in
        the queue."""
        logger.error("poison message", extra={"message_id": record["messageId"], "reason": reason})
        moved = self._queue.dead_letter(record, reason)
        if moved:
            add_metric(Metric.DELIVERIES_POISON)
        return moved

    def _dead_letter_malformed(self, record: Record, reason: str) -> list[str]:
        """Move a malformed message to the dead-letter queue. Return no ids, or the message's id if the move fails. Such
        a message waits like an event that is put back, so that the same alarm rings."""
        if self._dead_letter(record, reason):
            return []
        add_metric(Metric.DELIVERIES_AGAIN)
        add_metric(Metric.EVENT_WAITING, round(seconds_in_queue(record, time.time()) * 1000))
        return [record["messageId"]]


def _report(
    notification: Notification, disposition: Disposition, results: Mapping[str, DeliveryResult], age: float
) -> None:
    """Log and count one notification. ``results`` has the result of each host. ``age`` is in seconds."""
    is_heartbeat = notification.type is EventType.HEARTBEAT
    if is_heartbeat:
        accepted = disposition is Disposition.DONE
        add_metric(Metric.HEARTBEATS_ACCEPTED if accepted else Metric.HEARTBEATS_REFUSED)
    elif disposition is not Disposition.POISON:  # _dead_letter counts a poison message that was moved
        add_metric(Metric.DELIVERIES_DONE if disposition is Disposition.DONE else Metric.DELIVERIES_AGAIN)
    if any(result.status == 401 for result in results.values()):
        add_metric(Metric.DELIVERIES_REFUSED)
    if not is_heartbeat and disposition is not Disposition.POISON:
        add_metric(Metric.EVENT_AGE if disposition is Disposition.DONE else Metric.EVENT_WAITING, round(age * 1000))
    logger.info(
        "delivered" if disposition is Disposition.DONE else "not delivered",
        extra={
            "correlation_id": notification.id,
            "event_name": notification.data.event_name,
            "secret_arn": None if is_heartbeat else notification.subject,
            "version_id": notification.data.version_id,
            "disposition": disposition.name.lower(),
            "answers": {host: result.reason for host, result in results.items()},
            "results": [_fields(host, each.result) for host, each in results.items() if each.result],
            "age_seconds": round(age, 3),
        },
    )
    for host, each in results.items():
        if each.status and each.result and each.result.is_refused_by_binding:  # a result from memory has no status
            add_metric(Metric.NOTIFICATIONS_REFUSED_BY_BINDING)
            fields = {"secret_arn": notification.subject, **_fields(host, each.result)}
            logger.warning("refused by a binding", extra={"correlation_id": notification.id, **fields})


def _fields(host: str, result: Result) -> dict[str, Any]:
    """Return the fields that are logged for one receiver's result."""
    return {
        "receiver": host,
        "outcome": result.outcome.value,
        "secrets": result.secrets[:MAX_NAMES],
        "consumers": result.consumers[:MAX_NAMES],
        "retrying": result.retrying[:MAX_NAMES],
        "reason": result.reason,
    }


def _report_receipts(put: int, lost: int, reason: str) -> None:
    if put:
        add_metric(Metric.RECEIPTS_SENT, put)
    if lost:
        add_metric(Metric.RECEIPTS_FAILED, lost)
        logger.warning("receipts lost", extra={"count": lost, "reason": reason})


def _report_ca_fault(fault: str) -> None:
    add_metric(Metric.CA_FAULTS)
    logger.warning(CA_FAULT, extra={"reason": fault})


@cache
def _notifier() -> Notifier:
    """Build the notifier once, for all invocations of one execution environment."""
    # This import is not at the top of the module, because the HTTP client takes long to import.
    from keyturn_notifier.delivery import ReceiverClient, connection_pool

    settings = read_settings()
    proxy = settings.https_proxy
    secrets_manager = aws.client("secretsmanager", proxy)
    ed25519 = kms_signer(aws.client("kms", proxy), settings.kms_key_id) if settings.kms_key_id else None
    key_ring = KeyRing(secrets_manager, settings.signing_key_secret_id, ed25519)
    queue = SqsQueue(
        aws.client("sqs", proxy),
        settings.queue_url,
        settings.dlq_url,
        lambda text, fields: logger.warning(text, extra=dict(fields)),
    )
    secret_id = settings.ca_bundle_secret_id
    read = read_from_secret(secrets_manager, secret_id) if secret_id else None
    authorities = Authorities(settings.ca_bundle, read, _report_ca_fault)
    receivers = [
        ReceiverClient(url, key_ring, connection_pool(url, authorities.context, proxy), authorities.reload)
        for url in settings.receiver_urls
    ]
    bus = settings.receipts_bus and ReceiptBus(aws.client("events", proxy), settings.receipts_bus, _report_receipts)
    receipts = ReceiptWriter(bus, settings.receipt_details) if bus else None
    threads = ThreadPoolExecutor(MAX_DELIVERIES * len(receivers))
    return Notifier(receivers, queue, settings.signing_key_secret_id, settings.name_prefixes, threads, receipts)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, list[dict[str, str]]]:
    """Handle one batch of SQS records, and report the messages that failed.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    failed_ids = _notifier().handle(event["Records"], context.get_remaining_time_in_millis() / 1000)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed_ids]}
