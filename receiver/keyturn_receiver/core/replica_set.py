"""ReplicaSets of workloads. The pods of a Deployment or of an Argo Rollout belong to ReplicaSets, and a pod names only
its ReplicaSet.

The name of a ReplicaSet is the name of its workload, a hyphen, and a hash of the pod template. The pods have this hash
in a label.
"""

from collections.abc import Mapping

from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind

# If the name of a ReplicaSet would be longer, Kubernetes cuts the end of the workload's name. It never cuts the hash.
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
MAX_REPLICA_SET_NAME = 253


def workload_of(replica_set: str, labels: Mapping[str, object]) -> tuple[WorkloadKind, str] | None:
    """Return the kind and the name of the workload that a ReplicaSet was made for, according to a label of its pods.
    Return None if the pods have no such label. If the name of the ReplicaSet was cut, the returned name is only the
    beginning of the workload's name (``is_name_of``)."""
    for kind in WORKLOAD_KINDS.values():
        label = labels.get(kind.hash_label) if kind.hash_label else None
        if label and replica_set.endswith(f"-{label}"):
            return kind, replica_set.removesuffix(f"-{label}")
    return None


def is_name_of(name: str, found: str, replica_set: str) -> bool:
    """Return whether ``name`` is the name of the workload that a ReplicaSet was made for. ``found`` is the name that
    ``workload_of`` returns. If the name of the ReplicaSet was cut, a name that begins with ``found`` is enough."""
    return name == found or (is_cut(replica_set) and name.startswith(found))


def is_cut(replica_set: str) -> bool:
    """Return whether the name of a ReplicaSet may have only the beginning of its workload's name."""
    return len(replica_set) >= MAX_REPLICA_SET_NAME
