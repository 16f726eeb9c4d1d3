"""S7: the rights that the chart and the IAM template give are those that a receiver uses, no fewer and no more."""

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
from support.fault_env import Scene
from support.fault_proxy import Call, Fate, Reply
from support.manifests import annotations_of, env_from, eventually, secret, workload

ROLE = Path(__file__).parents[2] / "infra" / "aws" / "receiver-role.yaml"
KINDS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
CALL = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<more>[^/]+))?"
)

Rights = Mapping[tuple[str, str, str], frozenset[str]]


def used(scene: Scene) -> Rights:
    """The verbs that were used, by namespace (empty: in all of them), API group and resource."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for call in scene.kubernetes.calls:
        parts = CALL.fullmatch(call.path)
        assert parts, call.path
        verb = METHODS.get(call.method) or ("watch" if call.watch else "get" if parts["name"] else "list")
        resource = f"{parts['resource']}/{parts['more']}" if parts["more"] else parts["resource"]
        # A namespace is an object of itself as far as RBAC goes.
        namespace = parts["name"] if parts["resource"] == "namespaces" else parts["namespace"]
        found[namespace or "", parts["group"] or "", resource].add(verb)
    return {where: frozenset(verbs) for where, verbs in found.items()}


def granted(scene: Scene) -> Rights:
    """The verbs that the chart's roles give, by namespace (empty: a ClusterRole), API group and resource."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for each in scene.chart:
        if each["kind"] in ("Role", "ClusterRole"):
            for rule in each["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        where = each["metadata"].get("namespace", "") if each["kind"] == "Role" else ""
                        found[where, group, resource].update(rule["verbs"])
    return {where: frozenset(verbs) for where, verbs in found.items()}


def everywhere(rights: Rights, home: str) -> Rights:
    """The same without the namespaces, but for that of the receiver itself."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for (namespace, group, resource), verbs in rights.items():
        found[home if namespace == home else "", group, resource].update(verbs)
    return {where: frozenset(verbs) for where, verbs in found.items()}


class Conflicts:
    """Refuses the first restart of each workload, as if somebody had changed it meanwhile."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def __call__(self, call: Call) -> Fate:
        restart = call.method == "PATCH" and "/apis/apps/" in call.path and b"template" in call.body
        if not restart or call.path in self.refused:
            return None
        self.refused.add(call.path)
        return Reply(409, {"kind": "Status", "metadata": {}, "reason": "Conflict", "code": 409})


def restarts_all_kinds(scene: Scene) -> None:
    """Have a rotation restart consumers of each kind, the first try of each in vain."""
    for kind in KINDS:
        eventually(
            lambda kind=kind: (
                "revision.keyturn.dev/db" in annotations_of(scene.cluster, kind.lower(), scene.namespace, kind.lower())
            )
        )
    scene.kubernetes.fate = Conflicts()
    answer = scene.deliver(scene.rotate("db"))
    assert {each.partition("/")[0] for each in answer.results[0].consumers} <= set(KINDS)
    for kind in KINDS:
        eventually(lambda kind=kind: "revision.keyturn.dev/db" in template_annotations(scene, kind))


def restarts_nobody(scene: Scene) -> None:
    """Have a rotation fill the Secret, and that is all."""
    answer = scene.deliver(scene.rotate("db"))
    assert answer.outcome in ("applied", "unchanged")  # the poller may have been quicker
    assert answer.results[0].consumers == ()
    assert scene.in_order("db")
    for kind in KINDS:
        marked = annotations_of(scene.cluster, kind.lower(), scene.namespace, kind.lower()).keys()
        marked |= template_annotations(scene, kind).keys()
        assert not [name for name in marked if "keyturn" in name]


def template_annotations(scene: Scene, kind: str) -> dict[str, str]:
    template = scene.cluster.get(kind.lower(), kind.lower(), scene.namespace)["spec"]["template"]
    return dict(template["metadata"].get("annotations", {}))


def live_a_life(scene: Scene, more: bool, **settings: str) -> None:
    """Let a receiver do everything that there is to do; ``more``: than to read and to fill."""
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/app"}
    metadata = {"namespace": scene.namespace, "name": "app", "annotations": role}
    scene.make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    arns = {name: scene.create(name) for name in ("db", "other", "with-role", "goes", "last")}
    scene.bind("db")
    scene.bind("other")
    scene.bind("with-role", **{"keyturn.dev/service-account": "app"})
    scene.bind("goes", **{"keyturn.dev/on-delete": "delete"})
    scene.cluster.create([secret(scene.namespace, "refused", "nobody/none")])
    settings |= {"KEYTURN_TENANT_ROLES": "true", "KEYTURN_POLL_INTERVAL_SECONDS": "1"}
    settings |= {"KEYTURN_ROLLOUTS": str(more), "KEYTURN_DELETIONS": str(more)}
    first = scene.receiver(KEYTURN_HEARTBEAT_SILENCE_SECONDS="180", **settings)
    for name in ("db", "other", "with-role", "goes"):
        eventually(lambda name=name: scene.in_order(name))
    eventually(
        lambda: (
            "NotAllowed"
            in annotations_of(scene.cluster, "secret", scene.namespace, "refused").get("keyturn.dev/status", "")
        )
    )
    scene.cluster.create(workload(scene.namespace, kind.lower(), env_from("db"), kind) for kind in KINDS)
    (restarts_all_kinds if more else restarts_nobody)(scene)
    scene.client.delete_secret(SecretId=arns["goes"], ForceDeleteWithoutRecovery=True)
    scene.send(scene.about(arns["goes"], EventType.DELETED))
    if more:
        shown = ("get", "secret", "goes", "-n", scene.namespace, "--ignore-not-found")
        eventually(lambda: not scene.cluster.kubectl(*shown))
    else:
        eventually(lambda: "KEYTURN_DELETIONS" in scene.status("goes"))
    heartbeat = scene.about("keyturn", EventType.HEARTBEAT)
    scene.deliver(replace(heartbeat, time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
    written = ("POST", "PUT")
    eventually(
        lambda: [call for call in scene.kubernetes.calls if call.method in written and b"event-path" in call.body],
        20,
    )
    # Who comes after says again what is wrong with the refused one, under the same name.
    eventually(lambda: scene.kubernetes.matching("POST", "/events$"))
    first.stop()
    scene.receiver(**settings)
    eventually(lambda: scene.kubernetes.matching("PATCH", "/events/"), 30)
    eventually(lambda: {call.action for call in scene.aws_proxy.calls} >= {"ListSecrets"})


@pytest.mark.fault("S7")
@pytest.mark.parametrize("more", [True, False], ids=["all that there is", "read and fill alone"])
@pytest.mark.parametrize("mode", ["all namespaces", "few namespaces"])
def test_every_right_is_used_and_no_other_is_asked_for(set_scene: Callable[..., Scene], mode: str, more: bool) -> None:
    """A receiver fills, rotates, restarts three kinds of workload, deletes, tells, leads, reads with a tenant's role,
    in all namespaces and in few, or restarts and deletes nothing: the verbs that it uses are exactly those that the
    chart's roles give."""
    few = mode == "few namespaces"
    values: dict[str, Any] = {"tenantRoles": {"enabled": True}}
    values |= {"rollouts": {"enabled": more}, "deletions": {"enabled": more}}
    scene = set_scene(**values, **({"namespaces": ["{namespace}"]} if few else {}))
    live_a_life(scene, more, **({"KEYTURN_NAMESPACES": scene.namespace} if few else {}))
    # In few namespaces each right holds in these alone, and so must each call.
    rights = (used(scene), granted(scene))
    asked_for, given = rights if few else (everywhere(each, scene.home) for each in rights)
    assert asked_for == given
    refused = [line for line in scene.receivers[0].log.splitlines() if "Forbidden" in line]
    assert refused == []

    actions = {call.action for call in scene.aws_proxy.calls if call.action}
    assert actions == set(re.findall(r"secretsmanager:([A-Z]\w+)\b(?!/)", ROLE.read_text()))
    others = {parse_qs(call.body.decode())["Action"][0] for call in scene.aws_proxy.calls if not call.action}
    assert others == {"AssumeRoleWithWebIdentity"}  # which is asked unsigned, and needs no right of the receiver's
