"""The rights that the chart grants when the real Helm renders it, compared with the requests in the code."""

import ast
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from keyturn_local.kubernetes.chart import chart_rights
from keyturn_receiver.core.workload_kinds import CRON_JOB, WORKLOAD_KINDS

RECEIVER = Path(__file__).parents[2] / "receiver" / "keyturn_receiver"

# The rights that the code needs, each with the module that needs it. A new kind of request has to be added both here
# and to the chart.
LEASES = {("coordination.k8s.io", "leases"): {"get", "create", "update"}}  # cluster/lease.py, cluster/event_path.py
EVERYWHERE = {
    ("", "secrets"): {"get", "list", "watch", "patch"},  # cluster/secret_client.py and its reflector
    ("", "events"): {"create", "patch"},  # cluster/event_recorder.py
}
# cluster/workload_client.py and the reflectors of the workloads
WORKLOADS, CUSTOM = (
    {
        (kind.group, kind.plural): {"get", "list", "watch", "patch"}
        for kind in WORKLOAD_KINDS.values()
        if kind.is_custom is custom
    }
    for custom in (False, True)
)
READERS = {(CRON_JOB.group, CRON_JOB.plural): {"list"}}  # cluster/reader_client.py, which also lists pods
ROLLOUTS = {**WORKLOADS, ("", "pods"): {"list"}, **READERS}  # cluster/workload_client.py
RECORD_KEY = {("", "secrets"): {"get", "patch"}}  # cluster/record_key.py
DELETIONS = {("", "secrets"): {*EVERYWHERE["", "secrets"], "delete"}}  # reconcile/deletion.py
# The reflector of cluster/namespace_cache.py, and its reader.
ALL_NAMESPACES = {("", "namespaces"): {"get", "list", "watch"}}
# The poller of cluster/namespace_cache.py needs only this, because a Role cannot grant a watch on Namespaces.
FEW_NAMESPACES = {("", "namespaces"): {"get"}}
TENANT_ROLES = {("", "serviceaccounts"): {"get"}, ("", "serviceaccounts/token"): {"create"}}  # ServiceAccountClient

# The switches that grant further rights, and the rights that each of them grants.
EVICT = {("", "pods/eviction"): {"create"}}  # cluster/workload_client.py
SWITCHES = {"rollouts": ROLLOUTS, "deletions": DELETIONS, "tenantRoles": TENANT_ROLES}
NAMESPACES: dict[str, list[str]] = {"all namespaces": [], "few namespaces": ["team-a", "team-b"]}
MODES = {
    ", ".join([where, *on]): (
        {"namespaces": namespaces, **{name: {"enabled": name in on} for name in SWITCHES}},
        {
            **EVERYWHERE,
            **(FEW_NAMESPACES if namespaces else ALL_NAMESPACES),
            **{kind: verbs for name in on for kind, verbs in SWITCHES[name].items()},
        },
    )
    for where, namespaces in NAMESPACES.items()
    for number in range(len(SWITCHES) + 1)
    for on in combinations(SWITCHES, number)
}


def rights(role: Any) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize(("values", "used"), MODES.values(), ids=MODES)
def test_granted_rights_equal_the_used_ones(values: dict[str, Any], used: dict[tuple[str, str], set[str]]) -> None:
    roles = {
        (each["kind"], each["metadata"].get("namespace")): rights(each)
        for each in chart_rights("keyturn", values)
        if each["kind"] in ("Role", "ClusterRole")
    }
    assert roles.pop(("Role", "keyturn")) == LEASES | RECORD_KEY
    served = [("Role", name) for name in values.get("namespaces", [])] or [("ClusterRole", None)]
    assert roles == dict.fromkeys(served, used)


@pytest.mark.parametrize(("values", "used"), MODES.values(), ids=MODES)
def test_role_is_bound_to_the_receiver_alone(values: dict[str, Any], used: object) -> None:
    made = chart_rights("keyturn", values)
    names = {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in made}
    bindings = [each for each in made if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    for each in bindings:
        assert each["subjects"] == [{"kind": "ServiceAccount", "name": "keyturn", "namespace": "keyturn"}]
        assert (each["roleRef"]["kind"], each["metadata"].get("namespace"), each["roleRef"]["name"]) in names
    assert len(bindings) == len([each for each in made if each["kind"] in ("Role", "ClusterRole")])


@pytest.mark.parametrize(("values", "used"), MODES.values(), ids=MODES)
def test_rights_contain_no_wildcard(values: dict[str, Any], used: object) -> None:
    assert "*" not in yaml.safe_dump_all(each for each in chart_rights("keyturn", values) if "Role" in each["kind"])


@pytest.mark.parametrize("namespaces", NAMESPACES.values(), ids=NAMESPACES)
def test_custom_kinds_are_granted_where_they_are_switched_on(namespaces: list[str]) -> None:
    def given(**rollouts: bool) -> list[dict[tuple[str, str], set[str]]]:
        made = chart_rights("keyturn", {"namespaces": namespaces, "rollouts": rollouts})
        places = [*namespaces, None]
        roles = [each for each in made if each["kind"].endswith("Role") and each["metadata"].get("namespace") in places]
        return [rights(each) for each in roles]

    alone = given()
    assert len(alone) == (len(namespaces) or 1)
    assert all(CUSTOM.keys().isdisjoint(each) for each in alone)
    assert given(argoRollouts=True) == [{**each, **CUSTOM} for each in alone]
    assert given(argoRollouts=True, enabled=False) == given(enabled=False)


def test_pods_are_evicted_only_if_the_chart_says_so() -> None:
    for on in (True, False):
        made = chart_rights("keyturn", {"rollouts": {"enabled": on, "evict": True}})
        (role,) = (each for each in made if each["kind"] == "ClusterRole")
        more = ROLLOUTS | EVICT if on else {}
        assert rights(role) == EVERYWHERE | ALL_NAMESPACES | more


def test_default_rights_delete_nothing_and_make_no_token() -> None:
    given: dict[tuple[str, str], set[str]] = {}
    for each in chart_rights("keyturn"):
        for kind, verbs in rights(each).items() if "rules" in each else ():
            given.setdefault(kind, set()).update(verbs)
    assert given == EVERYWHERE | ALL_NAMESPACES | ROLLOUTS | LEASES
    assert RECORD_KEY["", "secrets"] <= EVERYWHERE["", "secrets"]


def test_right_to_cron_jobs_ends_with_the_report_of_readers() -> None:
    for each in chart_rights("keyturn", {"rollouts": {"reportReaders": False}}):
        if each["kind"] == "ClusterRole":
            assert rights(each) == EVERYWHERE | ALL_NAMESPACES | WORKLOADS | {("", "pods"): {"list"}}


def test_leases_and_secrets_of_others_in_the_own_namespace_are_neither_read_nor_written() -> None:
    (role,) = (each for each in chart_rights("keyturn") if each["kind"] == "Role")
    names = {"leases": ["keyturn-poller", "keyturn-event-path"], "secrets": ["keyturn-record-key"]}
    for rule in role["rules"]:
        (resource,) = rule["resources"]
        assert (resource, rule["verbs"]) == ("leases", ["create"]) or rule["resourceNames"] == names[resource]


def test_code_requests_no_other_kind_of_object() -> None:
    asked = set()
    for file in RECEIVER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).removeprefix("kubernetes.")
            # The code names a kind of object in a call of `path(...)` for a request, or of `reflect(...)` for a
            # reflector.
            if name not in ("path", "reflect"):
                continue
            group_version, resource = (ast.unparse(argument) for argument in node.args[:2])
            if (group_version, resource) == ("kind.group_version", "kind.plural"):
                asked |= WORKLOADS.keys() | CUSTOM.keys()
            elif (group_version, resource) == ("CRON_JOB.group_version", "CRON_JOB.plural"):
                asked |= READERS.keys()
            elif group_version != "group_version":  # `reflect` passes its own parameter on to `path`
                group = GROUPS.get(group_version, group_version.strip("'"))
                asked.add((group.rpartition("/")[0], ast.literal_eval(resource)))
    used = EVERYWHERE | ALL_NAMESPACES | ROLLOUTS | CUSTOM | TENANT_ROLES | LEASES
    assert asked == {(group, resource.partition("/")[0]) for group, resource in used}


GROUPS = {"_LEASES": "coordination.k8s.io/v1"}
