"""The kinds of workloads whose pods Keyturn restarts. A new kind needs an entry here, and permissions in the chart."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class StatusForm(Enum):
    """The form of a workload's status. It decides how the progress of a rollout is read from the status."""

    UNKNOWN = 0
    REPLICAS = 1  # old and new pods, which run beside each other
    IDENTITIES = 2  # pods with fixed names; a new pod replaces the old pod of the same name
    NODES = 3  # one pod for each node
    PHASE = 4  # a phase, which the kind's own controller writes (``core/argo_progress.py``)


@dataclass(frozen=True, slots=True)
class WorkloadKind:
    """A kind of workload. ``template`` is the path of the pod template in the object.

    ``has_on_delete`` is true if ``spec.updateStrategy`` can be OnDelete. With that strategy, a changed template
    restarts no pod. ``status`` says which fields the status of the workload has. ``is_custom`` is true if the kind
    comes from a custom resource definition (CRD), which the cluster may lack. ``has_restart_at`` is true if the kind's
    controller restarts pods that are older than ``spec.restartAt``. ``hash_label`` is the label of the pods that has
    a hash of their template. It is empty if the pods belong to the workload itself, and not to its ReplicaSets
    (``core/replica_set.py``).
    """

    kind: str
    group_version: str
    plural: str
    template: tuple[str, ...] = ("spec", "template")
    has_on_delete: bool = False
    status: StatusForm = StatusForm.UNKNOWN
    is_custom: bool = False
    has_restart_at: bool = False
    hash_label: str = ""

    @property
    def group(self) -> str:
        """The API group, as RBAC rules name it."""
        return group_of(self.group_version)


# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
WORKLOAD_KINDS: Mapping[str, WorkloadKind] = {
    row.kind: row
    for row in (
        WorkloadKind(
            "Deployment", "apps/v1", "deployments", status=StatusForm.REPLICAS, hash_label="pod-template-hash"
        ),
        WorkloadKind("StatefulSet", "apps/v1", "statefulsets", has_on_delete=True, status=StatusForm.IDENTITIES),
        WorkloadKind("DaemonSet", "apps/v1", "daemonsets", has_on_delete=True, status=StatusForm.NODES),
        # https://argo-rollouts.readthedocs.io/en/stable/features/specification/
        WorkloadKind(
            "Rollout",
            "argoproj.io/v1alpha1",
            "rollouts",
            status=StatusForm.PHASE,
            is_custom=True,
            has_restart_at=True,
            hash_label="rollouts-pod-template-hash",
        ),
    )
}
ROLLOUT = WORKLOAD_KINDS["Rollout"]  # of Argo
# CronJobs need no restart, because the pods of the next run read the new value. They are only listed, and never
# watched.
CRON_JOB = WorkloadKind("CronJob", "batch/v1", "cronjobs", template=("spec", "jobTemplate", "spec", "template"))
REPLICA_SET = "ReplicaSet"
# The API group and version of each kind that Events may be about. Secrets, Namespaces and pods are left out.
GROUP_VERSIONS: Mapping[str, str] = {
    **{kind.kind: kind.group_version for kind in (*WORKLOAD_KINDS.values(), CRON_JOB)},
    REPLICA_SET: "apps/v1",
    "Job": "batch/v1",
}


def kind_of(reference: Mapping[str, object]) -> str:
    """Return the kind of the object that an owner reference names, or an empty text if it is not one of GROUP_VERSIONS.

    Other API groups have kinds with the same names, such as the StatefulSet of OpenKruise and the Job of Volcano. So
    the group has to be the same, too.
    """
    kind = str(reference.get("kind"))
    is_known = group_of(str(reference.get("apiVersion"))) == group_of(GROUP_VERSIONS.get(kind, ""))
    return kind if is_known and kind in GROUP_VERSIONS else ""


def group_of(group_version: str) -> str:
    """Return the API group of an ``apiVersion``. It is empty for the core group."""
    return group_version.rpartition("/")[0]
