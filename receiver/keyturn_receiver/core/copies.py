"""Copies: Secrets that another controller makes from a Secret or a template, with the label and the annotations of the
original.

Keyturn leaves them alone, because that controller would overwrite what Keyturn writes. The names below come from each
controller's documentation or source code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.json_access import as_object, as_objects

# Annotations that a controller writes on a copy, or that people write to ask for a copy. The value of an annotation in
# _ORIGINS names the original.
_ANNOTATIONS: Mapping[str, str] = {
    # https://github.com/mittwald/kubernetes-replicator
    "replicator.v1.mittwald.de/replicate-from": "kubernetes-replicator",
    "replicator.v1.mittwald.de/replicated-from": "kubernetes-replicator",
    "replicator.v1.mittwald.de/replicated-from-version": "kubernetes-replicator",
    "k8s-replicator/replicate-from": "k8s-replicator",  # https://github.com/olli-ai/k8s-replicator
    "reflector.v1.k8s.emberstack.com/reflects": "Reflector",  # https://github.com/emberstack/kubernetes-reflector
    "kubed.appscode.com/origin": "Config Syncer (kubed)",  # https://github.com/config-syncer/config-syncer
    "management.cattle.io/project-scoped-secret-copy": "Rancher (project-scoped Secret)",
    "vcluster.loft.sh/object-uid": "vCluster",
}
_LABELS: Mapping[str, str] = {
    "kubed.appscode.com/origin.name": "Config Syncer (kubed)",
    "hnc.x-k8s.io/inherited-from": "Hierarchical Namespaces",
    "generate.kyverno.io/source-uid": "Kyverno",  # on a clone; a Secret from the `data` of a policy has no source
}
_ORIGINS = frozenset(
    {
        "replicator.v1.mittwald.de/replicate-from",
        "replicator.v1.mittwald.de/replicated-from",
        "k8s-replicator/replicate-from",
        "reflector.v1.k8s.emberstack.com/reflects",
    }
)
# Controllers that own the Secrets that they fill. The key is the API group in the owner reference of such a Secret.
_OWNERS: Mapping[str, str] = {
    "external-secrets.io": "External Secrets Operator",
    "secrets.hashicorp.com": "Vault Secrets Operator",
    "bitnami.com": "Sealed Secrets",
}


@dataclass(frozen=True, slots=True)
class Copy:
    """The controller that has made a Secret, and the original if the Secret names it."""

    controller: str
    origin: str = ""

    def __str__(self) -> str:
        return f"made by {self.controller}" + (f" from {self.origin}" if self.origin else "")


def copy_of(metadata: Mapping[str, object]) -> Copy | None:
    """Return the controller that has made this Secret as a copy, and the original. Return None if the Secret is not a
    copy."""
    annotations, labels = as_object(metadata.get("annotations")), as_object(metadata.get("labels"))
    for name, controller in _ANNOTATIONS.items():
        if name in annotations:
            return Copy(controller, str(annotations[name])[:253] if name in _ORIGINS else "")
    for name, controller in _LABELS.items():
        if name in labels:
            return Copy(controller)
    for owner in as_objects(metadata.get("ownerReferences")):
        group = str(owner.get("apiVersion")).partition("/")[0]
        if owner.get("controller") and group in _OWNERS:
            return Copy(_OWNERS[group])
    return None
