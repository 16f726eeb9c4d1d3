"""Rollout schedule: which consumers of a Secret may be restarted now, and why the others wait.

The schedule is derived only from the present state and the time, so it is the same after a crash, and on every replica
that sees the same state. While consumers wait, a new schedule is made when the state changes, and at the time that the
last schedule names.

The order is stable. So replicas that do not see each other's restarts yet take the same consumers, and the API server
refuses the later writes with a conflict. If a pace could be exceeded nevertheless, only the leader restarts consumers
(docs/adr/028-pace-and-order-of-rollouts.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.core.consumer import WorkloadRef

INFINITY = float("inf")


class ConsumerState(StrEnum):
    """The state of a consumer for one change of a Secret."""

    DUE = "due"  # it has to be restarted
    UNFINISHED = "unfinished"  # it was restarted, and its pods are not all ready yet
    FAILED = "failed"  # it was restarted, and the restart has failed
    # No other consumer waits for it: it has been restarted, needs no restart, or cannot be restarted, for example
    # because of a hold (``core/rollout_hold.py``).
    SETTLED = "settled"


class WaitReason(StrEnum):
    """The reason why a consumer that is due for a restart has to wait. The value is a label value of the metric
    ``keyturn_rollouts_waiting``."""

    WINDOW = "window"
    ORDER = "order"
    PACE = "pace"
    HALT = "halt"
    DEBOUNCE = "debounce"  # another Secret that it reads has just changed, and may change again
    BACKOFF = "backoff"  # another writer keeps reverting its mark, its evictions wait, or its restart was just tried


# The states of a consumer for which consumers with a higher order wait.
OPEN_STATES = (ConsumerState.DUE, ConsumerState.UNFINISHED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A consumer of a Secret, as the schedule needs it.

    ``order`` is None if the consumer has no order. ``window_opens_at`` is the time from which the consumer may be
    restarted. It is in the past while the consumer's window is open. A slot is room for one unfinished rollout.
    ``takes_slot`` is false if the restart does not add to the number of unfinished rollouts. That is so if the pods do
    not restart, or if the consumer's rollout is unfinished already. ``backed_off_until`` is the time until which the
    consumer's mark must not be written. ``fails_at`` is the time from which the unfinished rollout counts as failed.
    ``backed_off_until`` and ``fails_at`` are infinite if only a change of state ends the wait. Until the time
    ``quiet_at``, the other Secrets of the consumer may be about to change, too. All times are in seconds since 1970.
    """

    ref: WorkloadRef
    state: ConsumerState
    order: int | None = None
    window_opens_at: float = 0.0
    takes_slot: bool = True
    backed_off_until: float = 0.0
    fails_at: float = INFINITY
    quiet_at: float = 0.0

    @property
    def stage(self) -> tuple[bool, int]:
        """The place in the order. Consumers with the same stage may be restarted together."""
        return (self.order is None, self.order or 0)


@dataclass(frozen=True, slots=True)
class Wait:
    """The reason why a consumer waits. ``until`` is the time at which the wait ends, in seconds since 1970, or infinity
    if only a change of state ends it. ``behind`` is the consumer that has to come first, or None."""

    reason: WaitReason
    until: float = INFINITY
    behind: WorkloadRef | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The decision about the consumers of one Secret. ``start`` has the consumers that may be restarted now, in order.
    ``waits`` has the consumers that are due for a restart but have to wait, and the reason for each of them.
    ``halted_by`` is the failed consumer that keeps all others from being restarted, or None. ``look_again_at`` is the
    time, in seconds since 1970, at which the schedule changes without a change of state, or infinity."""

    start: Sequence[WorkloadRef] = ()
    waits: Mapping[WorkloadRef, Wait] = field(default_factory=dict)
    halted_by: WorkloadRef | None = None
    look_again_at: float = INFINITY


def schedule(
    candidates: Iterable[Candidate],
    now: float,
    slots: float,
    shared_slots: float = INFINITY,
    resumed: bool = False,
    halting: WorkloadRef | None = None,
) -> Schedule:
    """Return the schedule of one Secret at ``now``, in seconds since 1970.

    ``slots`` is the number of further rollouts that the Secret's own pace allows. ``shared_slots`` is the number of
    further rollouts that the limits of the namespace and of the cluster allow. ``resumed`` is true if somebody has
    asked to continue the rollouts in spite of failures. ``halting`` is the consumer whose failed rollout has halted the
    others before, for the same change, or None. The halt stays until this consumer is settled, and only this consumer
    may be restarted meanwhile.
    """
    everyone = sorted(candidates, key=lambda each: (each.stage, each.ref.kind, each.ref.name))
    due = [each for each in everyone if each.state is ConsumerState.DUE]
    if not due:
        return Schedule()
    failed = next((each for each in everyone if each.state is ConsumerState.FAILED), None)
    failed = failed or next((each for each in everyone if each.ref == halting and each.state in OPEN_STATES), None)
    halted = [] if failed is None or resumed else [each for each in due if each is not failed]
    if failed and halted:
        due = [each for each in due if each is failed]
    first = next((each for each in (due if halted else everyone) if each.state in OPEN_STATES), None)
    start: list[WorkloadRef] = []
    waits = {each.ref: Wait(WaitReason.HALT, behind=failed.ref) for each in halted if failed}
    left = min(slots, shared_slots)
    for each in due:
        if first and each.stage != first.stage:
            waits[each.ref] = Wait(WaitReason.ORDER, behind=first.ref)
        elif each.window_opens_at > now:
            waits[each.ref] = Wait(WaitReason.WINDOW, until=each.window_opens_at)
        elif each.quiet_at > now:
            waits[each.ref] = Wait(WaitReason.DEBOUNCE, until=each.quiet_at)
        elif each.backed_off_until > now:
            waits[each.ref] = Wait(WaitReason.BACKOFF, until=each.backed_off_until)
        elif each.takes_slot and left <= 0:
            waits[each.ref] = Wait(WaitReason.PACE)
        else:
            left -= each.takes_slot
            start.append(each.ref)
    times = [wait.until for wait in waits.values()]
    times += [each.fails_at for each in everyone if each.state is ConsumerState.UNFINISHED]
    halted_by = failed.ref if failed and halted else None
    return Schedule(start, waits, halted_by, min((at for at in times if at > now), default=INFINITY))
