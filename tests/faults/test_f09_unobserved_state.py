"""F9 to F12: something has happened, and nobody has told the receiver."""

import json
import threading
import time

import pytest

from support.fault_env import Scene
from support.fault_proxy import Call, Edit, Fate, Reply
from support.manifests import data_of, eventually, secret


@pytest.mark.fault("F9")
def test_every_notification_is_lost(scene: Scene) -> None:
    """Every notification of three rotations is lost: each is there within one poll period of 5 s plus jitter, and
    counted as recovered."""
    receiver = scene.receiver(KEYTURN_POLL_INTERVAL_SECONDS="5")
    scene.given()
    for number in range(3):
        scene.rotate(text=f"lost-{number}")
        begun = time.monotonic()
        eventually(scene.in_order, 5 * 1.1 + 4)
        assert time.monotonic() - begun < 5 * 1.1 + 4
    eventually(lambda: receiver.metric("keyturn_recovered_by_poll_total") == 3)  # counted once consumers are marked
    scene.converge()


def a_binding_is_seen(scene: Scene, name: str, seconds: float = 15) -> None:
    scene.create(name)
    scene.bind(name)
    eventually(lambda: scene.in_order(name), seconds)


@pytest.mark.fault("F10")
@pytest.mark.parametrize("how", ["in the stream", "at once"])
def test_a_watch_that_is_too_far_behind(scene: Scene, how: str) -> None:
    """Watches are told 410 Gone, in the stream and at once."""
    receiver = scene.receiver(KEYTURN_WATCH_SECONDS="2")
    scene.given()
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "metadata": {}}
    left = ["secrets", "deployments", "namespaces"]

    def expired(call: Call) -> Fate:
        resource = call.path.rpartition("/")[2]
        if not call.watch or resource not in left:
            return None
        left.remove(resource)
        if how == "at once":
            return Reply(410, gone)
        return Reply(200, (json.dumps({"type": "ERROR", "object": gone}) + "\n").encode())

    scene.kubernetes.fate = expired
    eventually(lambda: not left)
    a_binding_is_seen(scene, "new")
    assert receiver.metric("keyturn_kubernetes_requests_total", verb="get", resource="secrets") > 0
    scene.deliver(scene.rotate())
    scene.converge()


@pytest.mark.fault("F10")
def test_a_watch_that_falls_silent(scene: Scene) -> None:
    """A watch that says nothing any more is given up, and what it kept back is seen."""
    scene.receiver(KEYTURN_WATCH_SECONDS="2")
    scene.given()
    silent = threading.Event()
    scene.kubernetes.fate = lambda call: (
        Edit(lambda line: silent.wait(60) and b"") if call.watch and not silent.is_set() else None
    )
    before = len(scene.kubernetes.calls)
    eventually(lambda: any(call.watch and "/secrets" in call.path for call in scene.kubernetes.calls[before:]))
    scene.create("new")
    scene.bind("new")
    scene.settled(1)
    assert not scene.in_order("new")
    scene.kubernetes.fate = lambda call: None  # new watches work; the old ones stay silent, and are never closed
    eventually(lambda: scene.in_order("new"), 15)
    silent.set()
    scene.deliver(scene.rotate())
    scene.converge()


@pytest.mark.fault("F10")
def test_a_deletion_that_is_never_told(scene: Scene) -> None:
    """A DELETED event is lost: the next list tells, and the Secret is not brought back."""
    receiver = scene.receiver(KEYTURN_RESYNC_SECONDS="3", KEYTURN_WATCH_SECONDS="2")
    scene.given(consumers=())
    scene.kubernetes.fate = lambda call: (
        Edit(lambda line: None if b'"DELETED"' in line else line) if call.watch else None
    )
    a_binding_is_seen(scene, "other")
    eventually(lambda: receiver.metric("keyturn_bindings") == 2)
    time.sleep(2)
    scene.unbind("db")
    assert scene.send(scene.rotate()).status == 200
    eventually(lambda: receiver.metric("keyturn_bindings") == 1)
    assert not scene.cluster.kubectl("get", "secret", "db", "-n", scene.namespace, "--ignore-not-found")
    scene.converge()


@pytest.mark.fault("F10")
def test_a_connection_that_is_cut_in_the_middle_of_an_object(scene: Scene) -> None:
    """A watch's connection is cut in the middle of an object: the half is not taken for anything, the whole comes."""
    scene.receiver(KEYTURN_WATCH_SECONDS="2")
    scene.given()
    cut: list[bytes] = []

    def half(line: bytes) -> bytes:
        if cut:
            raise ConnectionResetError
        cut.append(line)
        return line[: len(line) // 2]

    scene.kubernetes.fate = lambda call: (
        Edit(half) if call.watch and call.path.endswith("/secrets") and not cut else None
    )
    before = len(scene.kubernetes.calls)
    eventually(lambda: any(call.watch and "/secrets" in call.path for call in scene.kubernetes.calls[before:]))
    a_binding_is_seen(scene, "first-half-only", 20)
    assert cut
    scene.kubernetes.heal()
    scene.deliver(scene.rotate())
    scene.converge()


@pytest.mark.fault("F11")
def test_a_binding_that_is_added_while_its_notification_is_in_flight(scene: Scene) -> None:
    """Bindings are added while notifications about their secrets are on the way, before and after, ten times over."""
    scene.receiver()
    for number in range(10):
        name = f"new-{number}"
        scene.create(name)
        told = scene.rotate(name)
        sending = threading.Thread(target=scene.send, args=[told])
        if number % 2:
            sending.start()
        scene.bind(name)
        if not number % 2:
            sending.start()
        last = scene.rotate(name, "last")
        assert scene.deliver(last).status == 200
        sending.join()
    scene.converge()


@pytest.mark.fault("F12")
def test_the_target_is_edited_by_hand(scene: Scene) -> None:
    """The Secret is edited by hand, while the receiver looks and while it does not: restored, and nobody restarted."""
    receiver = scene.receiver()
    scene.given()
    for looking in (True, False):
        if not looking:
            receiver.kill()
        patch = json.dumps({"stringData": {"value": "tampered", "mine": "stays"}})
        scene.cluster.kubectl("patch", "secret", "db", "-n", scene.namespace, "-p", patch)
        if not looking:
            scene.end_lease()
            receiver.start()
        eventually(lambda: data_of(scene.cluster, scene.namespace, "db")["value"] == scene.current().encode())
        assert data_of(scene.cluster, scene.namespace, "db")["mine"] == b"stays"
        remove = json.dumps([{"op": "remove", "path": "/data/mine"}])
        scene.cluster.kubectl("patch", "secret", "db", "-n", scene.namespace, "--type=json", "-p", remove)
    remove = json.dumps([{"op": "remove", "path": "/data/value"}])
    scene.cluster.kubectl("patch", "secret", "db", "-n", scene.namespace, "--type=json", "-p", remove)
    scene.converge()
    assert not any(scene.witness.marks("web", "db"))


@pytest.mark.fault("F12")
def test_the_target_is_deleted_by_hand(scene: Scene) -> None:
    """Deleted by hand, it stays deleted, whatever comes; created again, it is filled."""
    scene.receiver()
    scene.given()
    scene.cluster.kubectl("delete", "secret", "db", "-n", scene.namespace)
    assert scene.send(scene.rotate()).status == 200
    scene.settled()
    assert not scene.cluster.kubectl("get", "secret", "db", "-n", scene.namespace, "--ignore-not-found")
    scene.cluster.create([secret(scene.namespace, "db", f"{scene.namespace}/db")])
    scene.converge()
