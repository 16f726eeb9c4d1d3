"""charts/keyturn as data. The real Helm renders it. No cluster is needed."""

from collections.abc import Mapping
from typing import Any

import helm_python
import yaml

from keyturn_local.paths import ROOT

CHART = ROOT / "charts" / "keyturn"
SOME_KEY = {"signingKey": {"secretId": "keyturn/signing-key"}}  # the chart cannot be rendered without a signing key
# Suffixes of kinds: "Role" also matches ClusterRole, and "RoleBinding" also matches ClusterRoleBinding. The chart's
# only Secret is the one for the record key.
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "Secret")


def rendered_chart(namespace: str, release: str = "keyturn", values: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Render charts/keyturn with the real Helm. Return the text of each template (including NOTES.txt) by the
    template's path."""
    with helm_python.Chart.load(str(CHART)) as chart:
        return dict(chart.render(dict(values or {}), name=release, namespace=namespace))


def chart_objects(namespace: str, values: Mapping[str, Any] | None = None) -> list[Any]:
    """Return all objects of the chart, including the pod for `helm test`."""
    rendered = rendered_chart(namespace, values={**SOME_KEY, **(values or {})})
    manifests = (text for template, text in rendered.items() if template.endswith(".yaml"))
    return [obj for manifest in manifests for obj in yaml.safe_load_all(manifest) if obj]


def chart_rights(namespace: str, values: Mapping[str, Any] | None = None) -> list[Any]:
    """Return the chart's ServiceAccount, roles, role bindings and Secret for the record key. A receiver that runs as a
    process needs these objects."""
    return [each for each in chart_objects(namespace, values) if each["kind"].endswith(RIGHTS)]
