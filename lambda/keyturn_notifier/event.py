"""What an event from AWS means. Pure.

Native: https://docs.aws.amazon.com/secretsmanager/latest/userguide/monitoring-eventbridge.html
CloudTrail: https://docs.aws.amazon.com/secretsmanager/latest/userguide/cloudtrail_log_entries.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keyturn_contract.message import EventType, Notification, NotificationData

SOURCE = "aws.secretsmanager"
NATIVE = "Secret Label Updated"
API_CALL = "AWS API Call via CloudTrail"
SERVICE_EVENT = "AWS Service Event via CloudTrail"

# PutSecretValue writes AWSPENDING in a rotation and proves nothing; it is taken as a hint all the same, for without
# rotation it is how a value changes. The receiver looks, and finds nothing to do.
_CALLS = {
    "PutSecretValue": EventType.CHANGED,
    "UpdateSecret": EventType.CHANGED,
    "UpdateSecretVersionStage": EventType.CHANGED,
    "CreateSecret": EventType.CHANGED,
    "DeleteSecret": EventType.DELETED,
    "RestoreSecret": EventType.RESTORED,
    "RotationSucceeded": EventType.CHANGED,
    "RotationFailed": EventType.ROTATION_FAILED,
    "RotationAbandoned": EventType.ROTATION_FAILED,
}
_SILENT_LABELS = frozenset({"AWSPENDING", "AWSPREVIOUS"})


class Malformed(ValueError):
    """The event is none that Secrets Manager sends; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that changes nothing, and why."""

    reason: str


def read(event: object) -> Notification | Ignored:
    """Read an EventBridge event. Raises Malformed."""
    if not isinstance(event, dict):
        raise Malformed("the event is not an object")
    if event.get("source") != SOURCE:
        raise Malformed(f"source must be {SOURCE}: correct the rule's event pattern")
    detail = event.get("detail")
    if not isinstance(detail, dict):
        raise Malformed("detail must be an object")
    kind = event.get("detail-type")
    if kind == NATIVE:
        return _native(event, detail)
    if kind in (API_CALL, SERVICE_EVENT):
        return _cloudtrail(event, detail)
    raise Malformed(f"detail-type must be one of: {NATIVE}; {API_CALL}; {SERVICE_EVENT}")


def _native(event: Mapping[str, Any], detail: Mapping[str, Any]) -> Notification | Ignored:
    label = _text(detail, "labelUpdated")
    if label in _SILENT_LABELS:
        return Ignored(f"label {label} moves in the course of a rotation, and nobody reads by it")
    resources = event.get("resources")
    if not isinstance(resources, list) or not resources or not isinstance(resources[0], str):
        raise Malformed("resources must hold the secret's ARN")
    data = NotificationData(
        event_name="SecretLabelUpdated",
        account=_text(event, "account"),
        region=_text(event, "region"),
        name=_text(detail, "name"),
        version_id=_text(detail, "versionId"),
        label=label,
    )
    return _notification(event, EventType.CHANGED, resources[0], data)


def _cloudtrail(event: Mapping[str, Any], detail: Mapping[str, Any]) -> Notification | Ignored:
    name = _text(detail, "eventName")
    if detail.get("readOnly") is True:
        return Ignored(f"{name} only reads")
    if detail.get("errorCode"):
        return Ignored(f"{name} failed")
    if name not in _CALLS:
        return Ignored(f"{name} changes no value")
    subject = _identity(detail)
    if subject is None:
        raise Malformed(f"{name} names no secret")
    data = NotificationData(event_name=name, account=_text(event, "account"), region=_text(event, "region"))
    return _notification(event, _CALLS[name], subject, data)


def _identity(detail: Mapping[str, Any]) -> str | None:
    """The secret as AWS or the caller named it: an ARN where there is one, else the text as it was typed."""
    places = (
        ("responseElements", "arn"),
        ("responseElements", "aRN"),
        ("additionalEventData", "SecretId"),
        ("serviceEventDetails", "secretId"),
        ("requestParameters", "secretId"),
        ("requestParameters", "name"),
    )
    for place, field in places:
        fields = detail.get(place)
        if isinstance(fields, dict) and isinstance(fields.get(field), str) and fields[field]:
            return str(fields[field])
    return None


def _notification(event: Mapping[str, Any], kind: EventType, subject: str, data: NotificationData) -> Notification:
    return Notification(
        id=_text(event, "id"), source=SOURCE, type=kind, subject=subject, time=_text(event, "time"), data=data
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name} is missing")
    return value
