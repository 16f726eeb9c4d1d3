"""S24: an owner reverts a pod template before its rollout is complete, undoes a rollout, or has a mark in its
manifests."""

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from support.background import PeriodicThread
from support.cluster_state import annotations_of, data_of, list_events, replica_sets
from support.fault_env import FaultEnv
from support.fault_proxy import Call
from support.manifests import env_from, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
OLD = "of-an-old-manifest"
PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
MINUTE = 60
HANDFUL = 8
FAST, SLOW = 0.1, 1.0  # seconds between two looks of an owner
Edit = Callable[[dict[str, Any]], bool]  # edits a workload in place, and returns whether it has changed


def builds_the_template(obj: dict[str, Any]) -> bool:
    """An operator that builds the pod template at each reconcile, and keeps the workload's own annotations."""
    return (obj["spec"]["template"]["metadata"].get("annotations") or {}).pop(MARK, None) is not None


def owns_all_annotations(obj: dict[str, Any]) -> bool:
    """A tool that owns all annotations of the workload and of its pod template, such as Terraform, run in a loop."""
    on_workload = (obj["metadata"].get("annotations") or {}).pop(MARK, None) is not None
    return builds_the_template(obj) or on_workload


def has_an_old_mark_on_the_template(obj: dict[str, Any]) -> bool:
    """A self-heal whose manifest was exported from the cluster after a restart."""
    annotations = obj["spec"]["template"]["metadata"].setdefault("annotations", {})
    changed = annotations.get(MARK) != OLD
    annotations[MARK] = OLD
    return changed


def has_old_marks(obj: dict[str, Any]) -> bool:
    """A self-heal whose manifest has an old mark in both places."""
    annotations = obj["metadata"].setdefault("annotations", {})
    changed = annotations.get(MARK) != OLD
    annotations[MARK] = OLD
    return has_an_old_mark_on_the_template(obj) or changed


OWNERS = (builds_the_template, owns_all_annotations, has_an_old_mark_on_the_template, has_old_marks)


class Owner(PeriodicThread):
    """An owner that PUTs a workload whenever ``edit`` changes it, and looks every ``pause`` seconds."""

    def __init__(self, env: FaultEnv, kind: str, name: str, edit: Edit, pause: float) -> None:
        super().__init__(pause, pause)
        self._url = f"{env.cluster.url}/apis/apps/v1/namespaces/{env.namespace}/{PLURALS[kind]}/{name}"
        self._headers = {"Authorization": f"Bearer {env.cluster.admin_token}"}
        self._pool = urllib3.PoolManager(ca_certs=str(env.cluster.ca_file))
        self._edit = edit

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connections to the API server."""
        self._pool.clear()

    def run_once(self) -> None:
        obj = self._pool.request("GET", self._url, headers=self._headers).json()
        if self._edit(obj):
            query = urlencode({"fieldManager": "the-owner"})
            self._pool.request("PUT", f"{self._url}?{query}", headers=self._headers, json=obj)


@dataclass(frozen=True)
class Owned:
    """A workload with an owner."""

    name: str
    edit: Edit
    pause: float


def create(env: FaultEnv, kind: str, *names: str, **annotations: str) -> None:
    """Create workloads that take some seconds to roll, and wait until the receiver has seen them and their pods are
    ready. A workload has three pods, and a DaemonSet at least one."""
    for name in names:
        made = workload(env.namespace, name, env_from("db"), kind)
        made["metadata"]["annotations"] = annotations
        made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
        made["spec"]["template"]["metadata"]["annotations"] = {"kwok.local/gone-after": "1s"}
        made["spec"] |= {"minReadySeconds": 3} | ({} if kind == "DaemonSet" else {"replicas": 3})
        env.cluster.kubectl("create", "--field-manager=the-owner", "-f", "-", stdin=json.dumps(made))
    for name in names:
        eventually(lambda name=name: MARK in annotations_of(env.cluster, kind.lower(), env.namespace, name), 60)
        eventually(lambda name=name: ready(env, name) >= (1 if kind == "DaemonSet" else 3), 60)


def pods(env: FaultEnv, name: str) -> list[dict[str, Any]]:
    listed = env.cluster.list("pods", env.namespace, f"app={name}")
    return [pod for pod in listed if not pod["metadata"].get("deletionTimestamp")]


def uids(env: FaultEnv, name: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(env, name)}


def ready(env: FaultEnv, name: str) -> int:
    conditions = [pod.get("status", {}).get("conditions", []) for pod in pods(env, name)]
    return sum(any(each["type"] == "Ready" and each["status"] == "True" for each in listed) for listed in conditions)


def writes(env: FaultEnv, kind: str, name: str) -> list[Call]:
    return env.kubernetes_proxy.succeeded("PATCH", f"/{PLURALS[kind]}/{name}$")


def restarts(env: FaultEnv, kind: str, name: str) -> list[Call]:
    return [call for call in writes(env, kind, name) if "spec" in call.content]


def messages(env: FaultEnv, kind: str, name: str, reason: str) -> list[str]:
    listed = list_events(env.cluster, env.namespace, kind, name, reason=reason)
    return [event["message"] for event in listed]


@pytest.mark.fault("S24")
@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", PLURALS)
def test_pods_of_a_reverted_template_end_on_the_new_value_or_it_is_told(env: FaultEnv, kind: str) -> None:
    """Each of eight owners, fast or slow, reverts the pod template of its own workload while it rolls. Some leave the
    workload's own annotations alone, some strip them, and some put old marks back. Within a minute, all pods of a
    workload are newer than the rotation, or Events on the workload and on the Secret name the owner. Meanwhile Keyturn
    writes to each workload one to eight times. After the owners have stopped, the AWS secret rotates once more, the old
    pods are replaced, and then nothing more is written to the workloads."""
    receiver = env.receiver()
    env.create_bound_secret(consumers=())
    owned = [
        Owned(f"{edit.__name__.replace('_', '-')}-{speed}", edit, pause)
        for edit in OWNERS
        for speed, pause in (("fast", FAST), ("slow", SLOW))
    ]
    create(env, kind, *(each.name for each in owned))
    old = {each.name: uids(env, each.name) for each in owned}
    before = {each.name: len(writes(env, kind, each.name)) for each in owned}
    env.let_settle(1.1)
    with ExitStack() as owners:
        for each in owned:
            owners.enter_context(Owner(env, kind, each.name, each.edit, each.pause))
        assert env.send(env.rotate()).status == 200
        # Only the data is checked, because the status may already name the owner.
        eventually(lambda: data_of(env.cluster, env.namespace, "db") == {"value": env.aws_value().encode()})
        env.let_settle(MINUTE)
        wrong = {}
        for each in owned:
            count = len(writes(env, kind, each.name)) - before[each.name]
            kept = uids(env, each.name) & old[each.name]
            told = messages(env, kind, each.name, "RestartReverted")
            on_secret = [text for text in messages(env, "Secret", "db", "RestartReverted") if each.name in text]
            print(f"{kind} {each.name}: {count} writes, {len(kept)} old pods, told {bool(told)}")
            named = bool(told) and '"the-owner"' in told[0] and bool(on_secret)
            if not 1 <= count <= HANDFUL or len(told) > 1 or (kept and not named) or (told and not named):
                wrong[each.name] = (count, kept, told, on_secret)
        assert not wrong
        assert receiver.metric("keyturn_rollout_fights_total", kind=kind) or not any(
            uids(env, each.name) & old[each.name] for each in owned
        )
    assert env.send_until_accepted(env.rotate()).status == 200
    names = [each.name for each in owned]
    eventually(lambda: not any(uids(env, name) & old[name] for name in names), 120)
    env.let_settle(5)
    resting = {name: len(writes(env, kind, name)) for name in names}
    env.let_settle(10)
    assert {name: len(writes(env, kind, name)) for name in names} == resting
    env.assert_no_value_leaked()


def secret_writes(env: FaultEnv) -> int:
    return len(env.kubernetes_proxy.succeeded("PATCH", "/secrets/db$"))


@pytest.mark.fault("S24")
@pytest.mark.long
@pytest.mark.timeout(400)
def test_status_tells_a_reverted_restart_until_the_pods_run_the_value(env: FaultEnv) -> None:
    """An operator reverts the template of a Deployment. The status of the Secret says so. It stays the same while the
    mark comes and goes, a second receiver starts that has not seen the fight, and the first one is killed. Once the
    operator stops and the pods run the value, the status is ok. Each change of the status is one write, and at rest
    nothing is written."""
    first = env.receiver()
    env.create_bound_secret(consumers=())
    create(env, "Deployment", "web")
    old = uids(env, "web")
    env.let_settle(1.1)
    with Owner(env, "Deployment", "web", builds_the_template, FAST):
        before = secret_writes(env)
        assert env.send(env.rotate()).status == 200
        eventually(lambda: env.status("db") != "ok", 30)
        told = env.status("db")
        assert told.startswith("RestartReverted: another writer keeps reverting the pod template of Deployment web ")
        assert labels_of(env)["keyturn.dev/state"] == "RestartReverted"
        eventually(lambda: messages(env, "Secret", "db", "RestartReverted"), 60)
        (on_workload,) = messages(env, "Deployment", "web", "RestartReverted")
        assert '"the-owner"' in on_workload
        second = env.receiver()
        written = secret_writes(env)
        assert written == before + 2  # one for the rotation, and one for the status
        seen = len(restarts(env, "Deployment", "web"))
        eventually(lambda: len(restarts(env, "Deployment", "web")) > seen, 60)  # the mark comes and goes
        first.kill()
        env.expire_lease()
        eventually(lambda: second.metric("keyturn_rollout_fights_total", kind="Deployment"), 60)
        env.let_settle(5)
        assert env.status("db") == told
        assert secret_writes(env) == written
        assert uids(env, "web") & old
    eventually(lambda: env.status("db") == "ok", 120)
    assert labels_of(env)["keyturn.dev/state"] == "ok"
    assert not uids(env, "web") & old
    assert secret_writes(env) == written + 1
    eventually(lambda: messages(env, "Deployment", "web", "Live"), 30)
    marked = len(writes(env, "Deployment", "web"))
    env.let_settle(10)
    assert (secret_writes(env), len(writes(env, "Deployment", "web"))) == (written + 1, marked)
    env.assert_no_value_leaked()


def labels_of(env: FaultEnv) -> dict[str, str]:
    read = env.cluster.kubectl("get", "secret", "db", "-n", env.namespace, "-o", "jsonpath={.metadata.labels}")
    return dict(json.loads(read))


class Witness(PeriodicThread):
    """Notes in ``fewest`` the smallest number of Ready pods that a workload has had."""

    def __init__(self, env: FaultEnv, name: str) -> None:
        super().__init__(0.1)
        self.fewest = 99
        self._ask = lambda: ready(env, name)

    def run_once(self) -> None:
        self.fewest = min(self.fewest, self._ask())


@pytest.mark.fault("S24")
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", PLURALS)
def test_pods_are_evicted_one_by_one_where_the_workload_asks_for_it(
    make_env: Callable[..., FaultEnv], kind: str
) -> None:
    """An operator builds the pod template of a workload that has `keyturn.dev/restart: evict`. After a rotation,
    Keyturn evicts the pods one by one, although a PodDisruptionBudget forbids evictions at first, and the receiver is
    killed on the way. Keyturn does not change the template."""
    env = make_env(rollouts={"evict": True})
    env.receiver()
    env.create_bound_secret(consumers=())
    create(env, kind, "web", **{"keyturn.dev/restart": "evict"})
    old = uids(env, "web")
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"namespace": env.namespace, "name": "web"},
        "spec": {"minAvailable": len(old), "selector": {"matchLabels": {"app": "web"}}},
    }
    env.create_objects(budget)
    env.let_settle(1.1)
    with Owner(env, kind, "web", builds_the_template, FAST), Witness(env, "web") as witness:
        assert env.send(env.rotate()).status == 200
        eventually(lambda: env.kubernetes_proxy.matching("POST", "/eviction$"))
        env.let_settle(3)
        assert uids(env, "web") == old  # the budget forbids evictions
        allowed = {"spec": {"minAvailable": len(old) - 1}}
        patch = ("patch", "pdb", "web", "-n", env.namespace, "--type=merge", "-p", json.dumps(allowed))
        env.cluster.kubectl(*patch)
        eventually(lambda: len(uids(env, "web") & old) < len(old), 60)
        env.receivers[0].kill()
        env.expire_lease()
        env.receiver()
        eventually(lambda: not uids(env, "web") & old, 120)
        eventually(lambda: MARK in annotations_of(env.cluster, kind.lower(), env.namespace, "web"), 60)
    assert witness.fewest >= len(old) - 1
    assert not restarts(env, kind, "web")
    evicted = len(env.kubernetes_proxy.succeeded("POST", "/eviction$"))
    assert evicted == len(old)
    assert any("evicting pods one by one" in text for text in messages(env, kind, "web", "Restarted"))
    (live,) = eventually(lambda: messages(env, kind, "web", "Live"), 60)
    pods = "its pod runs" if len(old) == 1 else f"all {len(old)} pods run"
    assert re.fullmatch(rf"Secret db: {pods} version \S+, \d+ s after the label moved", live)
    (live_of_secret,) = eventually(lambda: messages(env, "Secret", "db", "Live"))
    assert live_of_secret == live.replace("Secret db", f"{kind} web")
    env.let_settle(5)
    assert len(env.kubernetes_proxy.succeeded("POST", "/eviction$")) == evicted
    env.assert_no_value_leaked()


@pytest.mark.fault("S24")
def test_eviction_without_the_right_is_told(env: FaultEnv) -> None:
    """A workload asks for evictions, and the chart does not allow them. An Event on the workload says
    which value of the chart to set. The restart is not counted."""
    receiver = env.receiver()
    env.create_bound_secret(consumers=())
    create(env, "Deployment", "web", **{"keyturn.dev/restart": "evict"})
    env.let_settle(1.1)
    assert env.send(env.rotate()).status == 200
    (told,) = eventually(lambda: messages(env, "Deployment", "web", "ClusterRefused"))
    assert "rollouts.evict: true" in told
    assert receiver.metric("keyturn_rollouts_total") == 0
    assert not restarts(env, "Deployment", "web")


@pytest.mark.fault("S24")
def test_undone_rollout_restarts_nobody(env: FaultEnv) -> None:
    """A Deployment gets a second image and a rotation, and then `kubectl rollout undo`. The pods that come back are new
    and have read the new value. The Deployment rolls once for the undoing, and not a second time."""
    env.receiver()
    env.create_bound_secret(consumers=())
    create(env, "Deployment", "web")
    env.cluster.kubectl("set", "image", "deployment/web", "main=second", "-n", env.namespace)
    eventually(lambda: replica_sets(env.cluster, env.namespace, "web") == 2)
    wait_rolled(env)
    assert env.send(env.rotate()).status == 200
    eventually(lambda: replica_sets(env.cluster, env.namespace, "web") == 3)
    wait_rolled(env)
    (restart,) = restarts(env, "Deployment", "web")
    env.let_settle(1.1)
    env.cluster.kubectl("rollout", "undo", "deployment/web", "-n", env.namespace)
    eventually(lambda: MARK in annotations_of(env.cluster, "deployment", env.namespace, "web"))
    wait_rolled(env)
    env.let_settle(3)
    assert restarts(env, "Deployment", "web") == [restart]
    # Revision 3 is the template that the rotation made. `kubectl rollout history` shows the mark on it.
    history = ("rollout", "history", "deployment/web", "-n", env.namespace, "--revision=3")
    assert f"{MARK}:" in env.cluster.kubectl(*history)
    assert env.send(env.rotate()).status == 200
    eventually(lambda: len(restarts(env, "Deployment", "web")) == 2)
    env.assert_no_value_leaked()


def wait_rolled(env: FaultEnv) -> None:
    env.cluster.kubectl("rollout", "status", "deployment/web", "-n", env.namespace, "--timeout=120s")


@pytest.mark.fault("S24")
@pytest.mark.parametrize("edit", OWNERS, ids=lambda edit: edit.__name__)
def test_apply_after_the_rollout_restarts_nobody(env: FaultEnv, edit: Edit) -> None:
    """A rotation is complete. Then somebody applies a manifest that drops Keyturn's annotations, or has old ones.
    Nothing is restarted. If the manifest has an old mark on the pod template, an Event names its owner."""
    env.receiver()
    env.create_bound_secret(consumers=())
    create(env, "Deployment", "web")
    env.let_settle(1.1)
    assert env.send(env.rotate()).status == 200
    eventually(lambda: replica_sets(env.cluster, env.namespace, "web") == 2)
    wait_rolled(env)
    env.let_settle(1.1)
    before = len(writes(env, "Deployment", "web"))
    with closing(Owner(env, "Deployment", "web", edit, 1)) as owner:
        owner.run_once()
    eventually(lambda: len(writes(env, "Deployment", "web")) > before)
    env.let_settle(3)
    assert len(restarts(env, "Deployment", "web")) == 1
    assert len(writes(env, "Deployment", "web")) == before + 1
    assert env.history.mark("web", "db") not in (None, OLD)
    told = messages(env, "Deployment", "web", "AnnotationOwned")
    assert ["the-owner" in text for text in told] == [True] * (edit in (has_an_old_mark_on_the_template, has_old_marks))
    env.assert_no_value_leaked()


@pytest.mark.fault("S24")
def test_crash_in_the_middle_of_the_restarts_is_made_up_by_the_pods(env: FaultEnv) -> None:
    """The receiver is killed once it has restarted some of a Secret's consumers. The next receiver restarts the others,
    each exactly once, because their pods are older than the rotation."""
    names = [f"web-{number}" for number in range(12)]
    env.receiver()
    env.create_bound_secret(consumers=names)
    enough = threading.Event()

    def kill(call: Call, status: int) -> None:
        if call.method == "PATCH" and "/deployments/" in call.path and "spec" in call.content and status == 200:
            env.receivers[0].kill()
            enough.set()

    env.kubernetes_proxy.on_answered = kill
    begun = time.monotonic()
    env.send(env.rotate())
    assert enough.wait(30)
    env.kubernetes_proxy.heal()
    env.expire_lease()
    env.receiver()
    env.wait_converged(60)
    env.let_settle(3)
    assert restarted(env, names) == [1] * len(names), time.monotonic() - begun


def restarted(env: FaultEnv, names: Sequence[str]) -> list[int]:
    return [replica_sets(env.cluster, env.namespace, name) - 1 for name in names]
