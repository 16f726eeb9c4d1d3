"""Rollout deadlines: the time from which an unfinished rollout counts as failed.

Kubernetes itself tells when a Deployment makes no progress (ProgressDeadlineExceeded). Workloads of the other kinds
made their last progress when their status last changed: the API server records the time of each write.
"""

import math

from keyturn_receiver.core.rollout_progress import RolloutProgress
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, StatusForm


def fails_at(kind: str, progress: RolloutProgress) -> float:
    """Return the time from which the unfinished rollout of a workload counts as failed, in seconds since 1970 by the
    API server's clock. Returns infinity if Kubernetes decides that, or if Keyturn has not restarted the workload.

    A rollout fails when its status has not changed for as long as the deadline. But a pod that crashes and starts again
    changes the status each time. So the whole rollout may take at most the deadline multiplied by the number of pods.
    """
    if progress.marked_at is None or WORKLOAD_KINDS[kind].status is StatusForm.REPLICAS:
        return math.inf
    changed_at = max(progress.marked_at, progress.changed_at or 0)
    last = progress.marked_at + progress.deadline * max(1, progress.wanted)
    return min(changed_at + progress.deadline, last)
