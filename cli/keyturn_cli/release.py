"""Keyturn's Helm release in the cluster: what its settings say about access and restarts."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_cli.cluster import Cluster, path
from keyturn_cli.errors import Refused
from keyturn_cli.options import Release
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout_switch import Switch

PER_SECRET = 10  # unfinished rollouts of one Secret
RECEIVER = "app.kubernetes.io/component=receiver"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the receiver that decide what a rotation does. The defaults are the chart's."""

    policy_default: Default = Default.DENY
    rollouts: bool = True
    rollout_default: Switch = Switch.ENABLED
    reloader: ReloaderMode = ReloaderMode.ABSENT
    per_secret: int = PER_SECRET
    argo_rollouts: bool = False
    tenant_roles: bool = False
    namespaces: tuple[str, ...] = ()


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
    )


def settings_of(cluster: Cluster, release: Release) -> tuple[Settings, str]:
    """Return the settings of a release, and a note if they could not be read, so that the chart's defaults are
    returned."""
    query = {"labelSelector": f"{RECEIVER},app.kubernetes.io/instance={release.name}"}
    try:
        found = list(cluster.list(path("apps/v1", "deployments", release.namespace), query))
    except Refused as error:
        return Settings(), f"the chart's default settings are assumed, because the release cannot be read: {error}"
    if not found:
        where = f"{release.namespace}/{release.name}"
        return Settings(), f"the chart's default settings are assumed: there is no release {where}; name it: --release"
    pod = as_object(as_object(as_object(found[0].get("spec")).get("template")).get("spec"))
    variables = [each for container in as_objects(pod.get("containers")) for each in as_objects(container.get("env"))]
    return read_settings({str(each.get("name")): str(each.get("value", "")) for each in variables}), ""
