"""Progress of the restart of an Argo Rollout, as Argo's controller reports it.

The controller sums up the state in ``status.phase``. The phase is Healthy once all steps of the strategy are done and
the new revision is the stable one. A restart by ``spec.restartAt`` makes no revision. It has ended when
``status.restartedAt`` is the same time as ``spec.restartAt``. If the template changes during the restart, Argo drops
the restart but still writes ``status.restartedAt``. So the restart counts as ended only if the stable revision is the
current one.

https://github.com/argoproj/argo-rollouts/blob/master/utils/rollout/rolloututil.go (GetRolloutPhase) and, for restarts,
https://github.com/argoproj/argo-rollouts/blob/master/rollout/restart.go
"""

from collections.abc import Mapping

from keyturn_receiver.core.argo_rollouts import MAX_LEAD
from keyturn_receiver.core.conditions import condition, is_true
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.rollout_progress import (
    DEFAULT_DEADLINE,
    MAX_REASON,
    NO_DEADLINE,
    RolloutProgress,
    RolloutState,
    completed_at,
    number,
    status_times,
)
from keyturn_receiver.core.write_times import parse_time

HEALTHY, PAUSED, DEGRADED = "Healthy", "Paused", "Degraded"
_FAILURES = ("ProgressDeadlineExceeded", "RolloutAborted")


def read_argo_progress(workload: Mapping[str, object], by_time: bool) -> RolloutProgress | None:
    """Return the progress of a Rollout's restart. Return None if ``spec.restartAt`` restarts the pods, but Keyturn has
    not set this field. Also return None if no controller has ever observed the Rollout, because its restart would stay
    unfinished, and other workloads would wait for it.

    ``by_time`` tells whether ``spec.restartAt`` restarts the pods. Only the controller decides that a Rollout has
    failed, because its strategy may pause for hours. So the progress has no deadline. The exception is a restart by
    time of a Rollout whose release failed before: Argo goes on to report that failure, and never another one.
    """
    metadata, spec = as_object(workload.get("metadata")), as_object(workload.get("spec"))
    status = as_object(workload.get("status"))
    marked_at, changed_at = status_times(metadata)
    restart_at = parse_time(spec.get("restartAt"))
    generation = status.get("observedGeneration")  # a text; the built-in kinds have a number
    if not generation:
        return None
    if by_time and (restart_at is None or marked_at is None or restart_at > marked_at + MAX_LEAD):
        return None
    wanted, updated = number(spec, "replicas", 1), number(status, "updatedReplicas")
    available, phase = number(status, "availableReplicas"), status.get("phase")
    observed = isinstance(generation, str) and generation == str(metadata.get("generation"))
    is_stable = bool(status.get("stableRS")) and status.get("stableRS") == status.get("currentPodHash")
    progressing = condition(status, "Progressing")
    # An older failure, such as an abort, is that of another release. It does not keep Argo from restarting the pods.
    failed_before = by_time and phase == DEGRADED and _has_failed_before(progressing, marked_at)
    if by_time:
        is_settled = failed_before or (phase in (HEALTHY, PAUSED) and is_stable)
        is_done = parse_time(status.get("restartedAt")) == restart_at and is_settled
    else:
        is_done = phase == HEALTHY and updated >= wanted and is_stable
    state, reason, ended_at = RolloutState.UNFINISHED, "", None
    # A restart by time changes no template, so the status does not show which pods are restarted.
    is_uniform = observed and is_stable and not by_time and updated >= number(status, "replicas")
    # While the spec is invalid, Argo carries out no change, and the status shows the former one.
    is_uniform = is_uniform and not is_true(condition(status, "InvalidSpec"))
    if observed and is_done and available >= wanted:
        state = RolloutState.COMPLETE
        ended_at = changed_at if by_time else completed_at(progressing) or changed_at
    elif observed and phase == DEGRADED and not failed_before:
        state = RolloutState.FAILED
        reason = str(progressing.get("reason")) if progressing.get("reason") in _FAILURES else DEGRADED
    return RolloutProgress(
        state,
        wanted,
        updated,
        available,
        observed,
        reason[:MAX_REASON],
        ended_at,
        number(spec, "progressDeadlineSeconds", DEFAULT_DEADLINE) if failed_before else NO_DEADLINE,
        marked_at,
        changed_at,
        has_ended=is_uniform,
        is_uniform=is_uniform,
    )


def _has_failed_before(progressing: Mapping[str, object], marked_at: int | None) -> bool:
    """Return whether a Rollout failed before ``marked_at``, the time of its restart, according to its condition
    Progressing."""
    failed_at = parse_time(progressing.get("lastUpdateTime")) if progressing.get("reason") in _FAILURES else None
    return failed_at is not None and marked_at is not None and failed_at < marked_at
