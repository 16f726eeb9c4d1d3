"""Keyturn's Helm release in the cluster: its Deployment, and its settings for access and restarts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyturn_cli.cluster import Cluster, path
from keyturn_cli.errors import CliError, NotFound, Refused
from keyturn_cli.options import Release
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout_switch import Switch

PER_SECRET = 10  # the chart's default: at most this many unfinished rollouts of one Secret at a time
CHART = "keyturn"
COMPONENT, RECEIVER = "app.kubernetes.io/component", "receiver"
PART_OF, INSTANCE = "app.kubernetes.io/part-of", "app.kubernetes.io/instance"
MAX_SHOWN = 3  # an advice names at most this many releases


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the receiver that decide the effects of a rotation. The defaults are those of the chart.

    ``are_known`` is false if the settings could not be read, and the defaults are assumed.
    """

    policy_default: Default = Default.DENY
    rollouts: bool = True
    rollout_default: Switch = Switch.ENABLED
    reloader: ReloaderMode = ReloaderMode.ABSENT
    per_secret: int = PER_SECRET
    argo_rollouts: bool = False
    tenant_roles: bool = False
    namespaces: tuple[str, ...] = ()
    watch_secrets: bool = True
    are_known: bool = True


def read_settings(variables: Mapping[str, str]) -> Settings:
    """Read the settings from the environment variables of a receiver."""
    given = {name.removeprefix("KEYTURN_"): text for name, text in variables.items() if text}
    per_secret = given.get("MAX_UNFINISHED_PER_SECRET", "")
    return Settings(
        policy_default=Default.ALLOW if given.get("POLICY_DEFAULT") == Default.ALLOW else Default.DENY,
        rollouts=given.get("ROLLOUTS", "true") == "true",
        rollout_default=Switch.DISABLED if given.get("ROLLOUT_DEFAULT") == Switch.DISABLED else Switch.ENABLED,
        reloader=next((mode for mode in ReloaderMode if mode == given.get("RELOADER")), ReloaderMode.ABSENT),
        per_secret=int(per_secret) if per_secret.isdecimal() else PER_SECRET,
        argo_rollouts=given.get("ARGO_ROLLOUTS") == "true",
        tenant_roles=given.get("TENANT_ROLES") == "true",
        namespaces=tuple(given.get("NAMESPACES", "").replace(",", " ").split()),
        watch_secrets=given.get("WATCH_SECRETS", "true") == "true",
    )


def find_deployment(cluster: Cluster, release: Release) -> Mapping[str, Any]:
    """Return the Deployment of a release's receivers.

    If ``full_name`` is not known, the Deployment is found by the chart's labels (charts/keyturn/templates/_names.tpl),
    because its name may differ from the name of the release. Raises NotFound, and the other errors of ``Cluster``.
    """
    if release.full_name:
        deployment: Mapping[str, Any] = cluster.get(
            path("apps/v1", "deployments", release.namespace, release.full_name)
        )
        return deployment
    for each in _receivers(cluster, release.namespace, f"{INSTANCE}={release.name},{PART_OF}={CHART}"):
        return each
    raise NotFound(
        f"there is no release {release.name} of Keyturn in namespace {release.namespace}",
        "name the release: --release NAMESPACE/NAME (helm list -A)" + _present(cluster),
    )


def _receivers(cluster: Cluster, namespace: str | None, labels: str) -> Iterator[Mapping[str, Any]]:
    """Yield the Deployments of receivers with these labels, in a namespace or in all namespaces. Raises the errors of
    ``Cluster``."""
    for each in cluster.list(path("apps/v1", "deployments", namespace), {"labelSelector": labels}):
        # The chart puts the label for the component into the Deployment's selector, and not on the Deployment itself.
        selector = as_object(as_object(as_object(each.get("spec")).get("selector")).get("matchLabels"))
        if selector.get(COMPONENT) == RECEIVER:
            yield as_object(each)


def _present(cluster: Cluster) -> str:
    """Return the releases that the cluster has, for an advice. The text is empty if there are none, or if the caller
    may not list them."""
    try:
        receivers = _receivers(cluster, None, f"{PART_OF}={CHART}")
        metadata = [as_object(each.get("metadata")) for each in receivers]
    except CliError:
        return ""
    found = sorted(f"{each.get('namespace')}/{as_object(each.get('labels')).get(INSTANCE, '')}" for each in metadata)
    return f"; this cluster has {', '.join(found[:MAX_SHOWN])}" if found else ""


def prefix_of(release: Release, deployment: Mapping[str, Any] | None = None) -> str:
    """Return the prefix of the names of a release's objects. It is the name of the Deployment.

    If ``deployment`` is not given, the prefix is ``full_name``, or else the chart's default name for the release.
    """
    if deployment is not None and (name := as_object(deployment.get("metadata")).get("name")):
        return str(name)
    name = release.name if CHART in release.name else f"{release.name}-{CHART}"
    return release.full_name or name.replace(".", "-")[:50].removesuffix("-")


def settings_of(cluster: Cluster, release: Release) -> tuple[Settings, str]:
    """Return the settings of a release, and a note. The note is empty if the release can be read. Otherwise the
    settings are the chart's defaults, and the note says so."""
    try:
        deployment = find_deployment(cluster, release)
    except Refused as error:
        return Settings(
            are_known=False
        ), f"the chart's default settings are assumed, because the release cannot be read: {error}"
    pod = as_object(as_object(as_object(deployment.get("spec")).get("template")).get("spec"))
    variables = [each for container in as_objects(pod.get("containers")) for each in as_objects(container.get("env"))]
    return read_settings({str(each.get("name")): str(each.get("value", "")) for each in variables}), ""
