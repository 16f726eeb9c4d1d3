"""Records of the rotations that this replica has seen. A record has the time of each leg (step) of its rotation.

All times are in seconds since 1970. ``told_at`` is the time at which the staging label moved, in whole seconds by AWS's
clock. All other times are by this replica's clock, and have fractions of seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.rollout_progress import RolloutState

MAX_SECRETS = 50  # at most this many Secrets of one rotation are kept by name
MAX_CONSUMERS = 50  # at most this many consumers of one Secret are kept by name
MAX_ROLLOUTS = 100  # at most this many consumers of all Secrets of one rotation are kept by name
MAX_TEXT = 400  # at most this many characters of an error or a reason are kept


class RolloutLeg(StrEnum):
    """The state of a consumer's rollout. A rollout that is ``ROLLING`` may still end by itself. All other states are
    final, unless something changes."""

    ROLLING = "rolling"
    LIVE = "live"  # all pods of the consumer use the new value
    FAILED = "failed"
    HELD = "held"  # because of a setting of the workload, old pods keep running
    SUPERSEDED = "superseded"  # a later change of the Secret has replaced the rollout
    GONE = "gone"  # the workload no longer reads the Secret, or the Secret is deleted or no longer bound


@dataclass(slots=True)
class ConsumerRollout:
    """The rollout of one consumer. ``note`` is the reason why the rollout cannot continue or has failed."""

    ref: WorkloadRef
    marked_at: float
    leg: RolloutLeg = RolloutLeg.ROLLING
    wanted: int = 0
    updated: int = 0
    ready: int = 0
    live_at: float | None = None
    note: str = ""

    def follow(self, consumer: Consumer, now: float) -> bool:
        """Update the rollout with the consumer's present progress. Return whether anything has changed."""
        progress, hold = consumer.progress, consumer.hold
        if progress is None:
            return False
        before = (self.leg, self.wanted, self.updated, self.ready, self.note)
        self.wanted = progress.wanted
        self.updated, self.ready = (progress.updated, progress.ready) if progress.observed else (0, progress.ready)
        self.note = hold.text if hold else progress.reason
        if hold and (hold.every_pod or (progress.is_complete and progress.updated < progress.wanted)):
            self.leg = RolloutLeg.HELD
        elif progress.is_complete:
            self.leg = RolloutLeg.LIVE
            self.live_at = self.live_at or now
        elif self.live_at is None:  # a failure after the first success has a reason other than this rollout
            self.leg = RolloutLeg.FAILED if progress.state is RolloutState.FAILED else RolloutLeg.ROLLING
        return before != (self.leg, self.wanted, self.updated, self.ready, self.note)

    def end(self, leg: RolloutLeg) -> bool:
        """End an unfinished rollout with the state ``leg``. Return whether the rollout was unfinished."""
        if self.leg is not RolloutLeg.ROLLING:
            return False
        self.leg = leg
        return True


@dataclass(slots=True)
class SecretFill:
    """The effect of one rotation on one Secret. ``reason`` and ``error`` describe the failure of the last attempt, or
    are empty."""

    target: Target
    started_at: float
    fetched_at: float | None = None
    applied_at: float | None = None
    done_at: float | None = None
    changed: bool = False
    is_temporary: bool = False
    reason: str = ""
    error: str = ""
    consumers: dict[WorkloadRef, ConsumerRollout] = field(default_factory=dict)
    has_more: bool = False  # whether consumers were left out because there was no room

    @property
    def is_open(self) -> bool:
        """Whether the fill, or the rollout of a consumer, is unfinished."""
        waits = self.done_at is None or (bool(self.error) and self.is_temporary)
        return waits or any(each.leg is RolloutLeg.ROLLING for each in self.consumers.values())

    def end(self, now: float) -> bool:
        """End the fill and its rollouts, because the Secret is deleted or no longer bound. Return whether anything was
        unfinished."""
        was_open = self.is_open
        self.done_at = self.done_at or now
        self.is_temporary = False
        for each in self.consumers.values():
            each.end(RolloutLeg.GONE)
        return was_open


@dataclass(slots=True)
class Rotation:
    """One rotation. It began with a notification, a change that the poller has found, or a write of another replica.

    ``id`` is the id of the event, or a generated id. ``cause`` is "event", "poll" or "replica". ``outcome`` and
    ``answered_at`` describe the last answer to the sender.
    """

    id: str
    cause: str
    secret: str
    version: str
    label: str
    received_at: float
    told_at: float | None = None
    attempts: int = 1
    answered_at: float | None = None
    outcome: str = ""
    reason: str = ""
    fills: dict[Target, SecretFill] = field(default_factory=dict)
    has_more: bool = False  # whether Secrets were left out because there are more than MAX_SECRETS

    @property
    def is_open(self) -> bool:
        """Whether the fill of a Secret, or the rollout of a consumer, is unfinished."""
        return any(fill.is_open for fill in self.fills.values())

    @property
    def began_at(self) -> float:
        """The time at which the rotation began: the move of the staging label or the arrival of the rotation at this
        replica, whichever is earlier. It is the arrival if the time of the move is not known."""
        return self.received_at if self.told_at is None else min(self.told_at, self.received_at)

    @property
    def size(self) -> int:
        """The number of consumers' rollouts that this rotation keeps."""
        return sum(len(fill.consumers) for fill in self.fills.values())

    def add_consumer(self, fill: SecretFill, ref: WorkloadRef, now: float) -> ConsumerRollout | None:
        """Add the rollout of a consumer to ``fill``, and return it. Return None if the rotation has no room for it."""
        if len(fill.consumers) >= MAX_CONSUMERS or self.size >= MAX_ROLLOUTS:
            fill.has_more = True
            return None
        rollout = fill.consumers[ref] = ConsumerRollout(ref, now)
        return rollout

    def consumers(self) -> Iterator[ConsumerRollout]:
        """Yield the rollouts of the consumers of all Secrets."""
        for fill in self.fills.values():
            yield from fill.consumers.values()

    def live_at(self) -> float | None:
        """Return the time at which the last pod began to use the new value. Return None before that time, or if no
        consumer was restarted."""
        times = [each.live_at for each in self.consumers()]
        if not times or None in times:
            return None
        return max(each for each in times if each is not None)

    def applied_at(self) -> float | None:
        """Return the time at which the last Secret of the rotation was written, or None if no Secret was written."""
        return max((each.applied_at for each in self.fills.values() if each.applied_at is not None), default=None)
