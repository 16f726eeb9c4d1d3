"""Candidates of the rollout schedule. A candidate is the state of a consumer for one change of a Secret."""

from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.open_rollouts import is_restarted
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_deadline import fails_at
from keyturn_receiver.core.rollout_hold import NO_REPLICAS
from keyturn_receiver.core.rollout_progress import RolloutState
from keyturn_receiver.core.rollout_schedule import INFINITY, Candidate, ConsumerState
from keyturn_receiver.core.rollout_window import opens_at


def may_restart(mark: RolloutAnnotation) -> bool:
    """Return whether the pods restart, or may restart, when this mark is written."""
    return mark.restart or mark.undecided


def due_candidate(
    consumer: Consumer,
    window: str | None,
    now: float,
    is_open: bool,
    backed_off_until: float = 0.0,
    quiet_at: float = 0.0,
) -> Candidate:
    """Return the candidate for a consumer that is due for a restart.

    ``window`` is the rollout window of the namespace, which applies if the workload has no window of its own.
    ``is_open`` tells whether the consumer already has an unfinished rollout. ``backed_off_until`` and ``quiet_at`` are
    as in ``Candidate``. All times are in seconds since 1970.
    """
    ref, order = consumer.ref, consumer.order
    opens = opens_at(window if consumer.window is None else consumer.window, now)
    if opens == INFINITY:  # the namespace's window is invalid, so no other consumer waits for this one
        return Candidate(ref, ConsumerState.SETTLED, order)
    takes_slot = consumer.hold is None and not is_open
    return Candidate(ref, ConsumerState.DUE, order, opens, takes_slot, backed_off_until, quiet_at=quiet_at)


def other_candidate(
    consumer: Consumer, secret_name: str, record: Record, now: float, is_halting: bool = False
) -> Candidate:
    """Return the candidate for a consumer that is not due for a restart. ``record`` is the record of the Secret.
    ``now`` is the time in seconds since 1970.

    ``is_halting`` tells whether the failed rollout of this consumer halts the others. If so, only the lack of replicas
    settles it. Somebody may have paused the workload because its rollout has failed.
    """
    ref, order = consumer.ref, consumer.order
    is_held = consumer.hold is NO_REPLICAS or (consumer.hold is not None and not is_halting)
    if is_held or consumer.progress is None or not is_restarted(consumer, secret_name, record):
        return Candidate(ref, ConsumerState.SETTLED, order)
    end = fails_at(ref.kind, consumer.progress)
    match consumer.progress.state:
        case RolloutState.COMPLETE:
            state = ConsumerState.SETTLED
        case RolloutState.UNFINISHED | RolloutState.FAILED if consumer.progress.has_ended:
            state = ConsumerState.SETTLED
        case RolloutState.UNFINISHED if now < end:
            state = ConsumerState.UNFINISHED
        case _:
            state = ConsumerState.FAILED
    return Candidate(ref, state, order, fails_at=end)
