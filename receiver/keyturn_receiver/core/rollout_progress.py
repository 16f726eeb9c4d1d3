"""Progress of a rollout: whether the pods of a workload run its present pod template, by the rules of `kubectl rollout
status`.

Keyturn stores nothing for it, because the workload's status shows the progress.
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status and, for the rules of all kinds,
https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from keyturn_receiver.core.conditions import condition
from keyturn_receiver.core.field_owners import FIELD_MANAGER, managed_fields
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.workload_kinds import StatusForm, WorkloadKind
from keyturn_receiver.core.write_times import parse_time

DEFAULT_DEADLINE = 600  # seconds; the default of a Deployment's progressDeadlineSeconds
NO_DEADLINE = 2**31 - 1  # the progressDeadlineSeconds with which a Deployment has no deadline
MAX_REASON = 64  # at most this many characters of a failure's reason are kept
_TIMED_OUT = "ProgressDeadlineExceeded"
_AVAILABLE = "NewReplicaSetAvailable"


class RolloutState(Enum):
    """``UNFINISHED``: a pod still runs an older template, or is not ready. ``COMPLETE``: all pods that the rollout has
    to change run the present template and are ready. ``FAILED``: Kubernetes or Argo's controller reports that the
    rollout has failed, or its new pods crash (``core/crash_loop.py``). The controller may still try to finish it."""

    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """How far the rollout of a workload's present pod template has come.

    ``wanted`` is the number of pods that the workload should have. ``updated`` is the number of pods with the present
    template. ``ready`` is the number of ready pods, including pods with an older template; for a Deployment and a
    DaemonSet, it is the number of available pods. These numbers count only if ``observed`` is true. If it is false, the
    controller has not seen the present template, and the numbers are about an older template. ``reason`` says why the
    rollout has failed, and is otherwise empty. ``finished_at`` is the time at which the rollout became complete, in
    seconds since 1970 by the control plane's clock, or None. ``deadline`` is the number of seconds after which a
    rollout without progress counts as stuck. ``marked_at`` is the time at which Keyturn last restarted the workload, or
    None. ``changed_at`` is the time of the last change of the status. Both are by the same clock.
    ``has_ended`` is true if the rollout was complete before. If the state is UNFINISHED nevertheless, pods have failed
    since then, or pods were added. It is always false for a DaemonSet, for a Deployment without a deadline, and for a
    restart by ``spec.restartAt``, because their status does not show this. If somebody brings a former template back,
    ``has_ended`` becomes true too early for a StatefulSet and a Rollout: as soon as all pods have the template, ready
    or not.
    ``is_uniform`` is true if every pod has the present template, ready or not. It is always false for a restart by
    ``spec.restartAt``.
    """

    state: RolloutState
    wanted: int = 0
    updated: int = 0
    ready: int = 0
    observed: bool = True
    reason: str = ""
    finished_at: int | None = None
    deadline: int = DEFAULT_DEADLINE
    marked_at: int | None = None
    changed_at: int | None = field(default=None, compare=False)
    has_ended: bool = False
    is_uniform: bool = False

    @property
    def is_complete(self) -> bool:
        """Return whether all pods that the rollout has to change run the present template and are ready."""
        return self.state is RolloutState.COMPLETE


@dataclass(frozen=True, slots=True)
class _Counts:
    wanted: int
    updated: int
    ready: int
    complete: bool
    has_ended: bool = False
    is_uniform: bool = False


def read_progress(kind: WorkloadKind, workload: Mapping[str, object]) -> RolloutProgress | None:
    """Return the progress of a workload's rollout, or None if Keyturn does not know the status of this kind.

    A partition or the strategy OnDelete keeps some pods from restarting. These pods do not count, so the rollout is
    complete without them. ``core/rollout_hold.py`` finds such settings.
    """
    counted = _COUNTS.get(kind.status)
    if counted is None:
        return None
    metadata, spec = as_object(workload.get("metadata")), as_object(workload.get("spec"))
    status = as_object(workload.get("status"))
    deadline = number(spec, "progressDeadlineSeconds", DEFAULT_DEADLINE)
    deadline = DEFAULT_DEADLINE if deadline == NO_DEADLINE else deadline
    counts = counted(spec, status)
    observed = 0 < number(status, "observedGeneration") >= number(metadata, "generation")
    marked_at, changed_at = status_times(metadata)
    state, reason, finished_at = RolloutState.UNFINISHED, "", None
    progressing = condition(status, "Progressing") if observed else {}
    if progressing.get("reason") == _TIMED_OUT:
        refused = condition(status, "ReplicaFailure").get("reason")  # such as FailedCreate, if a quota is used up
        state, reason = RolloutState.FAILED, f"{_TIMED_OUT}, {refused}" if refused else _TIMED_OUT
    elif observed and counts.complete:
        state, finished_at = RolloutState.COMPLETE, completed_at(progressing) or changed_at
    return RolloutProgress(
        state,
        counts.wanted,
        counts.updated,
        counts.ready,
        observed,
        reason[:MAX_REASON],
        finished_at,
        deadline,
        marked_at,
        changed_at,
        observed and counts.has_ended and _ended_after(marked_at, progressing, kind),
        observed and counts.is_uniform,
    )


def _of_replicas(spec: Mapping[str, object], status: Mapping[str, object]) -> _Counts:
    wanted, updated = number(spec, "replicas", 1), number(status, "updatedReplicas")
    replicas, available = number(status, "replicas"), number(status, "availableReplicas")
    complete = wanted <= updated >= replicas and available >= updated
    is_uniform = updated >= replicas
    return _Counts(wanted, updated, available, complete, has_ended=is_uniform, is_uniform=is_uniform)


def _of_identities(spec: Mapping[str, object], status: Mapping[str, object]) -> _Counts:
    wanted, updated = number(spec, "replicas", 1), number(status, "updatedReplicas")
    ready = number(status, "readyReplicas")
    partition = number(as_object(as_object(spec.get("updateStrategy")).get("rollingUpdate")), "partition")
    # The controller sets the current revision once all pods have the new one and are ready:
    # https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/statefulset/stateful_set_utils.go
    revision = status.get("currentRevision")
    is_uniform = updated >= number(status, "replicas")
    has_ended = bool(revision) and revision == status.get("updateRevision") and is_uniform
    return _Counts(wanted, updated, ready, ready >= wanted and updated >= wanted - partition, has_ended, is_uniform)


def _of_nodes(spec: Mapping[str, object], status: Mapping[str, object]) -> _Counts:
    wanted, updated = number(status, "desiredNumberScheduled"), number(status, "updatedNumberScheduled")
    available = number(status, "numberAvailable")
    return _Counts(wanted, updated, available, updated >= wanted <= available, is_uniform=updated >= wanted)


_COUNTS: Mapping[StatusForm, Callable[[Mapping[str, object], Mapping[str, object]], _Counts]] = {
    StatusForm.REPLICAS: _of_replicas,
    StatusForm.IDENTITIES: _of_identities,
    StatusForm.NODES: _of_nodes,
}


def _ended_after(marked_at: int | None, progressing: Mapping[str, object], kind: WorkloadKind) -> bool:
    """Return whether the rollout of a Deployment has ended since Keyturn last restarted it. Other kinds need no check.

    The controller keeps the reason until the next rollout makes progress, so it may be that of the rollout before:
    https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/deployment/progress.go
    """
    if kind.status is not StatusForm.REPLICAS:
        return True
    ended_at = completed_at(progressing)
    return marked_at is not None and ended_at is not None and ended_at > marked_at


def completed_at(progressing: Mapping[str, object]) -> int | None:
    """Return the time at which a rollout became complete, according to the condition Progressing of a Deployment or a
    Rollout. Return None if the condition is missing, or does not report a completion.

    In this case, the caller takes the time of the last change of the status. This change made the rollout complete,
    unless a pod has failed and recovered since then.
    """
    return parse_time(progressing.get("lastUpdateTime")) if progressing.get("reason") == _AVAILABLE else None


def status_times(metadata: Mapping[str, object]) -> tuple[int | None, int | None]:
    """Return the times of Keyturn's last restart, and of the last change of the status. Keyturn's other writes of a
    workload have another field manager. An earlier release wrote them with the same one."""
    marked_at = changed_at = None
    for entry in managed_fields(metadata):
        if entry.get("subresource") == "status":
            changed_at = max(changed_at or 0, parse_time(entry.get("time")) or 0) or None
        elif entry.get("manager") == FIELD_MANAGER and not entry.get("subresource"):
            marked_at = parse_time(entry.get("time"))
    return marked_at, changed_at


def number(fields: Mapping[str, object], name: str, default: int = 0) -> int:
    """Return the integer in a field, or ``default``. The API server leaves out some fields whose value is zero."""
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
