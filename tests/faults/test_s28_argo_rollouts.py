"""S28: the definition (CRD) of Argo's Rollouts is absent, comes later, goes away, or lacks a field.

The API server, the definition and the receiver are real. Argo's controller runs only in tests/argo.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import LocalReceiver
from support.argo import borrower, define, rollout, undefine
from support.cluster_state import annotations_of, list_events, warnings_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Reply
from support.manifests import env_from, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
ABSENT = "the cluster does not define rollouts"
SETTINGS = {"KEYTURN_ARGO_ROLLOUTS": "true", "KEYTURN_WATCH_SECONDS": "2"}
RIGHTS = {"rollouts": {"argoRollouts": True}}
ON_ROLLOUTS = "/apis/argoproj.io/v1alpha1/.*rollouts"
MakeEnv = Callable[..., FaultEnv]


@pytest.fixture(autouse=True)
def definition_is_gone(control_plane: ControlPlane) -> Iterator[None]:
    undefine(control_plane)
    yield
    undefine(control_plane)


def template_mark(env: FaultEnv, name: str, kind: str = "rollout") -> str | None:
    template = env.cluster.get(kind, name, env.namespace)["spec"].get("template", {})
    return (template.get("metadata", {}).get("annotations") or {}).get(MARK)


def own_mark(env: FaultEnv, name: str, kind: str = "rollout") -> str | None:
    return annotations_of(env.cluster, kind, env.namespace, name).get(MARK)


def restart_at(env: FaultEnv, name: str) -> str | None:
    return env.cluster.get("rollout", name, env.namespace)["spec"].get("restartAt")


def second_after_the_write(env: FaultEnv) -> str:
    """Return the second after the Secret's last apply, by the API server's clock."""
    fields = env.cluster.get("secret", "db", env.namespace)["metadata"]["managedFields"]
    (time,) = (each["time"] for each in fields if each["manager"] == "keyturn" and not each.get("subresource"))
    return (datetime.fromisoformat(time).astimezone(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def start(env: FaultEnv, *objects: Any, **settings: str) -> LocalReceiver:
    receiver = env.receiver(**SETTINGS, **settings)
    env.create_bound_secret(consumers=())
    env.cluster.create(objects)
    return receiver


@pytest.mark.fault("S28")
def test_definition_that_comes_and_goes_is_followed(make_env: MakeEnv) -> None:
    """The definition is absent at the start, comes, goes away together with a Rollout, comes again, and goes away
    again. The receiver stays ready. It restarts the Deployment at each rotation, and the Rollout while it exists. It
    logs each absence once, and uses only those rights to Rollouts that the chart grants."""
    env = make_env(**RIGHTS)
    receiver = env.receiver(**SETTINGS)
    env.create_bound_secret()
    assert env.send(env.rotate()).status == 200
    eventually(lambda: env.has_latest("web"))
    asked = len(env.kubernetes_proxy.matching("GET", ON_ROLLOUTS))
    eventually(lambda: len(env.kubernetes_proxy.matching("GET", ON_ROLLOUTS)) > asked + 2)
    assert receiver.log.count(ABSENT) == 1
    assert receiver.ready()[0] == 200
    for number in (1, 2):
        define(env.cluster)
        env.cluster.create([rollout(env.namespace, "argo", env_from("db"))])
        eventually(lambda: own_mark(env, "argo"))
        assert env.send(env.rotate()).status == 200
        eventually(lambda: template_mark(env, "argo"))
        undefine(env.cluster)
        eventually(lambda number=number: receiver.log.count(ABSENT) == 1 + number)
        assert receiver.ready()[0] == 200
        assert env.send(env.rotate()).status == 200
        eventually(lambda: env.has_latest("web"))
    calls = [call for call in env.kubernetes_proxy.calls if re.match(ON_ROLLOUTS, call.path)]
    verbs = {"watch" if call.watch else call.method for call in calls}
    assert verbs == {"GET", "watch", "PATCH"}
    # When the definition goes, the API server may end the watch with an error. The log does not repeat it.
    assert receiver.log.count("rollouts failed") <= 4
    env.wait_converged()


@pytest.mark.fault("S28")
def test_definition_without_restart_at_is_told_and_holds_up_nobody(make_env: MakeEnv) -> None:
    """The definition lacks `restartAt`, and a Rollout wants to be restarted by this field, which the API server would
    drop in silence. A Warning says which annotation to write instead. The other workloads restart. Once the annotation
    is written, a rotation restarts the Rollout, too."""
    env = make_env(**RIGHTS)
    define(env.cluster, lacking="restartAt")
    start(
        env, rollout(env.namespace, "old", env_from("db"), "restart-at"), rollout(env.namespace, "new", env_from("db"))
    )
    env.create_consumers("db", "web")
    for name in ("old", "new"):
        eventually(lambda name=name: own_mark(env, name))
    before = own_mark(env, "old")
    assert env.send(env.rotate()).status == 200
    eventually(lambda: template_mark(env, "new") and env.has_latest("web"))
    warned = eventually(lambda: warnings_of(env.cluster, env.namespace, "old", "Rollout"))
    (message,) = warned.values()
    assert "has no spec.restartAt: update Argo Rollouts, or write keyturn.dev/restart: template" in message
    assert own_mark(env, "old") == before
    chosen = ("keyturn.dev/restart=template", "--overwrite")
    env.cluster.kubectl("annotate", "rollout", "old", "-n", env.namespace, *chosen)
    env.send(env.rotate())
    eventually(lambda: template_mark(env, "old"))
    env.wait_converged()


@pytest.mark.fault("S28")
def test_rollout_is_restarted_in_the_way_that_its_annotation_chooses(make_env: MakeEnv) -> None:
    """Four Rollouts are restarted by template or by `restartAt`. Each has a template of its own, or borrows that of a
    Deployment without replicas. A rotation changes the template, or sets `restartAt` to the second after the write,
    even if the receiver dies in between. A Rollout that borrows a template gets none of its own."""
    env = make_env(**RIGHTS)
    define(env.cluster)
    receiver = start(env)
    lenders = [workload(env.namespace, f"{way}-lender", env_from("db")) for way in ("template", "restart-at")]
    for each in lenders:
        each["spec"]["replicas"] = 0
    env.cluster.create(lenders)
    env.cluster.create(
        each
        for way in ("template", "restart-at")
        for each in (
            rollout(env.namespace, way, env_from("db"), way),
            borrower(env.namespace, f"{way}-borrower", f"{way}-lender", way),
        )
    )
    for kind, name in [
        (kind, way + more)
        for way in ("template", "restart-at")
        for kind, more in (("rollout", ""), ("deployment", "-lender"))
    ]:
        eventually(lambda kind=kind, name=name: own_mark(env, name, kind))
    before = {name: own_mark(env, name, "deployment") for name in ("template-lender", "restart-at-lender")}
    # After the write of the borrower's restartAt, the next write (the mark on the lender) fails, and the receiver dies.
    env.kubernetes_proxy.fault_for = lose_mark_of_lender
    env.send(env.rotate())
    eventually(lambda: restart_at(env, "restart-at-borrower"))
    asked = restart_at(env, "restart-at-borrower")
    receiver.kill()
    env.kubernetes_proxy.heal()
    env.receiver(**SETTINGS)
    eventually(lambda: own_mark(env, "restart-at-lender", "deployment") != before["restart-at-lender"], 60)
    eventually(lambda: template_mark(env, "template") and template_mark(env, "template-lender", "deployment"), 60)
    eventually(lambda: restart_at(env, "restart-at"), 60)
    expected = second_after_the_write(env)
    assert (restart_at(env, "restart-at"), restart_at(env, "restart-at-borrower"), asked) == (expected,) * 3
    assert (restart_at(env, "template"), restart_at(env, "template-borrower")) == (None, None)
    assert template_mark(env, "restart-at") is None
    assert template_mark(env, "restart-at-lender", "deployment") is None
    for name in ("template-borrower", "restart-at-borrower"):
        assert "template" not in env.cluster.get("rollout", name, env.namespace)["spec"]
    patches = [call for call in env.kubernetes_proxy.matching("PATCH", "/rollouts/restart-at-borrower$")]
    assert len([call for call in patches if "restartAt" in json.dumps(call.content)]) == 1
    env.assert_no_value_leaked()


def tell(env: FaultEnv, name: str, **status: Any) -> None:
    """Write the status of a Rollout as Argo's controller does, for the present generation."""
    generation = env.cluster.get("rollout", name, env.namespace)["metadata"]["generation"]
    body = json.dumps({"status": {"observedGeneration": str(generation), **status}})
    patch = ("--subresource=status", "--type=merge", "--field-manager=rollouts-controller", "-p", body)
    env.cluster.kubectl("patch", "rollout", name, "-n", env.namespace, *patch)


def live(env: FaultEnv, name: str, kind: str = "Rollout") -> list[str]:
    listed = list_events(env.cluster, env.namespace, kind, name, reason="Live")
    return [event["message"] for event in listed]


@pytest.mark.fault("S28")
def test_end_of_a_restart_is_told_when_argo_says_so(make_env: MakeEnv) -> None:
    """The test writes the status of two Rollouts as Argo's controller does. One passes through the steps of a canary,
    the other restarts by time. `Live` is told at the end of each, with the time. It is not told before: not for the
    status of the older template, not during a pause, and not when a restart is noted but a pod is not available yet."""
    env = make_env(**RIGHTS)
    define(env.cluster)
    receiver = start(
        env,
        rollout(env.namespace, "canary", env_from("db"), replicas=2),
        rollout(env.namespace, "timed", env_from("db"), "restart-at", replicas=2),
    )
    stable = {"phase": "Healthy", "currentPodHash": "one", "stableRS": "one"}
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 2)
    for name in ("canary", "timed"):
        eventually(lambda name=name: own_mark(env, name))
        tell(env, name, **stable, **counts)
    assert env.send(env.rotate()).status == 200
    eventually(lambda: template_mark(env, "canary") and restart_at(env, "timed"))
    env.let_settle(2)
    assert (live(env, "canary"), live(env, "timed")) == ([], [])  # the status is that of the older template
    tell(env, "canary", phase="Progressing", currentPodHash="two", stableRS="one", updatedReplicas=1)
    tell(env, "timed", phase="Progressing")
    tell(env, "canary", phase="Paused")
    env.let_settle(2)
    assert (live(env, "canary"), live(env, "timed")) == ([], [])
    tell(env, "canary", phase="Healthy", stableRS="two", updatedReplicas=2)
    (told,) = eventually(lambda: live(env, "canary"))
    assert re.fullmatch(r"Secret db: all 2 pods run version \S+, \d+ s after the label moved", told)
    tell(env, "timed", phase="Healthy", restartedAt=restart_at(env, "timed"), availableReplicas=1)
    env.let_settle(2)
    assert live(env, "timed") == live(env, "db", "Secret") == []
    tell(env, "timed", availableReplicas=2)
    (told,) = eventually(lambda: live(env, "timed"))
    assert "all 2 pods run version" in told
    (of_secret,) = eventually(lambda: live(env, "db", "Secret"))
    assert "all pods of Rollout canary, Rollout timed run version" in of_secret
    assert receiver.metric("keyturn_live_seconds_count", kind="Rollout") == 2
    env.let_settle(2)
    assert (len(live(env, "canary")), len(live(env, "timed"))) == (1, 1)
    env.assert_no_value_leaked()


def lose_mark_of_lender(call: Call) -> Fault:
    lost = call.method == "PATCH" and call.path.endswith("/deployments/restart-at-lender")
    return Reply(500, {"kind": "Status", "metadata": {}, "reason": "InternalError", "code": 500}) if lost else None
