"""S7: the chart and the IAM template grant exactly the rights that a receiver uses."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from keyturn_contract.message import EventType
from support.cluster_state import annotations_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Reply
from support.manifests import env_from, secret, workload
from support.wait import eventually

ROLE = Path(__file__).parents[2] / "infra" / "aws" / "receiver-role.yaml"
KINDS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
CALL = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<more>[^/]+))?"
)

Rights = Mapping[tuple[str, str, str], frozenset[str]]


def used(env: FaultEnv) -> Rights:
    """Return the verbs that the receiver used, by namespace (empty for all namespaces), API group and resource."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for call in env.kubernetes_proxy.calls:
        parts = CALL.fullmatch(call.path)
        assert parts, call.path
        verb = METHODS.get(call.method) or ("watch" if call.watch else "get" if parts["name"] else "list")
        resource = f"{parts['resource']}/{parts['more']}" if parts["more"] else parts["resource"]
        # RBAC treats a Namespace object as if it were in the namespace of that name.
        namespace = parts["name"] if parts["resource"] == "namespaces" else parts["namespace"]
        found[namespace or "", parts["group"] or "", resource].add(verb)
    return {where: frozenset(verbs) for where, verbs in found.items()}


def granted(env: FaultEnv) -> Rights:
    """Return the verbs that the chart's roles grant, by namespace (empty for a ClusterRole), API group and resource."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for each in env.chart_objects:
        if each["kind"] in ("Role", "ClusterRole"):
            for rule in each["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        where = each["metadata"].get("namespace", "") if each["kind"] == "Role" else ""
                        found[where, group, resource].update(rule["verbs"])
    return {where: frozenset(verbs) for where, verbs in found.items()}


def everywhere(rights: Rights, home: str) -> Rights:
    """Return the same rights, with every namespace except the receiver's own replaced by the empty one."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for (namespace, group, resource), verbs in rights.items():
        found[home if namespace == home else "", group, resource].update(verbs)
    return {where: frozenset(verbs) for where, verbs in found.items()}


class Conflicts:
    """Refuses the first restart of each workload, as if somebody had changed the workload in the meantime."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def __call__(self, call: Call) -> Fault:
        restart = call.method == "PATCH" and "/apis/apps/" in call.path and b"template" in call.body
        if not restart or call.path in self.refused:
            return None
        self.refused.add(call.path)
        return Reply(409, {"kind": "Status", "metadata": {}, "reason": "Conflict", "code": 409})


def restarts_all_kinds(env: FaultEnv) -> None:
    """Rotate, refuse the first attempt to restart a workload of each kind, and wait until all of them are restarted."""
    for kind in KINDS:
        eventually(
            lambda kind=kind: (
                "revision.keyturn.dev/db" in annotations_of(env.cluster, kind.lower(), env.namespace, kind.lower())
            )
        )
    env.kubernetes_proxy.fault_for = Conflicts()
    answer = env.send_until_accepted(env.rotate("db"))
    assert {each.partition("/")[0] for each in answer.results[0].consumers} <= set(KINDS)
    for kind in KINDS:
        eventually(lambda kind=kind: "revision.keyturn.dev/db" in template_annotations(env, kind))
    # If a consumer is older than the Secret's last change and has lost its marks, the receiver looks at its pods.
    annotations = {"annotations": {"revision.keyturn.dev/db": None}}
    patch = json.dumps({"metadata": annotations, "spec": {"template": {"metadata": annotations}}})
    env.cluster.kubectl("patch", "deployment", "deployment", "-n", env.namespace, "--type=merge", "-p", patch)
    eventually(lambda: env.kubernetes_proxy.matching("GET", "/pods$"))
    # After a change, the receiver looks for readers that nobody restarts.
    eventually(lambda: env.kubernetes_proxy.matching("GET", "/cronjobs$"))


def restarts_nobody(env: FaultEnv) -> None:
    """Rotate, and check that the Secret is filled and no workload is changed."""
    answer = env.send_until_accepted(env.rotate("db"))
    assert answer.outcome in ("applied", "unchanged")  # the outcome is "unchanged" if the poller was first
    assert answer.results[0].consumers == ()
    assert env.is_current("db")
    for kind in KINDS:
        marked = annotations_of(env.cluster, kind.lower(), env.namespace, kind.lower()).keys()
        marked |= template_annotations(env, kind).keys()
        assert not [name for name in marked if "keyturn" in name]


def template_annotations(env: FaultEnv, kind: str) -> dict[str, str]:
    template = env.cluster.get(kind.lower(), kind.lower(), env.namespace)["spec"]["template"]
    return dict(template["metadata"].get("annotations", {}))


def live_a_life(env: FaultEnv, more: bool, **settings: str) -> None:
    """Make a receiver do all that it can: read and fill Secrets, and, if ``more`` is true, also restart and delete."""
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/app"}
    metadata = {"namespace": env.namespace, "name": "app", "annotations": role}
    env.create_objects({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    arns = {name: env.create_aws_secret(name) for name in ("db", "other", "with-role", "goes", "last")}
    env.bind_secret("db")
    env.bind_secret("other")
    env.bind_secret("with-role", **{"keyturn.dev/service-account": "app"})
    env.bind_secret("goes", **{"keyturn.dev/on-delete": "delete"})
    env.cluster.create([secret(env.namespace, "refused", "nobody/none")])
    settings |= {"KEYTURN_TENANT_ROLES": "true", "KEYTURN_POLL_INTERVAL_SECONDS": "1"}
    settings |= {"KEYTURN_REPORT_READERS": "true", "KEYTURN_ROLLOUTS": str(more), "KEYTURN_DELETIONS": str(more)}
    first = env.receiver(KEYTURN_HEARTBEAT_SILENCE_SECONDS="180", **settings)
    for name in ("db", "other", "with-role", "goes"):
        eventually(lambda name=name: env.is_current(name))
    eventually(
        lambda: (
            "NotAllowed"
            in annotations_of(env.cluster, "secret", env.namespace, "refused").get("keyturn.dev/status", "")
        )
    )
    env.cluster.create(workload(env.namespace, kind.lower(), env_from("db"), kind) for kind in KINDS)
    (restarts_all_kinds if more else restarts_nobody)(env)
    env.client.delete_secret(SecretId=arns["goes"], ForceDeleteWithoutRecovery=True)
    env.send(env.notification_without_version(arns["goes"], EventType.DELETED))
    if more:
        shown = ("get", "secret", "goes", "-n", env.namespace, "--ignore-not-found")
        eventually(lambda: not env.cluster.kubectl(*shown))
    else:
        eventually(lambda: "KEYTURN_DELETIONS" in env.status("goes"))
    heartbeat = env.notification_without_version("keyturn", EventType.HEARTBEAT)
    env.send_until_accepted(replace(heartbeat, time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
    written = ("POST", "PUT")
    eventually(
        lambda: [call for call in env.kubernetes_proxy.calls if call.method in written and b"event-path" in call.body],
        20,
    )
    # The next receiver repeats the Event about the refused Secret, so it patches the Event that exists.
    eventually(lambda: env.kubernetes_proxy.matching("POST", "/events$"))
    first.stop()
    env.receiver(**settings)
    eventually(lambda: env.kubernetes_proxy.matching("PATCH", "/events/"), 30)
    eventually(lambda: {call.action for call in env.aws_proxy.calls} >= {"ListSecrets"})


@pytest.mark.fault("S7")
@pytest.mark.parametrize("more", [True, False], ids=["all that there is", "read and fill alone"])
@pytest.mark.parametrize("mode", ["all namespaces", "few namespaces"])
def test_used_rights_equal_the_granted_ones(make_env: Callable[..., FaultEnv], mode: str, more: bool) -> None:
    """In all namespaces or in a few, a receiver fills Secrets, applies rotations, restarts three kinds of workload,
    deletes, writes Events, leads, and reads with a tenant's role. Whether or not its settings allow restarts and
    deletions, it uses exactly the verbs that the chart's roles grant, and exactly the actions that the IAM template
    allows."""
    few = mode == "few namespaces"
    values: dict[str, Any] = {"tenantRoles": {"enabled": True}}
    values |= {"rollouts": {"enabled": more}, "deletions": {"enabled": more}}
    env = make_env(**values, **({"namespaces": ["{namespace}"]} if few else {}))
    live_a_life(env, more, **({"KEYTURN_NAMESPACES": env.namespace} if few else {}))
    # If the receiver serves only a few namespaces, its calls must match its rights in each namespace.
    rights = (used(env), granted(env))
    asked_for, given = rights if few else (everywhere(each, env.receiver_namespace) for each in rights)
    assert asked_for == given
    refused = [line for line in env.receivers[0].log.splitlines() if "Forbidden" in line]
    assert refused == []

    actions = {call.action for call in env.aws_proxy.calls if call.action}
    assert actions == set(re.findall(r"secretsmanager:([A-Z]\w+)\b(?!/)", ROLE.read_text()))
    others = {parse_qs(call.body.decode())["Action"][0] for call in env.aws_proxy.calls if not call.action}
    assert others == {"AssumeRoleWithWebIdentity"}  # this call is unsigned, so the role needs no permission for it
