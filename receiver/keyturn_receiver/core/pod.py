"""Pods of a consumer: their reads of Secrets, and the times that show whether they have read the present values."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.conditions import condition, is_true
from keyturn_receiver.core.consumer import Reads, WorkloadRef, marks_of, reads_of
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.replica_set import is_name_of, workload_of
from keyturn_receiver.core.workload_kinds import REPLICA_SET, kind_of
from keyturn_receiver.core.write_times import parse_time

_NO_SPEC: Mapping[str, object] = {"containers": [], "initContainers": []}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, reduced to its reads of Secrets and to the times that show the age of its values.

    ``created`` is in seconds since 1970; a pod without a known time counts as very old. ``marks`` are Keyturn's marks,
    which are annotations that the pod has from its template. ``started`` is about the Secrets that the containers read
    only by ``env`` and ``envFrom``, because a container reads these Secrets again whenever it starts. It maps the name
    of each such Secret to the earliest start of the containers that read the Secret, in seconds since 1970 by the
    kubelet's clock. A container's start is the start of its present run. A Secret is left out while one of the
    containers that read it does not run. ``last_started`` is the latest start of any container that runs, or 0 if none
    runs. ``has_started`` tells whether a container of the pod has ever started. ``ready_at`` is the time at which the
    pod became ready, in seconds since 1970. It is None if the pod is not ready, or if the time is not known.
    """

    reads: Mapping[str, Reads]
    created: int
    name: str = ""
    uid: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)
    started: Mapping[str, int] = field(default_factory=dict)
    last_started: int = 0
    has_started: bool = True
    is_ready: bool = False
    ready_at: int | None = None


def read_pod(
    pod: Mapping[str, object], workload: WorkloadRef, workload_uid: str, named: Iterable[str] = ()
) -> Pod | None:
    """Parse a pod as the API server returns it. Returns None if the pod belongs to another workload, is ending or has
    ended.

    ``named`` are the Secrets that the workload's annotations name (``named_secrets``). A pod belongs to the workload if
    its controller has ``workload_uid``, or is a ReplicaSet that was made for the workload (``core/replica_set.py``).
    The pods of a ReplicaSet that somebody else has made, and that a Deployment has adopted, count only if the
    ReplicaSet is named as if the Deployment had made it.
    """
    metadata, status = as_object(pod.get("metadata")), as_object(pod.get("status"))
    if metadata.get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    labels = as_object(metadata.get("labels"))
    for owner in as_objects(metadata.get("ownerReferences")):
        if owner.get("controller") and (owner.get("uid") == workload_uid or _is_between(owner, labels, workload)):
            reads = reads_of(pod, named)
            (marks,) = marks_of(reads, as_object(metadata.get("annotations")))
            ready = condition(status, "Ready")
            return Pod(
                reads,
                parse_time(metadata.get("creationTimestamp")) or 0,
                name=str(metadata.get("name", "")),
                uid=str(metadata.get("uid", "")),
                marks=marks,
                started=_started(pod, named),
                last_started=max((at for _, at in _running(status)), default=0),
                has_started=_has_started(status),
                is_ready=is_true(ready),
                ready_at=parse_time(ready.get("lastTransitionTime")) if is_true(ready) else None,
            )
    return None


def _is_between(owner: Mapping[str, object], labels: Mapping[str, object], workload: WorkloadRef) -> bool:
    """Return whether the owner of a pod is a ReplicaSet that was made for a workload."""
    if kind_of(owner) != REPLICA_SET:
        return False
    name = str(owner.get("name"))
    above = workload_of(name, labels)
    return above is not None and above[0].kind == workload.kind and is_name_of(workload.name, above[1], name)


def _started(pod: Mapping[str, object], named: Iterable[str]) -> dict[str, int]:
    """Return the times of ``Pod.started``, for Secrets that the containers read only by environment variables."""
    spec, status = as_object(pod.get("spec")), as_object(pod.get("status"))
    inits, containers = as_objects(spec.get("initContainers")), as_objects(spec.get("containers"))
    # Files and the reads of init containers do not count, because the start of a container does not repeat these reads.
    once = [each for each in inits if each.get("restartPolicy") != "Always"]
    by_others = reads_of({"spec": {**spec, "containers": [], "initContainers": once}}, named)
    running = dict(_running(status))
    started: dict[str, int] = {}
    for each in (*(each for each in inits if each.get("restartPolicy") == "Always"), *containers):
        at = running.get(each.get("name"), 0)
        for name in reads_of({"spec": {**_NO_SPEC, "containers": [each]}}, ()):
            started[name] = min(at, started.get(name, at))
    return {name: at for name, at in started.items() if at and name not in by_others}


def _has_started(status: Mapping[str, object]) -> bool:
    if status.get("phase") != "Pending":
        return True
    states = (as_object(each.get(field)) for each in _statuses(status) for field in ("state", "lastState"))
    return any(state.get("running") or state.get("terminated") for state in states)


def _running(status: Mapping[str, object]) -> Iterator[tuple[object, int]]:
    """Yield the name of each container that runs, and the time of its start, or 0 if the time is not known."""
    for each in _statuses(status):
        if running := as_object(as_object(each.get("state")).get("running")):
            yield each.get("name"), parse_time(running.get("startedAt")) or 0


def _statuses(status: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    yield from as_objects(status.get("initContainerStatuses"))
    yield from as_objects(status.get("containerStatuses"))
