"""Rollout holds: settings of a workload that keep a changed pod template from restarting some or all of its pods.

Kubernetes accepts the changed template without a message. So only these settings show that the pods keep the values
that they have read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.workload_kinds import WorkloadKind


@dataclass(frozen=True, slots=True)
class RolloutHold:
    """The reason why a changed template does not restart the pods. In a message, ``text`` follows the name of the
    workload, and says what to do. ``every_pod`` is true if the changed template restarts no pod at all.
    ``keeps_old_pods`` is true if pods keep an old value."""

    text: str
    every_pod: bool = True
    keeps_old_pods: bool = True


NO_REPLICAS = RolloutHold("has no replicas: there is no pod to restart", keeps_old_pods=False)
PAUSED = RolloutHold("is paused: its pods restart when you resume it (kubectl rollout resume)")
ON_DELETE = RolloutHold("updates only OnDelete: delete its pods to restart them")


def read_hold(kind: WorkloadKind, workload: Mapping[str, object]) -> RolloutHold | None:
    """Return the reason why a changed template cannot restart all pods of a workload. Return None if it restarts all of
    them.

    https://kubernetes.io/docs/concepts/workloads/controllers/
    """
    spec = as_object(workload.get("spec"))
    replicas = spec.get("replicas")
    if replicas == 0:
        return NO_REPLICAS
    if spec.get("paused") is True:
        return PAUSED
    if not kind.has_on_delete:
        return None
    strategy = as_object(spec.get("updateStrategy"))
    if strategy.get("type") == "OnDelete":
        return ON_DELETE
    partition = as_object(strategy.get("rollingUpdate")).get("partition")
    if not isinstance(partition, int) or partition <= 0:
        return None
    count = replicas if isinstance(replicas, int) else 1
    lower = f"lower spec.updateStrategy.rollingUpdate.partition, which is {partition}, to restart them"
    if partition >= count:
        return RolloutHold(f"keeps all of its pods: {lower}")
    kept = "its first pod" if partition == 1 else f"its first {partition} pods"
    return RolloutHold(f"keeps {kept}: {lower}", every_pod=False)
