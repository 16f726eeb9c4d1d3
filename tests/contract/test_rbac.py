"""The rights that the chart gives, as the real Helm renders them, against what the code asks for."""

import ast
import re
from pathlib import Path

import yaml

from keyturn_local.cluster import rendered_chart
from keyturn_receiver.cluster.workloads import RESOURCES

RECEIVER = Path(__file__).parents[2] / "receiver" / "keyturn_receiver"

# What the code does, by the place that does it. A new kind of request must be added here, and to the chart.
USED = {
    ("", "secrets"): {"get", "list", "watch", "patch"},  # cluster/secrets.py, and its reflector in app.py
    ("", "namespaces"): {"list", "watch"},  # its reflector
    ("", "events"): {"create", "patch"},  # cluster/events.py
    **{("apps", resource): {"get", "list", "watch", "patch"} for resource in RESOURCES.values()},
    ("coordination.k8s.io", "leases"): {"get", "create", "update"},  # cluster/lease.py, by the official client
}


def granted() -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for manifest in rendered_chart("keyturn").values():
        for obj in yaml.safe_load_all(manifest):
            if obj and obj["kind"] in ("Role", "ClusterRole"):
                for rule in obj["rules"]:
                    for group in rule["apiGroups"]:
                        for resource in rule["resources"]:
                            found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_no_right_is_missing_and_none_is_spare() -> None:
    assert granted() == USED


def test_no_right_is_granted_by_wildcard() -> None:
    assert "*" not in str(granted())


def test_the_code_asks_for_no_other_kind_of_object() -> None:
    asked = set()
    for file in RECEIVER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_path = isinstance(node, ast.Call) and ast.unparse(node.func).removeprefix("kubernetes.") == "path"
            if is_path and isinstance(node.args[0], ast.Constant):
                group = node.args[0].value.rpartition("/")[0]
                resource = ast.unparse(node.args[1])
                asked |= {(group, each) for each in ([resource.strip("'")] if "'" in resource else RESOURCES.values())}
    assert asked == USED.keys() - {("coordination.k8s.io", "leases")}


def test_the_lease_is_in_the_receivers_own_namespace_only() -> None:
    text = "".join(rendered_chart("elsewhere").values())
    cluster_role = re.search(r"kind: ClusterRole\n.*?(?=^---)", text, re.DOTALL | re.MULTILINE)
    assert cluster_role is not None
    assert "leases" not in cluster_role[0]
