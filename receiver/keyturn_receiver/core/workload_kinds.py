"""The kinds of workloads whose pods Keyturn restarts. A new kind needs an entry here, and permissions in the chart."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadKind:
    """A kind of workload. ``template`` is the path of the pod template in the object.

    ``has_on_delete`` is true if ``spec.updateStrategy`` can be OnDelete. With that strategy, a changed template
    restarts no pod. ``is_custom`` is true if the kind comes from a custom resource definition (CRD), which the cluster
    may lack. ``has_restart_at`` is true if pods older than ``spec.restartAt`` are restarted.
    """

    kind: str
    group_version: str
    plural: str
    template: tuple[str, ...] = ("spec", "template")
    has_on_delete: bool = False
    is_custom: bool = False
    has_restart_at: bool = False

    @property
    def group(self) -> str:
        """The API group, as RBAC rules name it."""
        return self.group_version.rpartition("/")[0]


# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
WORKLOAD_KINDS: Mapping[str, WorkloadKind] = {
    row.kind: row
    for row in (
        WorkloadKind("Deployment", "apps/v1", "deployments"),
        WorkloadKind("StatefulSet", "apps/v1", "statefulsets", has_on_delete=True),
        WorkloadKind("DaemonSet", "apps/v1", "daemonsets", has_on_delete=True),
        # https://argo-rollouts.readthedocs.io/en/stable/features/specification/
        WorkloadKind("Rollout", "argoproj.io/v1alpha1", "rollouts", is_custom=True, has_restart_at=True),
    )
}
