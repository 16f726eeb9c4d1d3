"""Rollout deadlines: the time from which an unfinished rollout counts as failed.

For a Deployment, Kubernetes itself reports that there is no progress (ProgressDeadlineExceeded). For a Rollout, Argo's
controller reports it. For the other kinds, the last change of the status counts as the last progress. The API server
records the time of this change.
"""

import math

from keyturn_receiver.core.rollout_progress import RolloutProgress
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, StatusForm

_TOLD = (StatusForm.REPLICAS, StatusForm.PHASE)  # kinds whose controllers report that a rollout has failed


def fails_at(kind: str, progress: RolloutProgress) -> float:
    """Return the time from which the unfinished rollout of a workload counts as failed, in seconds since 1970 by the
    API server's clock. Returns infinity for a Deployment and a Rollout, because their controllers decide, and for a
    workload that Keyturn has not restarted.

    A rollout fails when the status has not changed for ``progress.deadline`` seconds. But a pod that crashes and starts
    again changes the status each time. So the whole rollout may take at most the deadline multiplied by the number of
    pods. This limit does not count once all pods of a DaemonSet have the new template: its status does not tell whether
    a pod that is not ready belongs to the rollout, or to a node that has joined later.
    """
    if progress.marked_at is None or WORKLOAD_KINDS[kind].status in _TOLD:
        return math.inf
    changed_at = max(progress.marked_at, progress.changed_at or 0)
    if WORKLOAD_KINDS[kind].status is StatusForm.NODES and progress.observed and progress.updated >= progress.wanted:
        return changed_at + progress.deadline
    last = progress.marked_at + progress.deadline * max(1, progress.wanted)
    return min(changed_at + progress.deadline, last)
