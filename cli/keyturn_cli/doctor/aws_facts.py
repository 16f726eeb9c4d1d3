"""Facts about the stack in AWS, as plain data for the checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keyturn_cli.doctor.finding import Unknown


@dataclass(frozen=True, slots=True)
class Rule:
    """The EventBridge rule that forwards moves of staging labels. ``matches_sample`` is the result of TestEventPattern
    for an event that the stack's parameters should let through. ``targets`` are ARNs."""

    name: str
    arn: str
    enabled: bool
    matches_sample: bool | Unknown
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. ``messages`` is the approximate number of messages that can be received now. ``policy`` is the policy as
    parsed JSON. ``oldest`` is the age of the oldest message according to CloudWatch's metric."""

    arn: str
    messages: int
    policy: Mapping[str, Any]
    oldest: timedelta | Unknown


@dataclass(frozen=True, slots=True)
class Notifier:
    """The notifier function. ``event_source`` is the state of its event source mapping, such as Enabled, or an empty
    text if there is no mapping. ``private`` maps hosts of receivers to their private addresses. It has only the hosts
    that resolve to a private address."""

    name: str
    state: str
    last_update: str
    in_vpc: bool
    event_source: str
    private: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The signing key's secret. ``labels`` are the staging labels of all its versions. ``written`` is the time of the
    last rotation, or of the last change or the creation if it was never rotated. ``next_rotation`` is the time at which
    the next rotation is due. ``used_by_receivers`` is the id of the signing key in the receivers' settings, or None if
    it is not known."""

    arn: str
    labels: frozenset[str]
    deleted: bool
    rotates: bool
    written: datetime | None
    next_rotation: datetime | None
    used_by_receivers: str | None = None


@dataclass(frozen=True, slots=True)
class AwsFacts:
    """All facts about the stack. ``schedule`` is the state of the heartbeats' schedule, such as ENABLED."""

    now: datetime
    rule: Rule | Unknown
    schedule: str | Unknown
    queue: Queue | Unknown
    dead_letters: int | Unknown
    undelivered: int | Unknown
    notifier: Notifier | Unknown
    signing_key: SigningKey | Unknown
