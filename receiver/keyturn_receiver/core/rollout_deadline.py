"""Rollout deadlines: the time from which an unfinished rollout counts as failed.

Kubernetes itself tells when a Deployment makes no progress (ProgressDeadlineExceeded). Of the other kinds, their status
shows when they last did: the API server records the time of each write.
"""

from collections.abc import Mapping

from keyturn_receiver.core.field_owners import FIELD_MANAGER, managed_fields
from keyturn_receiver.core.rollout_progress import RolloutProgress
from keyturn_receiver.core.workload_kinds import StatusForm, WorkloadKind
from keyturn_receiver.core.write_times import parse_time


def fails_at(kind: WorkloadKind, metadata: Mapping[str, object], progress: RolloutProgress | None) -> int | None:
    """Return the time from which the unfinished rollout of a workload counts as failed, in seconds since 1970 by the
    API server's clock. Returns None if Kubernetes decides that, or if Keyturn has not restarted the workload.

    A rollout fails once its status has not changed for the deadline. A pod that crashes and starts again changes the
    status each time, so the whole rollout has the deadline once for each pod.
    """
    if progress is None or kind.status is StatusForm.REPLICAS:
        return None
    restarted_at = _last_write(metadata, FIELD_MANAGER, "")
    if restarted_at is None:
        return None
    progressed_at = _last_write(metadata, None, "status") or 0
    last = restarted_at + progress.deadline * max(1, progress.wanted)
    return min(max(restarted_at, progressed_at) + progress.deadline, last)


def _last_write(metadata: Mapping[str, object], manager: str | None, subresource: str) -> int | None:
    """Return the time of the last write of a subresource, or of the object itself, by a field manager or by anybody."""
    entries = (each for each in managed_fields(metadata) if (each.get("subresource") or "") == subresource)
    times = (parse_time(each.get("time")) for each in entries if manager in (None, each.get("manager")))
    return max((time for time in times if time is not None), default=None)
