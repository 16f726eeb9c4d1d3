"""What an event means: a notification, nothing, or a mistake. Pure.

What AWS sends is in ``catalogue``; where it puts the secret's identity, in ``_identity``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    EventType,
    MalformedMessage,
    Notification,
    NotificationData,
    decode,
    encode,
)
from keyturn_notifier.catalogue import API_CALL, HEARTBEAT, MEANINGS, NATIVE, SERVICE_EVENT, UNKNOWN

SOURCE = "aws.secretsmanager"
HEARTBEAT_SOURCE = "dev.keyturn"  # template.yaml: what the schedule puts on the event bus

# https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html#term_version
_SILENT_LABELS = frozenset({"AWSPENDING", "AWSPREVIOUS"})
_SUFFIX = len("-a1b2c3")  # what AWS puts behind the name, in a complete ARN


class Malformed(ValueError):
    """The event is none that is sent here; the text says what is missing, or what to correct."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that changes nothing, and why."""

    reason: str


def read(event: object, signing_key_id: str = "") -> Notification | Ignored:
    """Read an EventBridge event; those about ``signing_key_id`` (name or ARN) are our own noise. Raises Malformed."""
    if not isinstance(event, dict):
        raise Malformed("the event is not an object")
    source, kind, detail = event.get("source"), event.get("detail-type"), event.get("detail")
    if source not in (SOURCE, HEARTBEAT_SOURCE):
        raise Malformed(f"source must be {SOURCE}: correct the rule's event pattern")
    if not isinstance(detail, dict):
        raise Malformed("detail must be an object")
    if source == HEARTBEAT_SOURCE and kind == HEARTBEAT:
        return _notification(event, EventType.HEARTBEAT, "heartbeat", "Heartbeat")
    if source == SOURCE and kind == NATIVE:
        outcome = _native(event)
    elif source == SOURCE and kind in (API_CALL, SERVICE_EVENT):
        outcome = _cloudtrail(event, detail, kind)
    else:
        raise Malformed(f"detail-type must be one of: {NATIVE}; {API_CALL}; {SERVICE_EVENT}")
    if isinstance(outcome, Notification) and outcome.subject in _names(signing_key_id):
        return Ignored("it is about the signing key itself, which the receiver reads by itself")
    return outcome


def _native(event: Mapping[str, Any]) -> Notification | Ignored:
    label = _field(event, "detail", "labelUpdated")
    if label in _SILENT_LABELS:
        return Ignored(f"label {label} moves in the course of a rotation, and nobody reads by it")
    resources = event.get("resources")
    if not isinstance(resources, list) or not resources or not isinstance(resources[0], str) or not resources[0]:
        raise Malformed("resources must hold the secret's ARN")
    return _notification(
        event,
        EventType.CHANGED,
        resources[0],
        "SecretLabelUpdated",
        name=_field(event, "detail", "name"),
        version_id=_field(event, "detail", "versionId"),
        label=label,
    )


def _cloudtrail(event: Mapping[str, Any], detail: Mapping[str, Any], kind: str) -> Notification | Ignored:
    name = _text(detail, "eventName")
    if detail.get("readOnly") is True:
        return Ignored(f"{name}: it only reads")
    if detail.get("errorCode"):
        return Ignored(f"{name}: the call failed")
    meaning = MEANINGS.get((kind, name), UNKNOWN)
    if meaning.becomes is None:
        return Ignored(f"{name}: {meaning.why}")
    labels = _labels(detail)
    if labels and labels <= _SILENT_LABELS:
        return Ignored(f"{name}: of {', '.join(sorted(labels))} alone, and nobody reads by it")
    subject = _identity(detail)
    if subject is None:
        raise Malformed(f"{name} names no secret")
    return _notification(
        event,
        meaning.becomes,
        subject,
        name,
        name=_field(detail, "responseElements", "name") or _field(detail, "requestParameters", "name"),
        version_id=_field(detail, "requestParameters", "moveToVersionId"),
        label=_field(detail, "requestParameters", "versionStage"),
    )


def _labels(detail: Mapping[str, Any]) -> frozenset[str]:
    """The staging labels that a call named: none where it left them to AWS, which then takes AWSCURRENT."""
    request = detail.get("requestParameters")
    named = request.get("versionStages") if isinstance(request, dict) else None
    labels = [label for label in named if isinstance(label, str)] if isinstance(named, list) else []
    return frozenset([*labels, *filter(None, [_field(detail, "requestParameters", "versionStage")])])


def _identity(detail: Mapping[str, Any]) -> str | None:
    """The secret as AWS or the caller named it: an ARN where there is one, else the text as it was typed."""
    places = (
        ("responseElements", "arn"),
        ("responseElements", "aRN"),  # until February 2024: https://repost.aws/knowledge-center/secrets-manager-arn
        ("additionalEventData", "SecretId"),
        ("serviceEventDetails", "secretId"),
        ("requestParameters", "secretId"),
        ("requestParameters", "name"),
    )
    return next(filter(None, (_field(detail, place, field) for place, field in places)), None)


def _names(secret_id: str) -> frozenset[str]:
    """All ways to name the one secret of which ``secret_id`` is the name or the complete ARN."""
    _, found, rest = secret_id.partition(":secret:")
    if not found:
        return frozenset({secret_id})
    return frozenset({secret_id, secret_id[:-_SUFFIX], rest[:-_SUFFIX]})


def _notification(
    event: Mapping[str, Any], kind: EventType, subject: str, event_name: str, **told: str | None
) -> Notification:
    data = NotificationData(event_name, account=_text(event, "account"), region=_text(event, "region"), **told)
    notification = Notification(
        id=_text(event, "id"),
        source=_text(event, "source"),
        type=kind,
        subject=subject,
        time=_text(event, "time"),
        data=data,
    )
    try:
        # What the receiver would refuse, and the whole batch with it, is refused here, where no other event suffers.
        (same,) = decode(CONTENT_TYPE_BATCH, encode([notification]))
        datetime.fromisoformat(same.time)
    except MalformedMessage as error:
        raise Malformed(str(error).removeprefix("event 1: ")) from None
    except UnicodeEncodeError:
        raise Malformed("a text is not UTF-8") from None
    except ValueError:
        raise Malformed("time is no time") from None
    return same


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name} is missing")
    return value


def _field(within: Mapping[str, Any], place: str, name: str) -> str | None:
    fields = within.get(place)
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) and value else None
