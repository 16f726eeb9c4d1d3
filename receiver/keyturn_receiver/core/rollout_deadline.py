"""Rollout deadlines: the time from which an unfinished rollout counts as failed.

For a Deployment, Kubernetes itself reports that there is no progress (ProgressDeadlineExceeded). For a Rollout, Argo's
controller reports it, with one exception (``core/argo_progress.py``). For this exception and the other kinds, the last
change of the status counts as the last progress. The API server records the time of this change.
"""

import math

from keyturn_receiver.core.rollout_progress import NO_DEADLINE, RolloutProgress
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, StatusForm


def fails_at(kind: str, progress: RolloutProgress) -> float:
    """Return the time from which the unfinished rollout of a workload counts as failed, in seconds since 1970 by the
    API server's clock. Returns infinity if the workload's controller decides, and if Keyturn has not restarted the
    workload.

    A rollout fails when the status has not changed for ``progress.deadline`` seconds. But a pod that crashes and starts
    again changes the status each time. So the whole rollout may take at most the deadline multiplied by the number of
    pods. This limit does not count once all pods of a DaemonSet have the new template: its status does not tell whether
    a pod that is not ready belongs to the rollout, or to a node that has joined later.
    """
    form = WORKLOAD_KINDS[kind].status
    if progress.marked_at is None or form is StatusForm.REPLICAS or progress.deadline == NO_DEADLINE:
        return math.inf
    changed_at = max(progress.marked_at, progress.changed_at or 0)
    if form is StatusForm.NODES and progress.observed and progress.updated >= progress.wanted:
        return changed_at + progress.deadline
    last = progress.marked_at + progress.deadline * max(1, progress.wanted)
    return min(changed_at + progress.deadline, last)
