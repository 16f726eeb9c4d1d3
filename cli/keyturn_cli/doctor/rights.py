"""The rights that the chart gives the receivers' ServiceAccount. Pure.

The chart's values decide which rights the chart grants (charts/keyturn/templates/rbac.yaml). The receiver's settings
show the values that matter here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyturn_cli.doctor.cluster_facts import Configuration
from keyturn_cli.doctor.finding import Finding, Unknown, error, ok, skipped, some
from keyturn_receiver.core.workload_kinds import CRON_JOB, WORKLOAD_KINDS


@dataclass(frozen=True, slots=True)
class Right:
    """The right to use one verb on one resource. ``namespace`` is empty if the right covers all namespaces, or if the
    resource is cluster-scoped. ``name`` is empty if the right covers all objects. ``subresource`` may be empty."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        kind += f"/{self.subresource}" if self.subresource else ""
        return (
            f"{self.verb} {kind}"
            + (f" {self.name}" if self.name else "")
            + (f" in {self.namespace}" if self.namespace else "")
        )


def required_rights(configuration: Configuration, namespace: str, release: str) -> Sequence[Right]:
    """Return the rights that the receivers of a release need. ``namespace`` is the namespace of the release.
    ``release`` is the first part of the names of the release's objects."""
    rights = [right for served in configuration.namespaces or ("",) for right in _served(configuration, served)]
    leases = [f"{release}-poller", *([f"{release}-event-path"] if configuration.takes_deliveries else [])]
    rights.append(Right("create", "coordination.k8s.io", "leases", namespace))
    rights += [Right(verb, "coordination.k8s.io", "leases", namespace, name) for name in leases for verb in _LEASE]
    rights += [Right(verb, "", "secrets", namespace, f"{release}-record-key") for verb in ("get", "patch")]
    return rights


_LEASE = ("get", "update")
_WATCHED = ("get", "list", "watch", "patch")


def _served(configuration: Configuration, namespace: str) -> Iterator[Right]:
    """Yield the rights in one served namespace, or in all namespaces if ``namespace`` is empty."""

    def rights(group: str, resource: str, *verbs: str, subresource: str = "") -> Iterator[Right]:
        return (Right(verb, group, resource, namespace, subresource=subresource) for verb in verbs)

    deletes = ("delete",) if configuration.is_on("KEYTURN_DELETIONS", False) else ()
    yield from rights("", "secrets", *_WATCHED, *deletes)
    if namespace:  # a Role can grant ``get`` on its own Namespace, but not ``list`` or ``watch``
        yield Right("get", "", "namespaces", namespace, namespace)
    else:
        yield from rights("", "namespaces", "get", "list", "watch")
    yield from rights("", "events", "create", "patch")
    if configuration.is_on("KEYTURN_ROLLOUTS", True):
        for kind in WORKLOAD_KINDS.values():
            if not kind.is_custom or configuration.is_on("KEYTURN_ARGO_ROLLOUTS", False):
                yield from rights(kind.group, kind.plural, *_WATCHED)
        yield from rights("", "pods", "list")
        if configuration.is_on("KEYTURN_REPORT_READERS", True):
            yield from rights(CRON_JOB.group, CRON_JOB.plural, "list")
    if configuration.is_on("KEYTURN_TENANT_ROLES", False):
        yield from rights("", "serviceaccounts", "get")
        yield from rights("", "serviceaccounts", "create", subresource="token")


def check_rights(missing: tuple[str, ...] | Unknown) -> Finding:
    """Check that the receivers have every right that the chart grants. ``missing`` are the rights that they do not
    have."""
    if isinstance(missing, Unknown):
        return skipped("RBAC of the chart", missing)
    if missing:
        return error(
            f"RBAC: the receivers may not {some(missing)}", "helm upgrade restores the chart's roles and their bindings"
        )
    return ok("RBAC of the chart, all verbs")
