"""Receipts. A receipt is an event on an event bus that reports what a change of a secret has led to. Pure.

docs/receipts.md describes each kind. A receipt contains names, but never a value.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keyturn_contract.message import EventType, Notification, Result, State, VersionState
from keyturn_notifier.disposition import DeliveryResult, Disposition
from keyturn_notifier.queue import receive_count

SOURCE = "dev.keyturn"
APPLIED = "Keyturn Secret Applied"
WAITING = "Keyturn Secret Waiting"
LIVE = "Keyturn Secret Live"
STUCK = "Keyturn Rollout Stuck"
WAITING_SECONDS = 300.0
# The number of receives of a message after which a waiting event is reported. With the back-off, this is 3.5 to 7.5
# minutes after the first receive.
WAITING_RECEIVE = 9
# The limit for all names and reasons in one receipt, in bytes. One call accepts ten receipts with a total of 256 KB.
MAX_NAMES_BYTES = 12 * 1024
MAX_REASON = 500  # bytes
_ARN_SUFFIX = len("-a1b2c3")  # AWS appends such a suffix to the name


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event for the receipts' bus. ``detail`` is the event's content. ``resources`` has the ARN of the secret. It
    is empty if the ARN is not known."""

    detail_type: str
    resources: Sequence[str]
    detail: Mapping[str, Any]

    def entry(self, bus: str) -> dict[str, Any]:
        """Return the receipt as an entry of PutEvents for the bus ``bus``.

        https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsRequestEntry.html
        """
        return {
            "EventBusName": bus,
            "Source": SOURCE,
            "DetailType": self.detail_type,
            "Resources": list(self.resources),
            "Detail": json.dumps(self.detail, ensure_ascii=False, separators=(",", ":")),
        }


def applied(
    notification: Notification, results: Mapping[str, DeliveryResult], age: float, with_details: bool
) -> Receipt | None:
    """Return the receipt for a change that every receiver has taken. Return None if the event changes no value.

    ``results`` has the result of each host. ``age`` is in seconds. ``with_details`` tells whether the receipt contains
    the names of Kubernetes objects.
    """
    if notification.type is not EventType.CHANGED:
        return None
    taken = [each.result for each in results.values()]
    complete = all(result is not None and not result.retrying for result in taken)
    healthy = complete and not any(result and result.is_refused_by_binding for result in taken)
    verdict = {"complete": complete, "healthy": healthy}
    return _receipt(APPLIED, "applied", notification, age, verdict, results, with_details)


def waiting(
    notification: Notification,
    records: Sequence[Mapping[str, Any]],
    results: Mapping[str, DeliveryResult],
    age: float,
    dead_lettered: bool,
    with_details: bool,
) -> Receipt | None:
    """Return the receipt for a change that some receiver has not taken yet. Return None if no such receipt has to be
    written now.

    For an event that was moved to the dead-letter queue, the receipt is written at once. Otherwise it is written once
    per message: at the first receive if the event is then at least five minutes old, or else at receive number
    WAITING_RECEIVE. The function keeps no state. So only SQS's receive count can show whether the change was reported
    before.
    """
    if notification.type is not EventType.CHANGED:
        return None
    if not dead_lettered and not any(_is_due(record, age) for record in records):
        return None
    verdict = {"complete": False, "healthy": False, "deadLettered": dead_lettered}
    prefix = "dead" if dead_lettered else "waiting"
    return _receipt(WAITING, prefix, notification, age, verdict, results, with_details)


def of_version(host: str, state: VersionState, with_details: bool) -> Receipt:
    """Return the receipt for the state of a version in a receiver's cluster.

    ``host`` is the host of the receiver's URL and does not come from the reply. So a receiver cannot report on another
    cluster.
    """
    is_live = state.state is State.LIVE
    _, separator, resource = state.arn.partition(":secret:")
    detail = {
        "receiptId": f"{state.state.value}/{host}/{state.arn}/{state.version_id}/{state.changed}",
        "secretArn": state.arn,
        "name": resource[:-_ARN_SUFFIX] if separator else None,
        "versionId": state.version_id,
        "host": host,
        "since": datetime.fromtimestamp(state.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": state.seconds,
        "consumers": list(state.consumers) if with_details and not is_live else None,
    }
    resources = [state.arn] if state.arn.startswith("arn:") else []
    kept = {name: value for name, value in detail.items() if value is not None}
    return Receipt(LIVE if is_live else STUCK, resources, kept)


def _is_due(record: Mapping[str, Any], age: float) -> bool:
    receives = receive_count(record)
    if receives == 1:
        return age >= WAITING_SECONDS
    attributes = record.get("attributes", {})
    # SQS gives these times in milliseconds. If a message does not have these attributes, it does not come from SQS.
    sent, first = (str(attributes.get(name, "")) for name in ("SentTimestamp", "ApproximateFirstReceiveTimestamp"))
    was_old = sent.isdecimal() and first.isdecimal() and int(first) - int(sent) >= WAITING_SECONDS * 1000
    return receives == WAITING_RECEIVE and not was_old


def _receipt(
    detail_type: str,
    prefix: str,
    notification: Notification,
    age: float,
    verdict: Mapping[str, bool],
    results: Mapping[str, DeliveryResult],
    with_details: bool,
) -> Receipt:
    data, is_arn = notification.data, notification.subject.startswith("arn:")
    room = MAX_NAMES_BYTES // max(1, len(results))
    detail = {
        "receiptId": f"{prefix}/{notification.id}",
        "secretArn": notification.subject if is_arn else None,
        "name": data.name or (None if is_arn else notification.subject),
        "versionId": data.version_id,
        "label": data.label,
        "eventId": notification.id,
        "eventName": data.event_name,
        "account": data.account,
        "region": data.region,
        "ageMs": round(age * 1000),
        **verdict,
        "receivers": [_receiver(host, each, room if with_details else None) for host, each in results.items()],
    }
    resources = [notification.subject] if is_arn else []
    return Receipt(detail_type, resources, {name: value for name, value in detail.items() if value is not None})


def _receiver(host: str, result: DeliveryResult, room: int | None) -> dict[str, Any]:
    """Return the part of a receipt that describes one receiver's answer. ``room`` is the number of bytes for names. If
    it is None, the part contains no names and no reason."""
    answer: dict[str, Any] = {"host": host, "outcome": _outcome(result)}
    if room is None:
        return answer
    taken = result.result
    reason = taken.reason if taken else None
    if result.disposition is not Disposition.DONE:
        reason = reason or result.reason
    if reason:
        answer["reason"] = reason.encode(errors="replace")[: min(MAX_REASON, room // 4)].decode(errors="ignore")
    return answer | (_names(taken, room // 4) if taken else {})


def _outcome(result: DeliveryResult) -> str:
    if result.disposition is Disposition.POISON:
        return "refused"
    if result.result:
        return result.result.outcome.value
    return "taken" if result.disposition is Disposition.DONE else "not taken"


def _names(result: Result, room: int) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for field, values in (("secrets", result.secrets), ("consumers", result.consumers), ("retrying", result.retrying)):
        kept, left = [], room
        for value in values:
            left -= len(value.encode(errors="replace")) + len('"",')
            if left < 0:
                names["cut"] = True
                break
            kept.append(value)
        if kept or field != "retrying":
            names[field] = kept
    return names
