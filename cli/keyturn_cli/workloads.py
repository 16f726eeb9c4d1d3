"""Lists of workloads, pods and CronJobs from the API server, with the Secrets that they read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyturn_cli.cluster import Cluster, path
from keyturn_cli.errors import Forbidden, NotFound
from keyturn_receiver.core.argo_rollouts import lender
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, read_consumer
from keyturn_receiver.core.crash_loop import crash_reason, is_of_rollout
from keyturn_receiver.core.pod import Pod, read_pod
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.unrestarted import Reader, read_cron_job, read_running_pod
from keyturn_receiver.core.workload_kinds import CRON_JOB, ROLLOUT, WORKLOAD_KINDS

_RUNNING = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}


@dataclass(slots=True)
class Listing:
    """The found workloads, and the kinds that the caller may not list. ``denied`` are built-in kinds. ``denied_custom``
    are kinds of custom resources. Keyturn restarts these only if its settings say so. ``borrowers`` has, for each
    workload, the Argo Rollouts that take their pod template from it."""

    consumers: list[Consumer] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    denied_custom: list[str] = field(default_factory=list)
    borrowers: dict[WorkloadRef, list[WorkloadRef]] = field(default_factory=dict)


def list_consumers(cluster: Cluster, namespace: str | None, reloader: ReloaderMode = ReloaderMode.ABSENT) -> Listing:
    """Return the workloads of a namespace, or of all namespaces, whose pods read Secrets, and the Argo Rollouts that
    take their pod template from another workload."""
    found = Listing()
    for kind in WORKLOAD_KINDS.values():
        try:
            for each in cluster.list(path(kind.group_version, kind.plural, namespace)):
                if consumer := read_consumer(kind, each, reloader):
                    found.consumers.append(consumer)
                if kind is ROLLOUT and (lent := lender(each)):
                    here, name = str(each["metadata"]["namespace"]), str(each["metadata"]["name"])
                    borrower = WorkloadRef(kind.kind, here, name)
                    found.borrowers.setdefault(WorkloadRef(lent[0], here, lent[1]), []).append(borrower)
        except NotFound:
            continue  # the cluster does not have the definition of this custom resource
        except Forbidden:
            (found.denied_custom if kind.is_custom else found.denied).append(kind.plural)
    return found


def list_readers(cluster: Cluster, namespace: str) -> tuple[list[Reader], list[str]]:
    """Return the pods and CronJobs of a namespace, and the kinds that the caller may not list. A pod is left out if its
    controller is of a kind that Keyturn restarts. The pods of a Deployment are not left out, because their controller
    is a ReplicaSet."""
    readers: list[Reader] = []
    denied: list[str] = []
    try:
        listed = cluster.list(path(CRON_JOB.group_version, CRON_JOB.plural, namespace))
        readers += (read_cron_job(each) for each in listed)
    except Forbidden:
        denied.append(CRON_JOB.plural)
    try:
        pods = cluster.list(path("v1", "pods", namespace), _RUNNING)
        readers += (reader for each in pods if (reader := read_running_pod(each)))
    except Forbidden:
        denied.append("pods")
    return readers, denied


def pods_of(cluster: Cluster, consumer: Consumer, borrowers: Sequence[WorkloadRef] = ()) -> Iterator[Pod]:
    """Yield the pods of a workload, without the pods that have ended. ``borrowers`` are the Argo Rollouts that take
    their pod template from the workload. Their pods are included."""
    for pod, _ in _pods_of(cluster, consumer, borrowers):
        yield pod


def crash_of(cluster: Cluster, consumer: Consumer, borrowers: Sequence[WorkloadRef], now: float) -> str:
    """Return why a new pod of a workload's rollout fails to start again and again, or an empty text. ``now`` is in
    seconds since 1970."""
    new = (obj for pod, obj in _pods_of(cluster, consumer, borrowers) if is_of_rollout(pod, consumer))
    return next(filter(None, (crash_reason(obj, now, False) for obj in new)), "")


def _pods_of(
    cluster: Cluster, consumer: Consumer, borrowers: Sequence[WorkloadRef]
) -> Iterator[tuple[Pod, dict[str, Any]]]:
    owners = (consumer.ref, *borrowers)
    for each in cluster.list(path("v1", "pods", consumer.ref.namespace), _RUNNING):
        found = (read_pod(each, owner, consumer.uid) for owner in owners)
        if pod := next(filter(None, found), None):
            yield pod, each
