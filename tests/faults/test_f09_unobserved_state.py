"""F9 to F12: something changes without the receiver being notified."""

import json
import threading
import time

import pytest

from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Edit, Fault, Reply
from support.manifests import secret
from support.wait import eventually


@pytest.mark.fault("F9")
def test_lost_notifications_are_recovered_within_one_poll_period(env: FaultEnv) -> None:
    """The notifications of three rotations are all lost. Each rotation still arrives within one poll period of 5 s plus
    its jitter and 4 s, and is counted as recovered by the poller."""
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="5")
    env.create_bound_secret()
    for number in range(3):
        env.rotate(text=f"lost-{number}")
        begun = time.monotonic()
        eventually(env.is_current, 5 * 1.1 + 4)
        assert time.monotonic() - begun < 5 * 1.1 + 4
    # The receiver counts a rotation as recovered only after it has marked the consumers.
    eventually(lambda: receiver.metric("keyturn_recovered_by_poll_total") == 3)
    env.wait_converged()


def a_binding_is_seen(env: FaultEnv, name: str, seconds: float = 15) -> None:
    env.create_aws_secret(name)
    env.bind_secret(name)
    eventually(lambda: env.is_current(name), seconds)


@pytest.mark.fault("F10")
@pytest.mark.parametrize("how", ["in the stream", "at once"])
def test_watch_answered_with_410_is_started_again_without_a_loss(env: FaultEnv, how: str) -> None:
    """One watch each of Secrets, Deployments and namespaces is answered with 410 Gone, either at once or within the
    stream. The receiver starts them again and misses no change."""
    receiver = env.receiver(KEYTURN_WATCH_SECONDS="2")
    env.create_bound_secret()
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "metadata": {}}
    left = ["secrets", "deployments", "namespaces"]

    def expired(call: Call) -> Fault:
        resource = call.path.rpartition("/")[2]
        if not call.watch or resource not in left:
            return None
        left.remove(resource)
        if how == "at once":
            return Reply(410, gone)
        return Reply(200, (json.dumps({"type": "ERROR", "object": gone}) + "\n").encode())

    env.kubernetes_proxy.fault_for = expired
    eventually(lambda: not left)
    a_binding_is_seen(env, "new")
    assert receiver.metric("keyturn_kubernetes_requests_total", verb="get", resource="secrets") > 0
    env.send_until_accepted(env.rotate())
    env.wait_converged()


@pytest.mark.fault("F10")
def test_silent_watch_is_replaced_and_its_events_are_recovered(env: FaultEnv) -> None:
    """All watches stay open but deliver nothing. The receiver replaces them, and then sees the changes that the silent
    watches did not deliver."""
    env.receiver(KEYTURN_WATCH_SECONDS="5")  # watches last long enough for the steps that need silent watches
    env.create_bound_secret()
    silent = threading.Event()
    env.kubernetes_proxy.fault_for = lambda call: (
        Edit(lambda line: silent.wait(60) and b"") if call.watch and not silent.is_set() else None
    )
    before = len(env.kubernetes_proxy.calls)
    eventually(
        lambda: any(
            call.watch and call.query.get("labelSelector") == ["keyturn.dev/bind"]
            for call in env.kubernetes_proxy.calls[before:]
        )
    )
    env.create_aws_secret("new")
    env.bind_secret("new")
    env.let_settle(1)
    assert not env.is_current("new")
    env.kubernetes_proxy.fault_for = lambda call: None  # new watches work, while the old ones stay open and silent
    eventually(lambda: env.is_current("new"), 30)
    silent.set()
    env.send_until_accepted(env.rotate())
    env.wait_converged()


@pytest.mark.fault("F10")
def test_lost_deletion_event_does_not_bring_the_secret_back(env: FaultEnv) -> None:
    """The DELETED event of a Secret is lost. The receiver learns of the deletion from its next list, and does not
    create the Secret again."""
    receiver = env.receiver(KEYTURN_RESYNC_SECONDS="3", KEYTURN_WATCH_SECONDS="2")
    env.create_bound_secret(consumers=())
    env.kubernetes_proxy.fault_for = lambda call: (
        Edit(lambda line: None if b'"DELETED"' in line else line) if call.watch else None
    )
    a_binding_is_seen(env, "other")
    eventually(lambda: receiver.metric("keyturn_bindings") == 2)
    time.sleep(2)
    env.delete_bound_secret("db")
    assert env.send(env.rotate()).status == 200
    eventually(lambda: receiver.metric("keyturn_bindings") == 1)
    assert not env.cluster.kubectl("get", "secret", "db", "-n", env.namespace, "--ignore-not-found")
    env.wait_converged()


@pytest.mark.fault("F10")
def test_watch_cut_in_the_middle_of_an_object_delivers_the_whole_object(env: FaultEnv) -> None:
    """A watch's connection breaks in the middle of an object. The receiver discards the incomplete object and later
    receives the whole one."""
    env.receiver(KEYTURN_WATCH_SECONDS="2")
    env.create_bound_secret()
    cut: list[bytes] = []

    def half(line: bytes) -> bytes:
        if cut:
            raise ConnectionResetError
        cut.append(line)
        return line[: len(line) // 2]

    env.kubernetes_proxy.fault_for = lambda call: (
        Edit(half) if call.watch and call.path.endswith("/secrets") and not cut else None
    )
    before = len(env.kubernetes_proxy.calls)
    eventually(lambda: any(call.watch and "/secrets" in call.path for call in env.kubernetes_proxy.calls[before:]))
    a_binding_is_seen(env, "first-half-only", 20)
    assert cut
    env.kubernetes_proxy.heal()
    env.send_until_accepted(env.rotate())
    env.wait_converged()


@pytest.mark.fault("F11")
def test_binding_added_while_its_notification_is_in_flight_is_filled(env: FaultEnv) -> None:
    """Ten bindings are added, each just before or just after the notification about its secret is sent. Each secret
    rotates once more after that. The receiver fills all ten Secrets with the last values."""
    env.receiver()
    for number in range(10):
        name = f"new-{number}"
        env.create_aws_secret(name)
        told = env.rotate(name)
        sending = threading.Thread(target=env.send, args=[told])
        if number % 2:
            sending.start()
        env.bind_secret(name)
        if not number % 2:
            sending.start()
        last = env.rotate(name, "last")
        assert env.send_until_accepted(last).status == 200
        sending.join()
    env.wait_converged()


@pytest.mark.fault("F12")
def test_edit_by_hand_is_restored_without_a_restart(env: FaultEnv) -> None:
    """A Secret is edited by hand, once while the receiver runs and once while it is down, and in the end its key is
    removed. Each time the receiver restores its own key, leaves a key of the editor alone, and restarts no consumer."""
    receiver = env.receiver()
    env.create_bound_secret()
    for looking in (True, False):
        if not looking:
            receiver.kill()
        patch = json.dumps({"stringData": {"value": "tampered", "mine": "stays"}})
        env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "-p", patch)
        if not looking:
            env.expire_lease()
            receiver.start()
        eventually(lambda: data_of(env.cluster, env.namespace, "db")["value"] == env.aws_value().encode())
        assert data_of(env.cluster, env.namespace, "db")["mine"] == b"stays"
        remove = json.dumps([{"op": "remove", "path": "/data/mine"}])
        env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "--type=json", "-p", remove)
    remove = json.dumps([{"op": "remove", "path": "/data/value"}])
    env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "--type=json", "-p", remove)
    env.wait_converged()
    assert not any(env.history.marks("web", "db"))


@pytest.mark.fault("F12")
def test_deleted_secret_stays_deleted_until_it_is_created_again(env: FaultEnv) -> None:
    """A Secret is deleted by hand, and its AWS secret rotates. The Secret stays deleted, and is filled only when
    somebody creates it again."""
    env.receiver()
    env.create_bound_secret()
    env.cluster.kubectl("delete", "secret", "db", "-n", env.namespace)
    assert env.send(env.rotate()).status == 200
    env.let_settle()
    assert not env.cluster.kubectl("get", "secret", "db", "-n", env.namespace, "--ignore-not-found")
    env.cluster.create([secret(env.namespace, "db", f"{env.namespace}/db")])
    env.wait_converged()
