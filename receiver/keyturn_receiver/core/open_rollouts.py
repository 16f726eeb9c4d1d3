"""Open rollouts: unfinished rollouts that Keyturn has started. Only the workloads are needed to find them.

Keyturn starts a rollout with a mark, which is an annotation on the pod template. A mark on the workload itself says
that the pods already run the values that the mark stands for (``core/rollout.py``). If such a workload has an
unfinished rollout, somebody else has started it. If ``spec.restartAt`` restarts the pods, this rule does not hold,
because a restart then writes its mark on the workload itself.
"""

import math

from keyturn_receiver.core.consumer import Consumer, mark_name
from keyturn_receiver.core.mark import present_mark
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_deadline import fails_at
from keyturn_receiver.core.rollout_progress import RolloutState


def is_open(consumer: Consumer) -> bool:
    """Return whether a workload has an unfinished rollout that Keyturn has started. In such a rollout, some pods are
    not ready with the present template.

    A rollout that has ended is not open, even if pods fail later. A failed rollout is not open, because it may never
    end. If a setting of the workload keeps pods from restarting (``core/rollout_hold.py``), the rollout cannot end
    either, and is not open.
    """
    progress = consumer.progress
    if consumer.hold or progress is None or progress.state is not RolloutState.UNFINISHED or progress.has_ended:
        return False
    return consumer.by_time or any(name not in consumer.baseline for name in consumer.marks)


def takes_slot(consumer: Consumer, now: float) -> bool:
    """Return whether a workload has an open rollout whose deadline is not over. ``now`` is in seconds since 1970."""
    return is_open(consumer) and now < open_until(consumer)


def open_until(consumer: Consumer) -> float:
    """Return the time at which the open rollout of a workload fails by its deadline, in seconds since 1970, or infinity
    if it has none."""
    return fails_at(consumer.ref.kind, consumer.progress) if consumer.progress else math.inf


def is_restarted(consumer: Consumer, secret_name: str, record: Record) -> bool:
    """Return whether a mark says that Keyturn has restarted the pods of a workload for the present revisions of the
    Secret. If ``spec.restartAt`` restarts the pods, the result is also true for a settled mark, because a restart
    writes the same annotation."""
    is_settled = mark_name(secret_name) in consumer.baseline and not consumer.by_time
    return not is_settled and present_mark(consumer, secret_name, record) is not None
