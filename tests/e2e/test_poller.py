"""The poller finds the rotations that the event path has missed."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keyturn_contract.message import EventType
from keyturn_local.aws.rotation import rotate
from support.cluster_state import data_of
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Hang, Reply
from support.manifests import secret
from support.wait import eventually

RECOVERED = "keyturn_recovered_by_poll_total"


def test_rotation_with_a_lost_event_arrives_within_the_interval(own_stack: Callable, namespace: str) -> None:
    with own_stack(KEYTURN_POLL_INTERVAL_SECONDS="2") as stack:
        client = stack.aws.secrets_manager()
        name = f"{namespace}/db"
        client.create_secret(Name=name, SecretString="one")
        stack.cluster.create([secret(namespace, "db", name)])
        eventually(lambda: data_of(stack.cluster, namespace, "db"))
        eventually(lambda: stack.receiver.metric("keyturn_sweeps_total", outcome="ok"))
        assert stack.receiver.metric(RECOVERED) == 0

        stack.aws.cut_event_path()
        rotate(client, name, "two")
        eventually(lambda: data_of(stack.cluster, namespace, "db")["value"] == b"two", seconds=2 * 1.1 + 5)
        eventually(lambda: stack.receiver.metric(RECOVERED) == 1)


def test_sweep_without_changes_reads_no_value(own_stack: Callable, namespace: str) -> None:
    with own_stack(KEYTURN_POLL_INTERVAL_SECONDS="1", KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="3600") as stack:
        name = f"{namespace}/db"
        stack.aws.secrets_manager().create_secret(Name=name, SecretString="one")
        stack.cluster.create([secret(namespace, "db", name)])
        eventually(lambda: data_of(stack.cluster, namespace, "db"))
        version_id = rotate(stack.aws.secrets_manager(), name, "two")
        eventually(lambda: version_id in stack.aws.notifier_log.delivered())

        def two_sweeps() -> None:
            sweeps = stack.receiver.metric("keyturn_sweeps_total", outcome="ok")
            eventually(lambda: stack.receiver.metric("keyturn_sweeps_total", outcome="ok") >= sweeps + 2)

        two_sweeps()  # a sweep that had already begun may have read the cluster before the Secret was filled
        since = time.time()
        two_sweeps()
        # A function may start meanwhile and read the signing key.
        calls = [call for call in stack.aws.recent_calls("secretsmanager") if call.at >= since and not call.by_function]
        assert "ListSecrets" in {call.action for call in calls}
        assert not {"GetSecretValue", "BatchGetSecretValue"} & {call.action for call in calls}, calls


@pytest.mark.parametrize("mode", ["list", "describe"])
def test_role_without_list_permission_describes_each_secret(env: FaultEnv, mode: str) -> None:
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1", KEYTURN_POLL_MODE=mode)
    env.create_bound_secret()
    denied = Reply(400, {"__type": "AccessDeniedException"}, {"Content-Type": "application/x-amz-json-1.1"})
    env.aws_proxy.fault_for = lambda call: denied if call.action == "ListSecrets" else None
    env.rotate(text="unheard")
    env.wait_converged()
    assert env.aws_proxy.actions("DescribeSecret", f"{env.namespace}/db")
    eventually(lambda: receiver.metric(RECOVERED) == 1)


def test_hanging_sweep_delays_no_notification(env: FaultEnv) -> None:
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret()

    def hang(call: Call) -> Fault:
        return Hang() if call.action in ("ListSecrets", "DescribeSecret") else None

    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="ok"))
    env.aws_proxy.fault_for = hang
    eventually(lambda: env.aws_proxy.actions("ListSecrets"))
    for _ in range(5):
        begun = time.monotonic()
        assert env.send(env.rotate()).outcome == "applied"
        assert time.monotonic() - begun < 3
    env.wait_converged()


def test_heartbeats_are_shared_and_their_absence_shortens_the_interval(env: FaultEnv) -> None:
    settings = {"KEYTURN_HEARTBEAT_SILENCE_SECONDS": "6", "KEYTURN_POLL_INTERVAL_SECONDS": "3600"}
    replicas = [env.receiver(**settings) for _ in range(2)]
    env.create_bound_secret()

    def beat() -> bool:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = replace(notification("keyturn", kind=EventType.HEARTBEAT), time=now)
        return env.send(told, to=replicas[0]).status == 200

    def up() -> list[float]:
        return [replica.metric("keyturn_event_path_up") for replica in replicas]

    # The replica that gets no heartbeats learns of them from the Lease. Until then, its state depends on when it
    # started.
    heard = time.monotonic() + 8
    while time.monotonic() < heard:
        assert beat()
        time.sleep(0.5)
    end = time.monotonic() + 10
    while time.monotonic() < end:  # this is longer than the 6 s of silence that the settings allow
        assert beat()
        assert up() == [1, 1]
        time.sleep(0.5)
    eventually(lambda: up() == [0, 0], 20)
    env.rotate(text="unheard")
    eventually(env.is_current, 45)  # the poller now sweeps every 30 s instead of every hour
    eventually(lambda: sum(replica.metric(RECOVERED) for replica in replicas) == 1)
    eventually(lambda: beat() and up() == [1, 1])  # heartbeats alone bring the event path up again
    env.wait_converged()
