"""Cache of the objects that a command reads from one cluster: workloads, other readers, and annotations of
namespaces. What the caller may not read becomes a note."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keyturn_cli.cluster import Cluster, path
from keyturn_cli.errors import Forbidden
from keyturn_cli.release import Settings
from keyturn_cli.workloads import crash_of, list_consumers, list_readers, pods_of
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.unrestarted import Reader
from keyturn_receiver.core.workload_kinds import ROLLOUT


@dataclass(slots=True)
class Sight:
    """The objects that were read so far. Each of them is read only once.

    ``notes`` say which objects the caller may not read. The answer leaves these objects out. ``denied`` are the rights
    to workloads and namespaces that the caller does not have. ``hides_workloads`` is true if one of them is a right to
    workloads. The notes and the rights are in the order of the reads.
    """

    cluster: Cluster
    settings: Settings
    notes: dict[str, None] = field(default_factory=dict)
    denied: dict[str, None] = field(default_factory=dict)
    hides_workloads: bool = False
    _consumers: dict[str, Sequence[Consumer]] = field(default_factory=dict)
    _readers: dict[str, Sequence[Reader]] = field(default_factory=dict)
    _borrowers: dict[WorkloadRef, list[WorkloadRef]] = field(default_factory=dict)
    _annotations: dict[str, Mapping[str, str] | None] = field(default_factory=dict)

    def consumers(self, namespace: str) -> Sequence[Consumer]:
        """Return the workloads of a namespace whose pods read Secrets."""
        if namespace not in self._consumers:
            listing = list_consumers(self.cluster, namespace, self.settings.reloader)
            has_argo = self.settings.argo_rollouts
            denied = [*listing.denied, *(listing.denied_custom if has_argo else ())]
            self._deny(denied, namespace)
            self.hides_workloads |= bool(denied)
            self.denied |= dict.fromkeys(f"list {each} in namespace {namespace}" for each in denied)
            found = [each for each in listing.consumers if has_argo or each.ref.kind != ROLLOUT.kind]
            self._consumers[namespace] = found
            self._borrowers |= listing.borrowers if has_argo else {}
        return self._consumers[namespace]

    def readers(self, namespace: str) -> Sequence[Reader]:
        """Return the pods and CronJobs of a namespace. A pod is left out if its controller is of a kind that Keyturn
        restarts. The pods of a Deployment are not left out, because their controller is a ReplicaSet."""
        if namespace not in self._readers:
            self._readers[namespace], denied = list_readers(self.cluster, namespace)
            self._deny(denied, namespace)
        return self._readers[namespace]

    def annotations(self, namespace: str) -> Mapping[str, str] | None:
        """Return the annotations of a namespace, or None if the caller may not read them."""
        if namespace not in self._annotations:
            self._annotations[namespace] = self._read_annotations(namespace)
        return self._annotations[namespace]

    def _read_annotations(self, namespace: str) -> Mapping[str, str] | None:
        try:
            metadata = as_object(self.cluster.get(path("v1", "namespaces", name=namespace)).get("metadata"))
        except Forbidden:
            self.denied[f"get namespace {namespace}"] = None
            self.notes[
                f"you may not read the annotations of namespace {namespace}: whether they turn restarts on or off, or"
                " set a window for them, is not checked"
            ] = None
            return None
        return {name: str(text) for name, text in as_object(metadata.get("annotations")).items()}

    def pods(self, consumer: Consumer) -> Sequence[Pod] | None:
        """Return the pods of a workload, or None if the caller may not list them. They are not kept. The pods of Argo
        Rollouts that take their pod template from the workload are included, if ``consumers`` has found them."""
        try:
            return list(pods_of(self.cluster, consumer, self._borrowers.get(consumer.ref, ())))
        except Forbidden:
            self._deny(["pods"], consumer.ref.namespace)
            return None

    def crash_reason(self, consumer: Consumer, now: float) -> str:
        """Return why the new pods of a workload crash (``core/crash_loop.py``), or an empty text. It is also empty if
        the caller may not list the pods. ``now`` is in seconds since 1970."""
        try:
            return crash_of(self.cluster, consumer, self._borrowers.get(consumer.ref, ()), now)
        except Forbidden:
            self._deny(["pods"], consumer.ref.namespace)
            return ""

    def _deny(self, what: Sequence[str], namespace: str) -> None:
        for each in what:
            self.notes[f"you may not read {each} of namespace {namespace}: the answer leaves them out"] = None
