"""Stage of a workload, as its status and its pods show it."""

import time

from keyturn_cli.bound_secrets import Bound
from keyturn_cli.rotation import Place, Stage, workload_place
from keyturn_cli.sight import Sight
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.crash_loop import as_failed, is_followed

# Seconds after a restart from which its new pods are looked at. The receiver waits as long (reconcile/crash_loops.py).
QUIET_SECONDS = 20.0


def place_of(sight: Sight, consumer: Consumer, bound: Bound, reads_pods: bool = True) -> Place:
    """Return the stage of a workload on its way to the present values of a Secret. If ``reads_pods`` is true and new
    pods crash again and again, its rollout counts as failed, as it does for the receiver."""
    in_namespace, now = sight.annotations(bound.target.namespace), time.time()
    place = workload_place(consumer, bound, in_namespace, sight.settings, now)
    if place.stage is not Stage.ROLLING or not reads_pods or not _is_quiet(consumer, now):
        return place
    reason = sight.crash_reason(consumer, now)
    if not reason:
        return place
    return workload_place(as_failed(consumer, reason, now), bound, in_namespace, sight.settings, now)


def _is_quiet(consumer: Consumer, now: float) -> bool:
    marked_at = consumer.progress.marked_at if consumer.progress else None
    return is_followed(consumer) and marked_at is not None and now - marked_at >= QUIET_SECONDS
