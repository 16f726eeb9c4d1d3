"""The wire format of deliveries and replies.

A delivery holds notifications, which are CloudEvents 1.0 in JSON. The reply holds one result for each notification.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md

A notification says "this secret may have changed". It never carries a value.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

MAX_BODY = 16 * 1024  # bytes
MAX_EVENTS = 10
CONTENT_TYPE = "application/cloudevents+json"
CONTENT_TYPE_BATCH = "application/cloudevents-batch+json"
# Every reply of a receiver has this header. A reply without it comes from another server in front of the receiver, such
# as a load balancer or a firewall, or from a receiver of release 0.2 or earlier. The header's value is the version of
# the contract and not the receiver's release, so strangers do not learn the release.
RECEIVER_HEADER = "Keyturn-Receiver"
CONTRACT_VERSION = "1"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_MAX_TEXT = 2048  # at most this many characters in one field; the longest real value is an ARN of about 600 characters


class MalformedMessage(ValueError):
    """The body violates the contract. The text names the field, but does not quote its content."""


class UnsupportedMediaType(ValueError):
    """The content type is neither CONTENT_TYPE nor CONTENT_TYPE_BATCH."""


class EventType(StrEnum):
    """The CloudEvents ``type`` of a notification. It names the change of the secret, or marks a heartbeat."""

    CHANGED = "dev.keyturn.secret.changed.v1"
    DELETED = "dev.keyturn.secret.deleted.v1"
    RESTORED = "dev.keyturn.secret.restored.v1"
    ROTATION_FAILED = "dev.keyturn.secret.rotation-failed.v1"
    HEARTBEAT = "dev.keyturn.heartbeat.v1"


@dataclass(frozen=True, slots=True)
class NotificationData:
    """The CloudEvents ``data`` of an AWS event. ``event_name`` is the name of the event in AWS. A field is None if the
    event does not have it."""

    event_name: str
    account: str
    region: str
    name: str | None = None
    version_id: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """One CloudEvent.

    ``id`` is the event id of EventBridge. It is the same in every retry. ``subject`` is the secret's ARN, or its name
    if AWS gave no ARN, or "heartbeat". ``time`` is in the format of RFC 3339.
    """

    id: str
    source: str
    type: EventType
    subject: str
    time: str
    data: NotificationData


# If a heartbeat is older than this (in seconds), it was delayed in the queue, and does not prove that the event path is
# healthy. The rotation of the signing key sends such an old heartbeat on purpose, because it tests only the receivers
# and not the event path.
MAX_HEARTBEAT_AGE = 300.0

# These three reasons are used if a notification is ignored because it concerns no binding. Every other reason in a
# result is about a binding (``Result.is_refused_by_binding``).
REASON_HEARTBEAT = "heartbeat"
REASON_NOT_BOUND = "no Secret is bound to it"
REASON_NO_LONGER_BOUND = "no Secret is bound to it any more"


class Outcome(StrEnum):
    """The outcome of a notification at the receiver. The sender has to retry only after FAILED.

    After RETRYING, the receiver itself retries the Secrets in the result's ``retrying``.
    """

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    IGNORED = "ignored"
    SUPERSEDED = "superseded"
    RETRYING = "retrying"
    FAILED = "failed"


class State(StrEnum):
    """The state of a version of an AWS secret in a cluster. LIVE: all pods that read the secret use the version. STUCK:
    the rollout of the version to a workload makes no progress."""

    LIVE = "live"
    STUCK = "stuck"


MAX_VERSIONS = 200  # at most this many states of versions in one result


@dataclass(frozen=True, slots=True)
class VersionState:
    """The state of a version in the receiver's cluster. ``since`` is the time at which the state began, in seconds
    since 1970.

    ``seconds`` is the time from the move of the staging label until all pods used the version, or None if it is not
    known. ``consumers`` are the workloads whose rollout is stuck, as "Kind/namespace/name".

    ``changed`` is the time at which the values of the Secrets last changed, in seconds since 1970, or 0 if it is not
    known. All replicas report the same ``changed``. If a version becomes current a second time, its ``changed`` is
    later than before.
    """

    arn: str
    version_id: str
    state: State
    since: int
    seconds: int | None = None
    consumers: tuple[str, ...] = ()
    changed: int = 0

    @property
    def length(self) -> int:
        """The approximate number of characters that this state takes in a reply."""
        return 125 + len(self.arn) + len(self.version_id) + sum(len(each) + 3 for each in self.consumers)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of the notification ``id``. Secrets are "namespace/name", and consumers are "Kind/namespace/name".

    The receiver has changed the Secrets in ``secrets``, and restarted the workloads in ``consumers``. It retries the
    Secrets in ``retrying`` by itself; a result with the outcome APPLIED may have them, too. Only the result of a
    heartbeat has ``versions``: the recent states of versions of AWS secrets. Releases up to 0.2 neither send nor read
    ``versions``.
    """

    id: str
    outcome: Outcome
    secrets: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    reason: str | None = None
    retrying: tuple[str, ...] = ()
    versions: tuple[VersionState, ...] = ()

    def cut(self, names: int) -> "Result":
        """Return a copy of this result with at most ``names`` names in each list of Secrets or consumers."""
        return replace(
            self, secrets=self.secrets[:names], consumers=self.consumers[:names], retrying=self.retrying[:names]
        )

    @property
    def is_refused_by_binding(self) -> bool:
        """Whether a Secret could not be filled, or a consumer could not be restarted. ``reason`` names the Secret or
        the consumer, and gives the cause."""
        return self.reason is not None and self.reason not in (
            REASON_HEARTBEAT,
            REASON_NOT_BOUND,
            REASON_NO_LONGER_BOUND,
        )


_DATA_FIELDS = {
    "eventName": "event_name",
    "account": "account",
    "region": "region",
    "name": "name",
    "versionId": "version_id",
    "label": "label",
}
# RETRYING is encoded as IGNORED, because notifiers of release 0.2 or earlier do not know RETRYING. They would treat a
# whole reply as malformed if it had an unknown outcome. ``_parse_result`` restores RETRYING if the result names Secrets
# in ``retrying``.
_WORDS = {Outcome.RETRYING: Outcome.IGNORED}
_REQUIRED_DATA = frozenset({"eventName", "account", "region"})


def encode(notifications: Sequence[Notification]) -> bytes:
    """Encode notifications as a batch of the content type CONTENT_TYPE_BATCH."""
    return _dump([_cloud_event(notification) for notification in notifications])


def decode(content_type: str, body: bytes) -> tuple[Notification, ...]:
    """Decode one notification or a batch, depending on the content type.

    Unknown attributes are ignored, as CloudEvents requires. An unknown event type is an error, because its sender
    expects an action. Raises UnsupportedMediaType or MalformedMessage, and no other exception.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in (CONTENT_TYPE, CONTENT_TYPE_BATCH):
        raise UnsupportedMediaType(f"content-type must be {CONTENT_TYPE} or {CONTENT_TYPE_BATCH}")
    content = _load(body)
    events = content if media_type == CONTENT_TYPE_BATCH else [content]
    if not isinstance(events, list) or not 1 <= len(events) <= MAX_EVENTS:
        raise MalformedMessage(f"a batch must be an array of 1 to {MAX_EVENTS} events")
    notifications = tuple(_parse_notification(event, f"event {number}: ") for number, event in enumerate(events, 1))
    if len({notification.id for notification in notifications}) < len(notifications):
        raise MalformedMessage("two events have the same id")
    return notifications


def validate(notification: Notification) -> None:
    """Check a notification by the rules of ``decode`` before it is sent. Raises MalformedMessage."""
    _parse_notification(_cloud_event(notification), "")


def encode_reply(results: Sequence[Result]) -> bytes:
    """Encode the reply to a delivery."""
    return _dump(
        {
            "results": [
                {
                    "id": result.id,
                    "outcome": _WORDS.get(result.outcome, result.outcome).value,
                    "secrets": result.secrets,
                    "consumers": result.consumers,
                    **({"reason": result.reason} if result.reason else {}),
                    **({"retrying": result.retrying} if result.retrying else {}),
                    **({"versions": [_encode_state(each) for each in result.versions]} if result.versions else {}),
                }
                for result in results
            ]
        }
    )


def decode_reply(body: bytes) -> tuple[Result, ...]:
    """Decode the reply to a delivery. Raises MalformedMessage."""
    content = _load(body)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list):
        raise MalformedMessage("the reply has no list of results")
    return tuple(_parse_result(result) for result in results)


def _cloud_event(notification: Notification) -> dict[str, object]:
    fields = ((name, getattr(notification.data, field)) for name, field in _DATA_FIELDS.items())
    return {
        "specversion": "1.0",
        "id": notification.id,
        "source": notification.source,
        "type": notification.type.value,
        "subject": notification.subject,
        "time": notification.time,
        "datacontenttype": "application/json",
        "data": {name: value for name, value in fields if value is not None},
    }


def _parse_notification(event: object, prefix: str) -> Notification:
    """Parse a CloudEvent. The texts of errors start with ``prefix``."""
    if not isinstance(event, dict):
        raise MalformedMessage(f"{prefix}not an object")
    if event.get("specversion") != "1.0":
        raise MalformedMessage(f"{prefix}specversion must be 1.0")
    data = event.get("data")
    if not isinstance(data, dict):
        raise MalformedMessage(f"{prefix}data must be an object")
    try:
        event_type = EventType(_text(event, "type", prefix))
    except ValueError as error:
        raise error if isinstance(error, MalformedMessage) else MalformedMessage(f"{prefix}type is unknown") from None
    time = _text(event, "time", prefix)
    if not _TIME.fullmatch(time):
        raise MalformedMessage(f"{prefix}time must be RFC 3339")
    data_fields = {
        field: _text(data, name, f"{prefix}data: ")
        for name, field in _DATA_FIELDS.items()
        if name in _REQUIRED_DATA or data.get(name) is not None
    }
    return Notification(
        id=_text(event, "id", prefix),
        source=_text(event, "source", prefix),
        type=event_type,
        subject=_text(event, "subject", prefix),
        time=time,
        data=NotificationData(**data_fields),
    )


def _parse_result(result: object) -> Result:
    if not isinstance(result, dict):
        raise MalformedMessage("a result is not an object")
    try:
        outcome = Outcome(_text(result, "outcome", "result: "))
    except ValueError as error:
        raise error if isinstance(error, MalformedMessage) else MalformedMessage("result: outcome is unknown") from None
    reason = result.get("reason")
    if isinstance(reason, str) and not _is_encodable(reason):
        raise MalformedMessage("result: reason has half a surrogate pair")
    retrying = _texts(result, "retrying")
    return Result(
        id=_text(result, "id", "result: "),
        outcome=Outcome.RETRYING if retrying and outcome is Outcome.IGNORED else outcome,
        secrets=_texts(result, "secrets"),
        consumers=_texts(result, "consumers"),
        reason=reason if isinstance(reason, str) else None,
        retrying=retrying,
        versions=_parse_states(result.get("versions")),
    )


def _encode_state(state: VersionState) -> dict[str, object]:
    return {
        "arn": state.arn,
        "versionId": state.version_id,
        "state": state.state.value,
        "since": state.since,
        "changed": state.changed,
        **({"seconds": state.seconds} if state.seconds is not None else {}),
        **({"consumers": state.consumers} if state.consumers else {}),
    }


def _parse_states(states: object) -> tuple[VersionState, ...]:
    """Parse the states of versions. If a state is malformed or unknown, it is left out, because a later release may
    send states that this release does not know."""
    parsed = []
    for each in states[:MAX_VERSIONS] if isinstance(states, list) else ():
        try:
            since, seconds, changed = each["since"], each.get("seconds"), each.get("changed", 0)
            numbers = [since, changed] if seconds is None else [since, changed, seconds]
            if not all(isinstance(number, int) and 0 <= number < 10**11 for number in numbers):
                continue
            arn, version_id = _text(each, "arn", ""), _text(each, "versionId", "")
            consumers = _texts(each, "consumers")
            parsed.append(VersionState(arn, version_id, State(each["state"]), since, seconds, consumers, changed))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return tuple(parsed)


def _text(fields: Mapping[str, object], name: str, prefix: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT:
        raise MalformedMessage(f"{prefix}{name} must be text of 1 to {_MAX_TEXT} characters")
    if not value.isprintable():
        raise MalformedMessage(f"{prefix}{name} has unprintable characters")
    return value


def _texts(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    values = fields.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise MalformedMessage(f"result: {name} must be a list of texts")
    if not all(map(_is_encodable, values)):
        raise MalformedMessage(f"result: {name} has half a surrogate pair")
    return tuple(values)


def _is_encodable(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8. A JSON text may contain an unpaired surrogate, which UTF-8 cannot
    encode."""
    return text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text)


def _load(body: bytes) -> object:
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        raise MalformedMessage("the body is not JSON in UTF-8") from None


def _dump(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
