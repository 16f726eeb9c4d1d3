"""Rotations as this replica has seen them, with the time of each leg.

All times are seconds since 1970 by this replica's clock, with fractions, except ``told_at``. That is the time at which
the staging label moved, in whole seconds by AWS's clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.rollout_progress import RolloutState

MAX_SECRETS = 50  # Secrets of one rotation that are kept by name
MAX_CONSUMERS = 50  # consumers of one Secret that are kept by name
MAX_ROLLOUTS = 100  # consumers of all Secrets of one rotation that are kept by name
MAX_TEXT = 400  # characters that are kept of an error or a reason


class RolloutLeg(StrEnum):
    """How far a consumer has come. ``ROLLING`` is the only state that is expected to end by itself."""

    ROLLING = "rolling"
    LIVE = "live"  # all its pods run the new value
    FAILED = "failed"
    HELD = "held"  # a setting of the workload keeps its pods
    SUPERSEDED = "superseded"  # a later change of the Secret has taken its place
    GONE = "gone"  # the workload no longer reads the Secret


@dataclass(slots=True)
class ConsumerRollout:
    """The rollout of one consumer. ``note`` says what holds it back, or why it has failed."""

    ref: WorkloadRef
    marked_at: float
    leg: RolloutLeg = RolloutLeg.ROLLING
    wanted: int = 0
    updated: int = 0
    ready: int = 0
    live_at: float | None = None
    note: str = ""

    def follow(self, consumer: Consumer, now: float) -> bool:
        """Take over how far the consumer has come. Return whether anything has changed."""
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
        elif self.live_at is None:  # pods that fail later, do so for a reason of their own
            self.leg = RolloutLeg.FAILED if progress.state is RolloutState.FAILED else RolloutLeg.ROLLING
        return before != (self.leg, self.wanted, self.updated, self.ready, self.note)

    def end(self, leg: RolloutLeg) -> bool:
        """Stop following a rollout that has not ended. Return whether it had not."""
        if self.leg is not RolloutLeg.ROLLING:
            return False
        self.leg = leg
        return True


@dataclass(slots=True)
class SecretFill:
    """What one rotation did to one Secret. ``reason`` and ``error`` are those of the last attempt, or empty."""

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
    has_more: bool = False  # whether consumers were left out, because there was no room

    @property
    def is_open(self) -> bool:
        """Whether the fill, or the rollout of a consumer, goes on."""
        waits = self.done_at is None or (bool(self.error) and self.is_temporary)
        return waits or any(each.leg is RolloutLeg.ROLLING for each in self.consumers.values())


@dataclass(slots=True)
class Rotation:
    """One rotation: a notification, what the poller found, or what another replica did.

    ``id`` is the event's id, or one made here. ``cause`` is "event", "poll" or "replica". ``outcome`` and
    ``answered_at`` are those of the last answer to the sender.
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
    has_more: bool = False  # whether Secrets were left out, because there are MAX_SECRETS

    @property
    def is_open(self) -> bool:
        """Whether any of its Secrets, or their consumers, is not done yet."""
        return any(fill.is_open for fill in self.fills.values())

    @property
    def began_at(self) -> float:
        """The time at which the label moved, as far as it is known, and otherwise the time at which it was received."""
        return self.received_at if self.told_at is None else min(self.told_at, self.received_at)

    @property
    def size(self) -> int:
        """The number of rollouts that are kept."""
        return sum(len(fill.consumers) for fill in self.fills.values())

    def add_consumer(self, fill: SecretFill, ref: WorkloadRef, now: float) -> ConsumerRollout | None:
        """Add the rollout of a consumer of one of its Secrets. Return None if there is no room."""
        if len(fill.consumers) >= MAX_CONSUMERS or self.size >= MAX_ROLLOUTS:
            fill.has_more = True
            return None
        rollout = fill.consumers[ref] = ConsumerRollout(ref, now)
        return rollout

    def consumers(self) -> Iterator[ConsumerRollout]:
        """Yield the rollouts of all Secrets."""
        for fill in self.fills.values():
            yield from fill.consumers.values()

    def live_at(self) -> float | None:
        """Return when the last pod ran the new value. Returns None before that, or if no pod was restarted."""
        times = [each.live_at for each in self.consumers()]
        if not times or None in times:
            return None
        return max(each for each in times if each is not None)

    def applied_at(self) -> float | None:
        """Return when the last of its Secrets was written, or None if none was."""
        return max((each.applied_at for each in self.fills.values() if each.applied_at is not None), default=None)
