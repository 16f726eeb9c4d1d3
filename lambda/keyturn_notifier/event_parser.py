"""Parser of EventBridge events. An event becomes a notification, or is ignored, or is malformed. Pure.

``aws_event_types`` lists the events by name. ``_secret_id`` knows the fields that identify the secret.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyturn_contract.message import EventType, MalformedMessage, Notification, NotificationData, validate
from keyturn_notifier.aws_event_types import (
    API_CALL,
    HEARTBEAT,
    MEANINGS,
    MEMBER_HEARTBEAT,
    NATIVE,
    SERVICE_EVENT,
    UNKNOWN,
)

SOURCE = "aws.secretsmanager"
HEARTBEAT_SOURCE = "dev.keyturn"  # the source of the events that the schedules in Keyturn's templates send

# A rotation moves these staging labels, but applications do not read secrets by them:
# https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html#term_version
_IGNORED_LABELS = frozenset({"AWSPENDING", "AWSPREVIOUS"})
_ARN_SUFFIX = len("-a1b2c3")  # in a complete ARN, AWS appends six random characters to the name
_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")


class MalformedEvent(ValueError):
    """The event is neither a valid event of Secrets Manager nor a valid heartbeat. The text says what is missing or
    what to correct."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that becomes no notification. ``reason`` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class MemberHeartbeat:
    """A heartbeat from a member. A member is an account and a region that forward their events to this stack.
    EventBridge has written both fields, so the sender cannot forge them."""

    account: str
    region: str


def parse_event(
    event: object, signing_key_id: str = "", name_prefixes: Sequence[str] = ()
) -> Notification | Ignored | MemberHeartbeat:
    """Parse an EventBridge event. Raises MalformedEvent.

    Events about the secret ``signing_key_id`` (a name or an ARN) are ignored. If ``name_prefixes`` is not empty, an
    event is also ignored if the name of its secret begins with none of these prefixes. EventBridge itself cannot filter
    events by the secret's name, because some CloudTrail events have only an ARN.
    """
    if not isinstance(event, dict):
        raise MalformedEvent("the event is not an object")
    source, detail_type, detail = event.get("source"), event.get("detail-type"), event.get("detail")
    if source not in (SOURCE, HEARTBEAT_SOURCE):
        raise MalformedEvent(f"source must be {SOURCE}: correct the rule's event pattern")
    if not isinstance(detail, dict):
        raise MalformedEvent("detail must be an object")
    if source == HEARTBEAT_SOURCE and detail_type == HEARTBEAT:
        return _notification(event, EventType.HEARTBEAT, "heartbeat", "Heartbeat")
    if source == HEARTBEAT_SOURCE and detail_type == MEMBER_HEARTBEAT:
        return MemberHeartbeat(_text(event, "account"), _text(event, "region"))
    if source == HEARTBEAT_SOURCE:
        # Whoever may put events may use this source, and the rules also match it with the types of AWS's events. A dead
        # letter would ring an alarm.
        return Ignored(f"source {HEARTBEAT_SOURCE}: only heartbeats have it")
    if detail_type == NATIVE:
        parsed = _parse_native(event)
    elif detail_type in (API_CALL, SERVICE_EVENT):
        parsed = _parse_cloudtrail(event, detail, detail_type)
    else:
        raise MalformedEvent(f"detail-type must be one of: {NATIVE}; {API_CALL}; {SERVICE_EVENT}")
    if isinstance(parsed, Notification) and parsed.subject in _aliases(signing_key_id):
        return Ignored("the secret is the signing key, which receivers read on their own schedule")
    if isinstance(parsed, Notification) and name_prefixes and not _name(parsed).startswith(tuple(name_prefixes)):
        return Ignored("the secret's name begins with none of NamePrefixes")
    return parsed


def _name(notification: Notification) -> str:
    """Return the secret's name. If the event has only an ARN, the name is the last part of the ARN without the random
    suffix that AWS appends."""
    _, separator, resource = notification.subject.partition(":secret:")
    return notification.data.name or (_SUFFIX.sub("", resource) if separator else notification.subject)


def _parse_native(event: Mapping[str, Any]) -> Notification | Ignored:
    label = _nested_text(event, "detail", "labelUpdated")
    if label in _IGNORED_LABELS:
        return Ignored(f"label {label}: rotations move it, and applications do not read by it")
    resources = event.get("resources")
    if not isinstance(resources, list) or not resources or not isinstance(resources[0], str) or not resources[0]:
        raise MalformedEvent("resources must hold the secret's ARN")
    return _notification(
        event,
        EventType.CHANGED,
        resources[0],
        "SecretLabelUpdated",
        name=_nested_text(event, "detail", "name"),
        version_id=_nested_text(event, "detail", "versionId"),
        label=label,
    )


def _parse_cloudtrail(event: Mapping[str, Any], detail: Mapping[str, Any], detail_type: str) -> Notification | Ignored:
    event_name = _text(detail, "eventName")
    if detail.get("readOnly") is True:
        return Ignored(f"{event_name}: it only reads")
    if detail.get("errorCode"):
        return Ignored(f"{event_name}: the call failed")
    meaning = MEANINGS.get((detail_type, event_name), UNKNOWN)
    if meaning.becomes is None:
        return Ignored(f"{event_name}: {meaning.reason}")
    labels = _labels(detail)
    if labels and labels <= _IGNORED_LABELS:
        return Ignored(f"{event_name}: it sets only {', '.join(sorted(labels))}, and applications do not read by that")
    secret_id = _secret_id(detail)
    if secret_id is None:
        raise MalformedEvent(f"{event_name} names no secret")
    return _notification(
        event,
        meaning.becomes,
        secret_id,
        event_name,
        name=_nested_text(detail, "responseElements", "name") or _nested_text(detail, "requestParameters", "name"),
        version_id=_nested_text(detail, "requestParameters", "moveToVersionId"),
        label=_nested_text(detail, "requestParameters", "versionStage"),
    )


def _labels(detail: Mapping[str, Any]) -> frozenset[str]:
    """Return the staging labels that the call names. If a call that writes a value names none, it moves AWSCURRENT."""
    request = detail.get("requestParameters")
    stages = request.get("versionStages") if isinstance(request, dict) else None
    labels = [stage for stage in stages if isinstance(stage, str)] if isinstance(stages, list) else []
    return frozenset([*labels, *filter(None, [_nested_text(detail, "requestParameters", "versionStage")])])


def _secret_id(detail: Mapping[str, Any]) -> str | None:
    """Return the secret's ARN if the record of the call has it. Otherwise return the name or partial ARN that the
    caller wrote."""
    candidates = (
        ("responseElements", "arn"),
        ("responseElements", "aRN"),  # until February 2024: https://repost.aws/knowledge-center/secrets-manager-arn
        ("additionalEventData", "SecretId"),
        ("serviceEventDetails", "secretId"),
        ("requestParameters", "secretId"),
        ("requestParameters", "name"),
    )
    return next(filter(None, (_nested_text(detail, section, field) for section, field in candidates)), None)


def _aliases(secret_id: str) -> frozenset[str]:
    """Return all ids of one secret: its name, its complete ARN and its partial ARN. ``secret_id`` is the name or the
    complete ARN."""
    _, separator, resource = secret_id.partition(":secret:")
    if not separator:
        return frozenset({secret_id})
    return frozenset({secret_id, secret_id[:-_ARN_SUFFIX], resource[:-_ARN_SUFFIX]})


def _notification(
    event: Mapping[str, Any], event_type: EventType, subject: str, event_name: str, **optional: str | None
) -> Notification:
    data = NotificationData(event_name, account=_text(event, "account"), region=_text(event, "region"), **optional)
    notification = Notification(
        id=_text(event, "id"),
        source=_text(event, "source"),
        type=event_type,
        subject=subject,
        time=_text(event, "time"),
        data=data,
    )
    try:
        # A receiver refuses a whole batch because of one malformed notification. So each notification is checked before
        # it is put into a batch.
        validate(notification)
        datetime.fromisoformat(notification.time)
    except MalformedMessage as error:
        raise MalformedEvent(str(error)) from None
    except ValueError:
        raise MalformedEvent("time is not a valid date and time") from None
    return notification


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedEvent(f"{name} is missing")
    return value


def _nested_text(fields: Mapping[str, Any], section: str, name: str) -> str | None:
    subfields = fields.get(section)
    value = subfields.get(name) if isinstance(subfields, dict) else None
    return value if isinstance(value, str) and value else None
