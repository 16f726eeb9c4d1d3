"""S27: Secrets that others fill. Their readers restart exactly when a value that they read has changed."""

import hashlib
import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_receiver.core.watched import WATCHED
from support.cluster_state import annotations_of, list_events, replica_sets, warnings_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call
from support.killer import Killer, revive
from support.manifests import env_from, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
LABEL = {"keyturn.dev/watch": "true"}
CANARY = "canary-of-another-controller"


def key_ref(key: str, **more: Any) -> dict[str, Any]:
    return {"container": {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": key, **more}}}]}}


def value(text: str) -> str:
    """Return a value that the leak check knows."""
    return f"{CANARY}-{text}"


def manifest(env: FaultEnv, values: Mapping[str, str], name: str = "db", **metadata: Any) -> dict[str, Any]:
    """Return a Secret as another controller writes it: without the annotations that Keyturn or others have added."""
    data = {key: b64encode(value(text).encode()).decode() for key, text in values.items()}
    named = {"namespace": env.namespace, "name": name, "labels": LABEL, **metadata}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": named, "data": data}


def put(env: FaultEnv, values: Mapping[str, str], name: str = "db", **metadata: Any) -> None:
    """Write a Secret by PUT, which removes the annotations of others. A controller that knows only its own fields
    writes in this way."""
    env.cluster.kubectl("replace", "-f", "-", stdin=json.dumps(manifest(env, values, name, **metadata)))


def patch(env: FaultEnv, values: Mapping[str, str], name: str = "db") -> None:
    """Write some keys of a Secret by a merge patch, which leaves everything else as it is."""
    body = {"data": manifest(env, values)["data"]}
    env.cluster.kubectl("patch", "secret", name, "-n", env.namespace, "--type=merge", f"--patch={json.dumps(body)}")


def create(env: FaultEnv, values: Mapping[str, str], name: str = "db", **metadata: Any) -> None:
    env.cluster.create([manifest(env, values, name, **metadata)])


def consumers(env: FaultEnv, **pods: dict[str, Any]) -> None:
    """Create Deployments, and wait until each has a mark. An underscore stands for a hyphen."""
    named = {name.replace("_", "-"): pod for name, pod in pods.items()}
    env.cluster.create([workload(env.namespace, name, pod) for name, pod in named.items()])
    for name in named:
        eventually(lambda name=name: is_marked(env, name))


def is_marked(env: FaultEnv, name: str) -> bool:
    return MARK in annotations_of(env.cluster, "deployment", env.namespace, name)


def restarts(env: FaultEnv, *names: str) -> list[int]:
    return [replica_sets(env.cluster, env.namespace, name) - 1 for name in names]


def is_kept(env: FaultEnv, name: str = "db") -> bool:
    return WATCHED in annotations_of(env.cluster, "secret", env.namespace, name)


def kept(env: FaultEnv, name: str = "db") -> Mapping[str, Any]:
    return json.loads(annotations_of(env.cluster, "secret", env.namespace, name)[WATCHED])


def events_of(env: FaultEnv, name: str, kind: str = "Secret") -> dict[str, str]:
    listed = list_events(env.cluster, env.namespace, kind, name)
    return {event["reason"]: event["message"] for event in listed}


@contextmanager
def no_leak(env: FaultEnv, *texts: str) -> Iterator[None]:
    """Check at the end that no value, no part of one and no plain digest of one is outside the Secret's data."""
    yield
    values = [value(text).encode() for text in texts]
    plain = {
        digest
        for each in (*values, *(b64encode(each) for each in values))
        for name in ("md5", "sha1", "sha224", "sha256", "sha512", "blake2b", "blake2s")
        for digest in (hashlib.new(name, each).hexdigest(), b64encode(hashlib.new(name, each).digest()).decode())
    }
    for place, text in env.observed_output().items():
        assert CANARY not in text, f"a value in {place}"
        assert b64encode(CANARY.encode()).decode()[:16] not in text, f"a value in {place}"
        assert not [digest for digest in plain if digest[:12] in text], f"a plain digest in {place}"


@pytest.mark.fault("S27")
def test_change_of_a_key_restarts_exactly_its_readers(env: FaultEnv) -> None:
    """One key of a Secret that others fill changes. Consumers that read this key, or all keys, restart once. Nobody
    restarts when the Secret is first seen, or is written or created again with the same content."""
    env.receiver()
    with no_leak(env, "a1", "b1", "a2", "b2"):
        create(env, {"a": "a1", "b": "b1"})
        consumers(env, reads_a=key_ref("a"), reads_b=key_ref("b"), reads_all=env_from("db"))
        eventually(lambda: is_kept(env))
        assert restarts(env, "reads-a", "reads-b", "reads-all") == [0, 0, 0]
        patch(env, {"a": "a2"})
        eventually(lambda: restarts(env, "reads-a", "reads-all") == [1, 1])
        before = annotations_of(env.cluster, "secret", env.namespace, "db")[WATCHED]
        put(env, {"a": "a2", "b": "b1"})
        env.cluster.kubectl("annotate", "secret", "db", "-n", env.namespace, "theirs=1")
        eventually(lambda: is_kept(env))
        env.cluster.kubectl("delete", "secret", "db", "-n", env.namespace)
        create(env, {"b": "b1", "a": "a2"})
        eventually(lambda: is_kept(env))
        env.let_settle(3)
        assert restarts(env, "reads-a", "reads-b", "reads-all") == [1, 0, 1]
        assert kept(env)["revisions"] == json.loads(before)["revisions"]
        patch(env, {"b": "b2"})
        eventually(lambda: restarts(env, "reads-a", "reads-b", "reads-all") == [1, 1, 2])
        fields = env.cluster.kubectl("get", "secret", "db", "-n", env.namespace, "-o", "json", "--show-managed-fields")
        (ours,) = [
            each for each in json.loads(fields)["metadata"]["managedFields"] if each["manager"] == "keyturn-watch"
        ]
        assert ours["fieldsV1"] == {"f:metadata": {"f:annotations": {f"f:{WATCHED}": {}}}}
        told = events_of(env, "reads-b", "Deployment")["Restarted"]
        assert told.startswith("Secret db: a value that they read has changed (change ")
        assert events_of(env, "db").keys() >= {"Watched", "Changed"}
        live = eventually(lambda: events_of(env, "reads-b", "Deployment").get("Live"))
        assert live.startswith("Secret db: its pod runs change ")


@pytest.mark.fault("S27")
def test_change_while_no_receiver_runs_restarts_once_at_the_start(env: FaultEnv) -> None:
    """A value changes while no receiver runs. The next receiver restarts the readers of this value once, also a reader
    that was created after the end of the former receiver and before the change. It does not restart a reader that was
    created after the change, or one whose value is as before. Readers that have a mark are restarted even if the
    controller has removed Keyturn's annotation with the change."""
    receiver = env.receiver()
    with no_leak(env, "a1", "b1", "a2", "a3"):
        create(env, {"a": "a1", "b": "b1"})
        consumers(env, reads_a=key_ref("a"), reads_b=key_ref("b"))
        eventually(lambda: is_kept(env))
        receiver.kill()
        env.cluster.create([workload(env.namespace, "unseen", key_ref("a"))])
        eventually(lambda: env.cluster.list("pods", env.namespace, "app=unseen"))
        env.let_settle(2.1)  # Kubernetes gives times in whole seconds
        patch(env, {"a": "a2"})
        env.let_settle(2.1)
        env.cluster.create([workload(env.namespace, "later", key_ref("a"))])
        eventually(lambda: env.cluster.list("pods", env.namespace, "app=later"))
        env.receiver()
        eventually(lambda: restarts(env, "reads-a", "unseen") == [1, 1])
        eventually(lambda: is_marked(env, "later"))
        env.receivers[-1].kill()
        put(env, {"a": "a3", "b": "b1"})
        env.receiver()
        eventually(lambda: restarts(env, "reads-a", "unseen", "later") == [2, 2, 1])
        env.let_settle(3)
        assert restarts(env, "reads-a", "unseen", "later", "reads-b") == [2, 2, 1, 0]


@pytest.mark.fault("S27")
@pytest.mark.long
@pytest.mark.parametrize("resource", ["secrets", "deployments"])
@pytest.mark.parametrize("after", [False, True])
def test_kill_at_each_write_of_a_change_restarts_once(env: FaultEnv, resource: str, after: bool) -> None:
    """A value changes, and the receiver is killed before or after it writes its annotation, or a mark. The receiver
    that starts in its place restarts each reader exactly once."""
    receiver = env.receiver()
    with no_leak(env, "a1", "a2"):
        create(env, {"a": "a1"})
        consumers(env, one=key_ref("a"), two=env_from("db"))
        eventually(lambda: is_kept(env))
        env.let_settle(2)

        def is_due(call: Call) -> bool:
            return call.method == "PATCH" and f"/{resource}/" in call.path

        killer = Killer(env, receiver, is_due, after)
        patch(env, {"a": "a2"})
        assert killer.killed.wait(30)
        revive(env, receiver)
        eventually(lambda: restarts(env, "one", "two") == [1, 1])
        eventually(lambda: kept(env)["changed-at"])
        env.let_settle(3)
        assert restarts(env, "one", "two") == [1, 1]


@pytest.mark.fault("S27")
def test_two_replicas_restart_once_and_either_is_enough(env: FaultEnv) -> None:
    """Two replicas see a change, and the reader restarts once. The leader is killed, and the value changes at once. The
    other replica restarts the reader, once."""
    first, second = env.receiver(), env.receiver()
    create(env, {"a": "a1"})
    consumers(env, web=key_ref("a"))
    eventually(lambda: is_kept(env))
    patch(env, {"a": "a2"})
    eventually(lambda: restarts(env, "web") == [1])
    env.let_settle(6)  # the other replica would have acted by now
    assert restarts(env, "web") == [1]
    leads = eventually(lambda: [each for each in (first, second) if each.metric("keyturn_poller_leader")])
    leads[0].kill()
    patch(env, {"a": "a3"})
    eventually(lambda: restarts(env, "web") == [2])
    env.let_settle(3)
    assert restarts(env, "web") == [2]


@pytest.mark.fault("S27")
@pytest.mark.long
def test_owner_that_removes_the_annotation_is_answered_rarely(env: FaultEnv) -> None:
    """A controller writes its Secret anew, by PUT, whenever the Secret has Keyturn's annotation. A change of the value
    still restarts the reader. Keyturn soon writes at most twice in 20 s, and a Warning tells of the fight."""
    env.receiver()
    with no_leak(env, "a1", "a2"):
        create(env, {"a": "a1"})
        consumers(env, web=key_ref("a"))
        eventually(lambda: is_kept(env))
        stop, current = threading.Event(), ["a1"]

        def own() -> None:
            while not stop.is_set():
                if is_kept(env):
                    put(env, {"a": current[0]})
                time.sleep(0.3)

        owner = threading.Thread(target=own)
        owner.start()
        try:
            eventually(lambda: "ChangesTooOften" in warnings_of(env.cluster, env.namespace, "db"), 60)
            assert restarts(env, "web") == [0]
            since = len(writes(env))
            env.let_settle(20)
            assert len(writes(env)) - since <= 2
            current[0] = "a2"
            put(env, {"a": "a2"})
            eventually(lambda: restarts(env, "web") == [1], 120)
        finally:
            stop.set()
            owner.join()
        assert env.receivers[0].metric("keyturn_watch_brakes_total") == 1


def writes(env: FaultEnv) -> list[Call]:
    return [call for call in env.kubernetes_proxy.calls if call.method == "PATCH" and call.path.endswith("/secrets/db")]


@pytest.mark.fault("S27")
@pytest.mark.long
def test_controller_that_writes_without_end_restarts_a_handful_of_times(env: FaultEnv) -> None:
    """A controller writes its Secret again and again. If the values stay the same, Keyturn writes nothing and restarts
    nobody. If the value changes each time, there are at most six restarts in 30 s, and a Warning. Once the controller
    stops, one more restart brings the last value."""
    env.receiver()
    create(env, {"a": "0"})
    consumers(env, web=key_ref("a"))
    eventually(lambda: is_kept(env))
    env.let_settle(2)
    since = len(writes(env))
    for number in range(20):
        env.cluster.kubectl("annotate", "--overwrite", "secret", "db", "-n", env.namespace, f"theirs={number}")
    env.let_settle(2)
    assert len(writes(env)) == since
    assert restarts(env, "web") == [0]
    end, number = time.monotonic() + 30, 0
    while time.monotonic() < end:
        number += 1
        patch(env, {"a": str(number)})
    made = restarts(env, "web")[0]
    assert 1 <= made <= 6
    assert "change again and again" in warnings_of(env.cluster, env.namespace, "db")["ChangesTooOften"]
    eventually(lambda: restarts(env, "web")[0] > made, 120)
    env.let_settle(3)
    assert restarts(env, "web") == [made + 1]


@pytest.mark.fault("S27")
def test_lost_record_key_restarts_nobody(env: FaultEnv) -> None:
    """The record key is lost, so that nothing tells which value a mark stands for. Nobody restarts, and the next change
    of a value restarts its readers again."""
    receiver = env.receiver()
    create(env, {"a": "a1"})
    consumers(env, web=key_ref("a"), fresh=env_from("db"))
    eventually(lambda: is_kept(env))
    env.let_settle(2)
    patch(env, {"a": "a2"})
    eventually(lambda: restarts(env, "web", "fresh") == [1, 1])
    before = kept(env)["revisions"]
    receiver.kill()
    key = ("secret", "keyturn-record-key", "-n", env.receiver_namespace)
    env.cluster.kubectl("patch", *key, "--type=merge", '--patch={"data":null}')
    env.receiver()
    eventually(lambda: kept(env)["revisions"] != before)
    env.let_settle(3)
    assert restarts(env, "web", "fresh") == [1, 1]
    patch(env, {"a": "a3"})
    eventually(lambda: restarts(env, "web", "fresh") == [2, 2])


@pytest.mark.fault("S27")
def test_what_is_not_watched_is_told_and_restarts_nobody(env: FaultEnv) -> None:
    """A Secret with both labels is bound, and not watched. A misspelt label and a misspelt annotation restart nobody. A
    Warning tells of each of these three. A copy of a Secret, with the annotation that Keyturn wrote for the original,
    is watched, and restarts nobody either."""
    env.receiver()
    env.create_bound_secret("bound", consumers=())
    env.cluster.kubectl("label", "secret", "bound", "-n", env.namespace, "keyturn.dev/watch=true")
    create(env, {"a": "1"}, "misspelt", labels={"keyturn.dev/watch": "True"})
    create(env, {"a": "1"}, annotations={"keyturn.dev/rolout": "enabled"})
    env.cluster.create([workload(env.namespace, "web", key_ref("a"))])
    for name in ("bound", "misspelt"):
        eventually(lambda name=name: "NotWatched" in warnings_of(env.cluster, env.namespace, name))
    assert not is_kept(env, "bound")
    assert not is_kept(env, "misspelt")
    eventually(lambda: is_kept(env))
    patch(env, {"a": "2"})
    eventually(
        lambda: (
            "did you mean keyturn.dev/rollout"
            in warnings_of(env.cluster, env.namespace, "db").get("InvalidBinding", "")
        )
    )
    assert restarts(env, "web") == [0]
    copied = annotations_of(env.cluster, "secret", env.namespace, "db")[WATCHED]
    create(env, {"a": "other"}, "copy", annotations={WATCHED: copied})
    pod = {"container": {"envFrom": [{"secretRef": {"name": "copy"}}]}}
    env.cluster.create([workload(env.namespace, "reads-copy", pod)])
    eventually(lambda: annotations_of(env.cluster, "secret", env.namespace, "copy")[WATCHED] != copied)
    env.let_settle(3)
    assert restarts(env, "web", "reads-copy") == [0, 0]


@pytest.mark.fault("S27")
def test_levels_of_the_switch_hold_and_refused_annotation_still_restarts(env: FaultEnv) -> None:
    """A workload that says `disabled` is left alone. A Secret that is immutable gets its annotation. An admission
    policy that denies Keyturn's annotation is told, and the readers of a changed key restart all the same."""
    env.receiver()
    create(env, {"a": "1"})
    off = workload(env.namespace, "off", key_ref("a"))
    off["metadata"]["annotations"] = {"keyturn.dev/rollout": "disabled"}
    env.cluster.create([off])
    consumers(env, web=key_ref("a"))
    eventually(lambda: is_kept(env))
    env.cluster.create([{**manifest(env, {"a": "1"}, "fixed"), "immutable": True}])
    eventually(lambda: is_kept(env, "fixed"))
    name = f"deny-{env.namespace}"
    env.create_objects(*denying(name, env.namespace))
    eventually(lambda: is_denied(env), 60)
    patch(env, {"a": "2"})
    eventually(lambda: restarts(env, "web") == [1])
    eventually(lambda: "ClusterRefused" in warnings_of(env.cluster, env.namespace, "db"))
    env.let_settle(3)
    assert restarts(env, "web", "off") == [1, 0]


def is_denied(env: FaultEnv) -> bool:
    try:
        text = f"{WATCHED}={time.monotonic()}"
        env.cluster.kubectl("annotate", "secret", "fixed", "-n", env.namespace, "--overwrite", text)
    except KubectlFailed:
        return True
    return False


def denying(name: str, namespace: str) -> list[dict[str, Any]]:
    """Return an admission policy that denies each change of Keyturn's annotation in a namespace."""
    kept = f"object.metadata.?annotations[?'{WATCHED}'] == oldObject.metadata.?annotations[?'{WATCHED}']"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"]}]
    group = "admissionregistration.k8s.io/v1"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return [
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": kept}]},
        },
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": selector},
            },
        },
    ]
