"""Open rollouts: unfinished rollouts that Keyturn has started. The workloads alone show them.

Keyturn starts a rollout with a mark, which is an annotation on the pod template. A mark on the workload itself says
that the pods already run the values that the mark stands for (``core/rollout.py``). So somebody else has started a
later rollout of such a workload.
"""

from keyturn_receiver.core.consumer import Consumer, mark_name
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import present_mark
from keyturn_receiver.core.rollout_progress import RolloutState


def is_open(consumer: Consumer) -> bool:
    """Return whether Keyturn has restarted a workload, and some of its pods are not ready with its present template.

    A failed rollout is not open, because it may never end. If a workload holds its pods back
    (``core/rollout_hold.py``), its rollout cannot end either, and is not open.
    """
    if consumer.hold or consumer.progress is None or consumer.progress.state is not RolloutState.UNFINISHED:
        return False
    return any(name not in consumer.baseline for name in consumer.marks)


def is_restarted(consumer: Consumer, secret_name: str, record: Record) -> bool:
    """Return whether Keyturn has restarted the pods of a workload for the present revisions of the Secret."""
    return mark_name(secret_name) not in consumer.baseline and present_mark(consumer, secret_name, record) is not None
