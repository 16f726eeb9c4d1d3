"""S26: a Secret has many consumers, a canary among them does not become ready, and receivers die meanwhile."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn_local.receiver.process import LocalReceiver
from support import cli
from support.cluster_state import annotations_of, list_events, warnings_of
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.rollout_watcher import RolloutWatcher
from support.wait import eventually

MARK = "revision.keyturn.dev/db"


@contextmanager
def watched(env: FaultEnv) -> Iterator[RolloutWatcher]:
    watcher = RolloutWatcher(env.cluster, env.namespace, "revision.keyturn.dev/")
    try:
        yield watcher
    finally:
        watcher.close()


def deployment(env: FaultEnv, name: str, **annotations: str) -> dict[str, Any]:
    made = workload(env.namespace, name, env_from("db"))
    made["metadata"]["annotations"] = annotations
    return made


def replica_sets(env: FaultEnv) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in env.cluster.list("replicasets", env.namespace):
        app = each["metadata"]["labels"]["app"]
        counts[app] = counts.get(app, 0) + 1
    return counts


def are_ready(env: FaultEnv, count: int) -> Callable[[], bool]:
    def ask() -> bool:
        listed = env.cluster.list("deployments", env.namespace)
        return sum(each.get("status", {}).get("availableReplicas", 0) for each in listed) == count

    return ask


def restart_receiver(env: FaultEnv, receiver: LocalReceiver) -> None:
    receiver.kill()
    env.expire_lease()
    receiver.start()


@pytest.mark.fault("S26")
@pytest.mark.long
def test_three_hundred_consumers_are_restarted_ten_at_a_time_though_the_receiver_is_killed(env: FaultEnv) -> None:
    """Of 300 consumers, never more than ten are unfinished at a time; each is restarted once, though the receiver is
    killed three times meanwhile."""
    receiver, names = env.receiver(), [f"web-{number:03}" for number in range(300)]
    env.create_bound_secret(consumers=())
    env.cluster.create(deployment(env, name) for name in names)
    eventually(are_ready(env, 300), 120)
    with watched(env) as rollouts:
        env.send_until_accepted(env.rotate("db"))
        for count in (30, 110, 200):
            eventually(lambda count=count: len(rollouts.restarted) >= count, 120)
            restart_receiver(env, receiver)
        eventually(lambda: len(rollouts.restarted) == 300 and not rollouts.unfinished, 180)
        env.let_settle(3)
        assert 2 <= rollouts.most <= 10
    assert replica_sets(env) == dict.fromkeys(names, 2)


def events_about(env: FaultEnv, kind: str, name: str) -> dict[str, str]:
    listed = list_events(env.cluster, env.namespace, kind, name)
    return {each["reason"]: each["message"] for each in listed}


def annotate(env: FaultEnv, kind: str, name: str, annotation: str) -> None:
    env.cluster.kubectl("annotate", kind, name, "-n", env.namespace, "--overwrite", annotation)


def mend(env: FaultEnv, name: str) -> None:
    """Make a Deployment delete its old pod before it creates the new one. This does not change the pod template."""
    strategy = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    patch = json.dumps({"spec": {"strategy": strategy}})
    env.cluster.kubectl("patch", "deployment", name, "-n", env.namespace, "-p", patch)


def state_of(env: FaultEnv) -> str:
    return env.cluster.get("secret", "db", env.namespace)["metadata"]["labels"].get("keyturn.dev/state", "")


def create_canary_and_others(env: FaultEnv, deadline: int = 2) -> None:
    """Create a Secret, and the Deployments that read it (``create_consumers_of``)."""
    env.create_bound_secret(consumers=())
    create_consumers_of(env, deadline)


def create_consumers_of(env: FaultEnv, deadline: int) -> None:
    """Create Deployments that read the Secret: a canary whose next pod will not become ready, because it must not run
    beside the present one, and two others. The rollout of the canary fails after ``deadline`` seconds."""
    canary = deployment(env, "canary", **{"keyturn.dev/rollout-order": "1"})
    apart = {"topologyKey": "kubernetes.io/os", "labelSelector": {"matchLabels": {"app": "canary"}}}
    canary["spec"] |= {"progressDeadlineSeconds": deadline}
    canary["spec"]["template"]["spec"]["affinity"] = {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    }
    second = deployment(env, "second", **{"keyturn.dev/rollout-order": "2"})
    env.cluster.create([canary, second, deployment(env, "third")])
    eventually(are_ready(env, 3), 60)


@pytest.mark.fault("S26")
def test_canary_that_does_not_become_ready_halts_the_others_until_it_is_mended(env: FaultEnv) -> None:
    """A canary whose pods do not become Ready keeps the other consumers from being restarted; status, Events and metric
    say so, also after the receiver was killed, and the others follow once the canary is mended."""
    receiver = env.receiver()
    create_canary_and_others(env)
    env.send_until_accepted(env.rotate("db"))
    eventually(lambda: state_of(env) == "RolloutHalted", 60)
    assert "Deployment canary has failed (ProgressDeadlineExceeded)" in env.status("db")
    eventually(lambda: "RolloutHalted" in warnings_of(env.cluster, env.namespace, "db"))
    eventually(lambda: "RolloutHalted" in warnings_of(env.cluster, env.namespace, "canary", "Deployment"))
    assert receiver.metric("keyturn_rollouts_halted") == 1
    assert receiver.metric("keyturn_rollouts_waiting", reason="halt") == 2

    restart_receiver(env, receiver)
    eventually(lambda: receiver.metric("keyturn_rollouts_halted") == 1)
    writes = len(env.kubernetes_proxy.matching("PATCH", "/secrets/db$"))
    env.let_settle(3)
    assert len(env.kubernetes_proxy.matching("PATCH", "/secrets/db$")) == writes
    assert replica_sets(env) == {"canary": 2, "second": 1, "third": 1}

    mend(env, "canary")
    eventually(lambda: replica_sets(env) == {"canary": 2, "second": 2, "third": 2}, 60)
    eventually(lambda: state_of(env) == "ok")
    assert receiver.metric("keyturn_rollouts_halted") == 0
    eventually(lambda: "RolloutResumed" in events_about(env, "Secret", "db"))
    assert env.is_current()


@pytest.mark.fault("S26")
@pytest.mark.parametrize("command", ["undo", "pause"])
def test_halt_stays_when_somebody_rolls_the_failed_workload_back_or_pauses_it(env: FaultEnv, command: str) -> None:
    """Somebody rolls a failed canary back, or pauses it, and the receiver is killed. The value is as bad as before, so
    the other consumers are still not restarted. They follow once the canary is mended."""
    receiver = env.receiver()
    create_canary_and_others(env)
    env.send_until_accepted(env.rotate("db"))
    eventually(lambda: state_of(env) == "RolloutHalted", 60)
    env.cluster.kubectl("rollout", command, "deployment/canary", "-n", env.namespace)
    env.let_settle(6)
    assert is_halted(env, receiver)
    restart_receiver(env, receiver)
    env.let_settle(6)
    assert is_halted(env, receiver)
    assert "RolloutResumed" not in events_about(env, "Secret", "db")

    if command == "pause":
        env.cluster.kubectl("rollout", "resume", "deployment/canary", "-n", env.namespace)
    mend(env, "canary")
    eventually(lambda: [replica_sets(env)[name] for name in ("second", "third")] == [2, 2], 60)
    eventually(lambda: state_of(env) == "ok")
    assert env.is_current()


def is_halted(env: FaultEnv, receiver: LocalReceiver) -> bool:
    """Return whether the failed canary halts the others, and none of them was restarted."""
    others = [replica_sets(env)[name] for name in ("second", "third")]
    return (state_of(env), receiver.metric("keyturn_rollouts_halted"), others) == ("RolloutHalted", 1, [1, 1])


@pytest.mark.fault("S26")
def test_halt_ends_by_hand_for_this_change_alone(env: FaultEnv) -> None:
    """With the annotation that the halt's own message gives, the others are restarted in spite of the failed canary; at
    the next rotation the canary decides again."""
    env.receiver()
    create_canary_and_others(env)
    env.send_until_accepted(env.rotate("db"))
    eventually(lambda: state_of(env) == "RolloutHalted", 60)
    command = env.status("db").rpartition("kubectl ")[2].split()
    env.cluster.kubectl(*command)
    eventually(lambda: replica_sets(env) == {"canary": 2, "second": 2, "third": 2}, 60)
    eventually(lambda: state_of(env) == "ok")

    env.send_until_accepted(env.rotate("db"))
    eventually(lambda: state_of(env) == "RolloutHalted", 60)
    assert replica_sets(env) == {"canary": 3, "second": 2, "third": 2}


def pods_of_rollout(env: FaultEnv, name: str) -> list[str]:
    """Return the names of the pods that come from the marked template of a Deployment."""
    pods = env.cluster.list("pods", env.namespace, f"app={name}")
    return [each["metadata"]["name"] for each in pods if MARK in (each["metadata"].get("annotations") or {})]


def let_crash(env: FaultEnv, name: str) -> None:
    """Give the new pod of a Deployment the status that a kubelet writes for a container which ends again and again."""
    (pod,) = eventually(lambda: pods_of_rollout(env, name))
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}}
    container = {"name": "main", "image": "none", "imageID": "", "ready": False, "restartCount": 2, "state": state}
    status = json.dumps({"status": {"containerStatuses": [container]}})
    env.cluster.kubectl("patch", "pod", pod, "-n", env.namespace, "--subresource=status", "--type=merge", "-p", status)


def is_untouched(env: FaultEnv) -> bool:
    return replica_sets(env) == {"canary": 2, "second": 1, "third": 1}


@pytest.mark.fault("S26")
@pytest.mark.long
def test_canary_whose_new_pods_crash_halts_the_others_within_a_minute(env: FaultEnv) -> None:
    """New pods of a canary that crash again and again halt the other consumers within a minute, as status, Events and
    metrics say. The halt outlives the leader, which is killed, and ends when the canary is mended."""
    receivers = [env.receiver(), env.receiver()]
    create_canary_and_others(env, deadline=600)
    env.send_until_accepted(env.rotate("db"))
    let_crash(env, "canary")
    eventually(lambda: state_of(env) == "RolloutHalted", 60)
    assert "Deployment canary has failed (CrashLoopBackOff)" in env.status("db")
    for reason in ("RolloutHalted", "RolloutStuck"):
        eventually(lambda reason=reason: reason in warnings_of(env.cluster, env.namespace, "db"), 30)
        eventually(lambda reason=reason: reason in warnings_of(env.cluster, env.namespace, "canary", "Deployment"), 30)
    leader = next(each for each in receivers if each.metric("keyturn_poller_leader"))
    assert leader.metric("keyturn_rollouts_halted") == 1
    assert leader.metric("keyturn_rollouts_stuck") == 1
    assert leader.metric("keyturn_rollouts_waiting", reason="halt") == 2
    assert is_untouched(env)

    writes = len(env.kubernetes_proxy.matching("PATCH", "/secrets/db$"))
    leader.kill()
    (other,) = (each for each in receivers if each is not leader)
    eventually(lambda: other.metric("keyturn_poller_leader") == 1, 60)
    eventually(lambda: other.metric("keyturn_rollouts_stuck") == 1, 30)
    env.let_settle(8)
    assert other.metric("keyturn_rollouts_halted") == 1
    restart_receiver(env, other)
    env.let_settle(12)
    assert state_of(env) == "RolloutHalted"
    assert len(env.kubernetes_proxy.matching("PATCH", "/secrets/db$")) == writes
    assert is_untouched(env)

    mend(env, "canary")
    eventually(lambda: replica_sets(env) == {"canary": 2, "second": 2, "third": 2}, 60)
    eventually(lambda: state_of(env) == "ok")
    eventually(lambda: "RolloutResumed" in events_about(env, "Secret", "db"))
    assert env.is_current()


@pytest.mark.fault("S26")
@pytest.mark.long
def test_halt_by_pods_that_crash_ends_by_hand(env: FaultEnv) -> None:
    """With the annotation that the halt's own message gives, the others are restarted although the new pods of the
    canary still crash. `keyturn wait` and `trace` say meanwhile that its rollout has failed."""
    env.receiver()
    create_canary_and_others(env, deadline=600)
    env.send_until_accepted(env.rotate("db"))
    let_crash(env, "canary")
    eventually(lambda: state_of(env) == "RolloutHalted", 60)
    told = cli.run(
        env.cluster.kubeconfig, "wait", "db", "-n", env.namespace, "--version", env.version_id("db"), "--for", "live"
    )
    assert (told.code, "Deployment canary in" in told.err.replace(f"{env.namespace}/", "")) == (4, True), told
    assert "CrashLoopBackOff" in told.err
    told = cli.run(env.cluster.kubeconfig, "trace", "db", "-n", env.namespace)
    assert any("✗" in line and "canary" in line and "CrashLoopBackOff" in line for line in told.out.splitlines()), told
    env.cluster.kubectl(*env.status("db").rpartition("kubectl ")[2].split())
    eventually(lambda: replica_sets(env) == {"canary": 2, "second": 2, "third": 2}, 60)
    eventually(lambda: state_of(env) == "ok")


@pytest.mark.fault("S26")
@pytest.mark.long
def test_crash_after_the_change_of_a_watched_secret_halts_the_others(env: FaultEnv) -> None:
    """A Secret that others fill has no status: Events and metrics tell of the halt, which outlives the receiver."""
    receiver = env.receiver()
    labels = {"keyturn.dev/watch": "true"}
    metadata = {"namespace": env.namespace, "name": "db", "labels": labels}
    env.cluster.create([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"a": "first"}}])
    create_consumers_of(env, deadline=600)
    for name in ("canary", "second", "third"):
        eventually(lambda name=name: MARK in annotations_of(env.cluster, "deployment", env.namespace, name))
    change = json.dumps({"stringData": {"a": "second"}})
    env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "-p", change)
    let_crash(env, "canary")
    eventually(lambda: receiver.metric("keyturn_rollouts_halted") == 1, 60)
    eventually(lambda: "RolloutHalted" in warnings_of(env.cluster, env.namespace, "db"))
    eventually(lambda: "RolloutHalted" in warnings_of(env.cluster, env.namespace, "canary", "Deployment"))
    restart_receiver(env, receiver)
    eventually(lambda: receiver.metric("keyturn_rollouts_halted") == 1, 30)
    env.let_settle(8)
    assert is_untouched(env)
    mend(env, "canary")
    eventually(lambda: replica_sets(env) == {"canary": 2, "second": 2, "third": 2}, 60)


@pytest.mark.fault("S26")
def test_change_outside_the_window_waits_until_it_opens(env: FaultEnv) -> None:
    """Outside its window a consumer is not restarted, and Events on it and on the Secret say until when; the others are
    restarted at once. The consumer follows once its window is open, although the receiver was killed meanwhile."""
    receiver = env.receiver()
    env.create_bound_secret(consumers=())
    env.cluster.create(
        [deployment(env, "late", **{"keyturn.dev/rollout-window": "0 3 29 2 * for 1h"}), deployment(env, "free")]
    )
    eventually(are_ready(env, 2), 60)
    assert env.send_until_accepted(env.rotate("db")).outcome == "applied"
    eventually(lambda: replica_sets(env) == {"late": 1, "free": 2})
    opens = "until 2028-02-29 03:00 UTC, when the rollout window opens"
    eventually(lambda: opens in events_about(env, "Deployment", "late").get("RolloutWaiting", ""))
    eventually(lambda: opens in events_about(env, "Secret", "db").get("RolloutWaiting", ""))
    assert receiver.metric("keyturn_rollouts_waiting", reason="window") == 1
    restart_receiver(env, receiver)
    env.let_settle(2)
    assert replica_sets(env) == {"late": 1, "free": 2}
    annotate(env, "deployment", "late", "keyturn.dev/rollout-window=* * * * * for 1m in Europe/Berlin")
    eventually(lambda: replica_sets(env) == {"late": 2, "free": 2})


@pytest.mark.fault("S26")
def test_window_that_opens_soon_is_met_without_any_change(env: FaultEnv) -> None:
    """When a window opens, the consumer is restarted within 15 s, although nothing has changed in the cluster."""
    env.receiver()
    env.create_bound_secret(consumers=())
    soon = datetime.now(UTC) + timedelta(seconds=75)  # this minute begins in 15 s or more: time to rotate
    window = f"{soon.minute} {soon.hour} * * * for 5m"
    env.cluster.create([deployment(env, "web", **{"keyturn.dev/rollout-window": window})])
    eventually(are_ready(env, 1), 60)
    env.send_until_accepted(env.rotate("db"))
    opens = soon.replace(second=0, microsecond=0)
    while datetime.now(UTC) < opens - timedelta(seconds=1):
        assert replica_sets(env) == {"web": 1}
        time.sleep(0.5)
    eventually(lambda: replica_sets(env) == {"web": 2}, 15)


@pytest.mark.fault("S26")
def test_pace_of_the_cluster_holds_for_two_receivers_and_survives_the_end_of_the_leader(env: FaultEnv) -> None:
    """With a limit of two for the cluster, the rollouts of three Secrets together stay within it, with two receivers
    and though the leader is killed."""
    limit = {"KEYTURN_MAX_UNFINISHED_PER_CLUSTER": "2"}
    receivers = [env.receiver(**limit), env.receiver(**limit)]
    for name in ("db", "cache", "mail"):
        env.create_bound_secret(name, consumers=())
    names = [f"{name}-{number}" for name in ("db", "cache", "mail") for number in range(4)]
    env.cluster.create(workload(env.namespace, each, env_from(each.partition("-")[0])) for each in names)
    eventually(are_ready(env, len(names)), 60)
    with watched(env) as rollouts:
        for name in ("db", "cache", "mail"):
            env.send_until_accepted(env.rotate(name))
        eventually(lambda: len(rollouts.restarted) >= 4, 60)
        leader = next(each for each in receivers if each.metric("keyturn_poller_leader"))
        leader.kill()
        eventually(lambda: len(rollouts.restarted) == len(names) and not rollouts.unfinished, 120)
        assert rollouts.most <= 2
    assert replica_sets(env) == dict.fromkeys(names, 2)


@pytest.mark.fault("S26")
def test_pace_of_a_secret_holds_for_two_receivers_that_get_its_rotations_in_turns(env: FaultEnv) -> None:
    """With a pace of two, the rollouts of twelve consumers stay within it, though their Secret rotates again and again
    meanwhile, and two receivers get the deliveries in turns."""
    pace = {"KEYTURN_MAX_UNFINISHED_PER_SECRET": "2"}
    receivers = [env.receiver(**pace), env.receiver(**pace)]
    env.create_bound_secret(consumers=())
    names = [f"web-{number:02}" for number in range(12)]
    env.cluster.create(deployment(env, name) for name in names)
    eventually(are_ready(env, len(names)), 60)
    with watched(env) as rollouts:
        for number in range(6):
            assert env.send(env.rotate("db"), to=receivers[number % 2]).status == 200
            env.let_settle(0.7)
        eventually(lambda: all(env.has_latest(name) for name in names) and not rollouts.unfinished, 120)
        assert rollouts.most == 2
