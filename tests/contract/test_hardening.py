"""Each row of docs/hardening.md, checked against the manifests that the real Helm renders."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.kubernetes.chart import chart_objects, chart_rights
from support.chart_values import EVERYTHING, EXCLUSIVE

PAGE = (Path(__file__).parents[2] / "docs" / "hardening.md").read_text()
# These values replace settings of the chart, so their security is up to the person who sets them.
YOURS = (
    "podSecurityContext",
    "securityContext",
    "extraEnv",
    "extraEnvFrom",
    "extraVolumes",
    "extraVolumeMounts",
    "extraObjects",
)
OURS = {name: value for name, value in EVERYTHING.items() if name not in YOURS}
RENDERINGS = {"defaults": chart_objects("keyturn"), "everything": chart_objects("keyturn", OURS)}
POLICIES = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
BEYOND = {"ClusterRole", "ClusterRoleBinding", "PriorityClass", *POLICIES}

Objects = list[Any]


def pods(objects: Objects) -> list[Any]:
    """Return the pod specifications of the receivers and of `helm test`."""
    found = [each["spec"]["template"]["spec"] for each in of("Deployment", objects)]
    return found + [each["spec"] for each in of("Pod", objects)]


def containers(objects: Objects) -> Iterator[Any]:
    for pod in pods(objects):
        yield from pod["containers"]
        yield from pod.get("initContainers", [])


def contexts(objects: Objects) -> list[Any]:
    """Return the security contexts of all pods and containers."""
    return [each["securityContext"] for each in [*pods(objects), *containers(objects)]]


def of(kind: str, objects: Objects) -> Objects:
    return [each for each in objects if each["kind"] == kind]


def probes(objects: Objects) -> Iterator[Any]:
    for container in containers(objects):
        assert "lifecycle" not in container
        yield from (
            container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in container
        )


POD_SECURITY: dict[str, Callable[[Objects], bool]] = {
    "HostProcess": lambda objects: not any("windowsOptions" in each for each in contexts(objects)),
    "Host namespaces": lambda objects: (
        not any(pod.get(name) for pod in pods(objects) for name in ("hostNetwork", "hostPID", "hostIPC"))
    ),
    "Privileged containers": lambda objects: not any(each.get("privileged") for each in contexts(objects)),
    "Capabilities": lambda objects: all(
        each["securityContext"]["capabilities"] == {"drop": ["ALL"]} for each in containers(objects)
    ),
    "HostPath volumes": lambda objects: (
        not any("hostPath" in volume for pod in pods(objects) for volume in pod.get("volumes", []))
    ),
    "Host ports": lambda objects: (
        not any("hostPort" in port for each in containers(objects) for port in each.get("ports", []))
    ),
    "Probes and lifecycle hooks": lambda objects: all("host" not in each["httpGet"] for each in probes(objects)),
    "AppArmor": lambda objects: not any("appArmorProfile" in each for each in contexts(objects)),
    "SELinux": lambda objects: not any("seLinuxOptions" in each for each in contexts(objects)),
    "/proc mount type": lambda objects: not any("procMount" in each for each in contexts(objects)),
    "Seccomp": lambda objects: all(
        each["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"} for each in pods(objects)
    ),
    "Sysctls": lambda objects: not any("sysctls" in each for each in contexts(objects)),
    "Volume types": lambda objects: all(
        volume.keys() == {"name", "secret"} for pod in pods(objects) for volume in pod.get("volumes", [])
    ),
    "Privilege escalation": lambda objects: all(
        each["securityContext"]["allowPrivilegeEscalation"] is False for each in containers(objects)
    ),
    "Running as non-root": lambda objects: all(
        each["securityContext"]["runAsNonRoot"] is True for each in pods(objects)
    ),
    "Running as non-root user": lambda objects: all(
        each.get("runAsUser", 65532) == 65532 for each in contexts(objects)
    ),
}


def tokens_are_protected(objects: Objects) -> bool:
    (receiver,) = (each["spec"]["template"]["spec"] for each in of("Deployment", objects))
    (test,) = (each["spec"] for each in of("Pod", objects))
    (account,) = of("ServiceAccount", objects)
    mounts = [each["automountServiceAccountToken"] for each in (receiver, test, account)]
    return mounts == [True, False, False]


def privileges_are_least(objects: Objects) -> bool:
    """Return whether no rule contains a wildcard. test_rbac.py and the tests of fault S7 (docs/faults.md)
    check the verbs themselves."""
    rules = [rule for each in objects for rule in each.get("rules", []) if "verbs" in rule]
    return bool(rules) and not any("*" in [*each["verbs"], *each["resources"], *each["apiGroups"]] for each in rules)


def network_is_closed(objects: Objects) -> bool:
    (policy,) = of("NetworkPolicy", objects)
    (deployment,) = of("Deployment", objects)
    spec = policy["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selected = spec["podSelector"]["matchLabels"].items() <= labels.items()
    rules = [*spec["ingress"], *spec["egress"]]
    return selected and spec["policyTypes"] == ["Ingress", "Egress"] and all(rule.get("ports") for rule in rules)


def metadata_is_out_of_reach(objects: Objects) -> bool:
    """Return whether no rule lets a pod reach the credentials of its node. The instance serves them on port 80."""
    (policy,) = of("NetworkPolicy", objects)
    for rule in policy["spec"]["egress"]:
        blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
        http = any(port["port"] == 80 for port in rule["ports"])
        if http and {each["cidr"] for each in blocks} != {"169.254.170.23/32", "fd00:ec2::23/128"}:
            return False
    return True


def only_deliveries_are_exposed(objects: Objects) -> bool:
    paths = [
        path for each in of("Ingress", objects) for rule in each["spec"]["rules"] for path in rule["http"]["paths"]
    ]
    exact = all((each["path"], each["pathType"]) == ("/v1/notifications", "Exact") for each in paths)
    for route in of("HTTPRoute", objects):
        matched = [match for rule in route["spec"]["rules"] for match in rule["matches"]]
        exact &= matched == [{"path": {"type": "Exact", "value": "/v1/notifications"}}]
    services = of("Service", objects)
    outward = [each for each in services if each["spec"].get("clusterIP") != "None"]
    ports = [port["targetPort"] for each in outward for port in each["spec"]["ports"]]
    return exact and ports == ["notifications"]


def no_private_key_is_in_the_environment(objects: Objects) -> bool:
    own = [
        each for container in containers(objects) for each in container["env"] if each["name"].startswith("KEYTURN_")
    ]
    return bool(own) and not any("valueFrom" in each for each in own) and "whsec_" not in str(own)


def resources_are_bounded(objects: Objects) -> bool:
    wanted = [each["resources"] for each in containers(objects)]
    return all("memory" in each["limits"] and each["requests"].keys() >= {"cpu", "memory"} for each in wanted)


def logs_go_to_standard_output(objects: Objects) -> bool:
    return all(
        mount.get("readOnly") for each in containers(objects) for mount in each.get("volumeMounts", [])
    ) and not any("args" in each and "log" in " ".join(each["args"]) for each in containers(objects))


def updates_leave_no_gap(objects: Objects) -> bool:
    (deployment,) = of("Deployment", objects)
    (budget,) = of("PodDisruptionBudget", objects)
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    return rolling == {"maxSurge": 1, "maxUnavailable": 0} and budget["spec"]["maxUnavailable"] == 1


def a_load_balancer_has_tls(objects: Objects) -> bool:
    """Return whether a load balancer's Service names its ports https, and each Ingress has a certificate."""
    ports = [
        port["name"]
        for each in of("Service", objects)
        if each["spec"].get("type") == "LoadBalancer"
        for port in each["spec"]["ports"]
    ]
    return set(ports) <= {"https"} and all(each["spec"].get("tls") for each in of("Ingress", objects))


GUIDE: dict[str, Callable[[Objects], bool]] = {
    "Non-root containers": POD_SECURITY["Running as non-root user"],
    "Immutable file systems": lambda objects: all(
        each["securityContext"]["readOnlyRootFilesystem"] is True for each in containers(objects)
    ),
    "Image pinned by digest": lambda objects: (
        objects is RENDERINGS["defaults"]
        or all(re.search(r"@sha256:[0-9a-f]{64}$", each["image"]) for each in containers(objects))
    ),
    "Protected service account tokens": tokens_are_protected,
    "Least privilege": privileges_are_least,
    "Separate namespaces": lambda objects: all(
        "namespace" in each["metadata"] for each in objects if each["kind"] not in BEYOND
    ),
    "Network policies": network_is_closed,
    "Cloud metadata out of reach": metadata_is_out_of_reach,
    "No service exposed by default": only_deliveries_are_exposed,
    "Encrypted traffic": a_load_balancer_has_tls,
    "Secrets not in the environment": no_private_key_is_in_the_environment,
    "Resource limits": resources_are_bounded,
    "Audit and logs": logs_go_to_standard_output,
    "Updates without gaps": updates_leave_no_gap,
}


def rows(heading: str) -> list[str]:
    """Return the first cell of each row in the table under a heading."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")][1:]


def test_rows_of_the_page_equal_the_checks() -> None:
    assert rows("Pod Security Standards") == list(POD_SECURITY)
    assert rows("NSA and CISA") == list(GUIDE)


@pytest.mark.parametrize("rendering", RENDERINGS)
@pytest.mark.parametrize("item", POD_SECURITY | GUIDE)
def test_chart_meets_the_requirement(item: str, rendering: str) -> None:
    assert (POD_SECURITY | GUIDE)[item](RENDERINGS[rendering])


def test_default_service_is_a_cluster_ip_without_an_ingress() -> None:
    assert [each["spec"]["type"] for each in of("Service", RENDERINGS["defaults"])] == ["ClusterIP"]
    assert of("Ingress", RENDERINGS["defaults"]) == []


def test_nothing_leads_to_receivers_without_deliveries() -> None:
    objects = chart_objects("keyturn", EXCLUSIVE["poller alone"])
    assert not {"Service", "Ingress", "HTTPRoute"} & {each["kind"] for each in objects}
    (policy,) = of("NetworkPolicy", objects)
    assert (policy["spec"]["policyTypes"], policy["spec"]["ingress"]) == (["Ingress", "Egress"], [])
    (deployment,) = of("Deployment", objects)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == ["operations"]
    (role,) = of("Role", objects)
    assert [rule.get("resourceNames") for rule in role["rules"]] == [None, ["keyturn-poller"], ["keyturn-record-key"]]
    assert [each["metadata"]["name"] for each in of("Lease", objects)] == ["keyturn-poller"]


def test_metrics_stay_the_only_way_in_without_deliveries() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    scraped = {"metrics": {"serviceMonitor": {"enabled": True}}, "networkPolicy": {"operationsFrom": [peer]}}
    objects = chart_objects("keyturn", {**EXCLUSIVE["poller alone"], **scraped})
    assert [each["metadata"]["name"] for each in of("Service", objects)] == ["keyturn-metrics"]
    (policy,) = of("NetworkPolicy", objects)
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "operations", "protocol": "TCP"}], "from": [peer]}]


def test_rights_stay_within_the_named_namespaces() -> None:
    kinds = {each["kind"] for each in chart_rights("keyturn", {"namespaces": ["team-a"]})}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
