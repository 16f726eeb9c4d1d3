"""Open rollouts: the rollouts that Keyturn has started and that are not finished, as the workloads show them."""

from keyturn_receiver.core.consumer import Consumer, mark_name
from keyturn_receiver.core.rollout_progress import RolloutState


def is_open(consumer: Consumer) -> bool:
    """Return whether a workload that Keyturn has restarted has pods that are not ready with its present template.

    A rollout that failed is not open any more: it may stay as it is for ever. A workload that holds its pods back
    (``core/rollout_hold.py``) has no rollout that could end.
    """
    if consumer.hold or not consumer.marks or consumer.progress is None:
        return False
    return consumer.progress.state is RolloutState.UNFINISHED


def is_restarted(consumer: Consumer, secret_name: str) -> bool:
    """Return whether Keyturn has restarted the pods of a workload for the Secret."""
    return mark_name(secret_name) in consumer.marks
