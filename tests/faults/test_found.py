"""What random histories have found, each by itself."""

import json
import threading
from dataclasses import replace
from uuid import uuid4

import pytest

from keyturn_contract.message import EventType
from keyturn_local.aws.rotation import promote, rotate
from keyturn_receiver.core.revision import digest
from support.fault_env import Scene
from support.fault_proxy import Call, Cut, Edit, Fate, Reply
from support.manifests import eventually, secret, workload


@pytest.mark.fault("F5")
def test_a_replica_that_was_held_up_does_not_write_what_it_read_before(scene: Scene) -> None:
    """A replica is held up between reading a value and writing it, while another writes a newer one: it reads again."""
    held_up, quick = scene.receiver(), scene.receiver(straight=True)
    scene.given()
    arrived, released = threading.Event(), threading.Event()

    def hold(call: Call) -> Fate:
        if call.method == "PATCH" and call.path.endswith("/secrets/db") and not arrived.is_set():
            arrived.set()
            released.wait(10)
        return None

    scene.kubernetes.fate = hold
    one = scene.rotate(text="one")
    sending = threading.Thread(target=scene.send, args=[one], kwargs={"to": held_up})
    sending.start()
    assert arrived.wait(10)
    assert scene.send(scene.rotate(text="two"), to=quick).outcome == "applied"
    released.set()
    sending.join()
    scene.converge()
    values = [state["value"].split(b"-")[2] for state in scene.witness.secret("db") if state]
    assert values == [b"first", b"two"]


@pytest.mark.fault("F8")
@pytest.mark.parametrize("with_version", [True, False])
def test_a_roll_back_of_a_rotation_that_the_replica_has_not_seen(scene: Scene, with_version: bool) -> None:
    """AWS rolls back, and the replica that is told has not seen yet what another has written before: it is applied."""
    silent = threading.Event()
    scene.kubernetes.fate = lambda call: Edit(lambda line: None if silent.is_set() else line) if call.watch else None
    deaf, other = scene.receiver(), scene.receiver(straight=True)
    arn = scene.given()
    (first,) = scene.client.describe_secret(SecretId=arn)["VersionIdsToStages"]
    assert scene.send(scene.changed("db", "unheard-of"), to=deaf).outcome == "superseded"  # it knows the Secret now
    scene.settled()
    silent.set()
    assert scene.send(scene.rotate(text="two"), to=other).outcome == "applied"
    promote(scene.client, arn, first)
    told = scene.changed("db", first) if with_version else scene.about(arn, EventType.RESTORED)
    assert scene.send(told, to=deaf).outcome == "applied"
    scene.converge()


@pytest.mark.fault("F2")
def test_aws_deletes_the_secret_between_the_secret_and_its_rollouts(scene: Scene) -> None:
    """The Secret is written, its rollouts cannot be, and AWS deletes the secret meanwhile: they still happen."""
    scene.receiver()
    arn = scene.given()
    scene.kubernetes.fate = lambda call: Cut() if call.method == "PATCH" and "/deployments/" in call.path else None
    assert scene.send(scene.rotate()).status == 503
    assert scene.in_order()
    scene.client.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    assert scene.send(scene.about(arn, EventType.DELETED)).status == 503
    scene.kubernetes.heal()
    scene.deliver(scene.about(arn, EventType.DELETED))
    assert scene.status("db").startswith(("SourceNotFound:", "SourcePendingDeletion:"))
    scene.oracle()  # which misses no restart


def no_restart(call: Call) -> Fate:
    """What a webhook says that takes none."""
    refusal = Reply(422, {"kind": "Status", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422})
    return refusal if call.method == "PATCH" and "/deployments/" in call.path else None


@pytest.mark.fault("F2")
def test_a_restart_that_is_refused_is_told_once(scene: Scene) -> None:
    """A webhook takes no restart: the Secret says so, and stays as it is, however often the restart is tried."""
    scene.receiver()
    scene.given()
    scene.kubernetes.fate = no_restart
    refused = scene.rotate()
    for _ in range(5):
        assert scene.send(refused).status == 200
    eventually(lambda: scene.status("db").startswith("ClusterRefused"))
    scene.settled()
    states = scene.witness.states("secrets", "db")
    tries = len(scene.kubernetes.matching("PATCH", "/deployments/web"))
    assert scene.send(refused).status == 200
    scene.settled()
    assert len(scene.kubernetes.matching("PATCH", "/deployments/web")) == tries + 1
    assert scene.witness.states("secrets", "db") == states
    told = [state["metadata"]["annotations"].get("keyturn.dev/status", "").split(":")[0] for state in states]
    assert told[-2:] == ["ok", "ClusterRefused"]
    assert told.count("ClusterRefused") == 1
    scene.kubernetes.heal()
    for rollout in ("keyturn.dev/rollout=disabled", "keyturn.dev/rollout-"):
        scene.cluster.kubectl("annotate", "deployment", "web", "-n", scene.namespace, rollout)
    scene.converge()  # by the sight of the workload alone, and the status with it


@pytest.mark.fault("F2")
def test_a_restart_that_is_refused_takes_no_rotation_with_it(scene: Scene) -> None:
    """A webhook takes no restart, and AWS fails for a while: the rotation is not taken before it is in the Secret."""
    scene.receiver()
    scene.given()
    scene.kubernetes.fate = no_restart
    assert scene.send(scene.rotate()).status == 200
    eventually(lambda: scene.status("db").startswith("ClusterRefused"))
    told = scene.rotate()
    scene.aws_proxy.fate = lambda call: Reply(500, {"__type": "InternalServiceError"})
    assert scene.send(told).status == 503
    scene.aws_proxy.heal()
    scene.deliver(told)
    assert scene.witness.now("db")[0] == {"value": scene.current().encode()}
    scene.kubernetes.heal()
    scene.deliver(scene.rotate())
    scene.converge()


@pytest.mark.fault("F13")
def test_a_version_told_twice_hides_nothing_that_names_none(scene: Scene) -> None:
    """One delivery tells of a version that is there already, and of a deletion: AWS is asked."""
    scene.receiver()
    arn = scene.given(consumers=())
    told = scene.rotate()
    assert scene.send(told).outcome == "applied"
    scene.client.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    assert scene.send(replace(told, id=str(uuid4())), scene.about(arn, EventType.DELETED)).status == 200
    assert scene.status("db").startswith("SourcePendingDeletion")


@pytest.mark.fault("F12")
def test_a_secret_that_goes_while_it_is_refused(scene: Scene) -> None:
    """Deleted while its write is under way, which is then refused: nobody counts it as failing any more."""
    receiver = scene.receiver()
    scene.given(consumers=())

    def refuse(call: Call) -> Fate:
        if call.method == "PATCH" and call.path.endswith("/secrets/db"):
            scene.unbind()
            eventually(lambda: receiver.metric("keyturn_bindings") == 0)
            return Reply(403, {"kind": "Status", "metadata": {}, "status": "Failure", "code": 403})
        return None

    scene.kubernetes.fate = refuse
    assert scene.send(scene.rotate()).status == 200
    assert scene.kubernetes.matching("PATCH", "/secrets/db")
    assert receiver.metric("keyturn_failing_bindings") == 0
    scene.kubernetes.heal()


@pytest.mark.fault("F12")
def test_somebody_else_who_goes_on_writing_the_same(scene: Scene) -> None:
    """Another writer takes back each write at once, for ever: it is answered with delays that grow, and AWS with it."""
    receiver = scene.receiver()
    scene.given(consumers=())
    other = threading.Event()

    def answered(call: Call, status: int) -> None:
        if call.method == "PATCH" and call.path.endswith("/secrets/db") and not other.is_set():
            patch = json.dumps({"stringData": {"value": "theirs"}})
            scene.cluster.kubectl("patch", "secret", "db", "-n", scene.namespace, "--type=merge", "-p", patch)

    scene.kubernetes.answered = answered
    scene.deliver(scene.rotate())
    eventually(lambda: "slowing down" in receiver.log, 60)
    scene.settled(4)  # the next after 1, 2 and 4 s
    before = len(scene.kubernetes.matching("PATCH", "/secrets/db$"))
    scene.settled(4)
    assert len(scene.kubernetes.matching("PATCH", "/secrets/db$")) - before <= 2
    other.set()
    scene.converge(60)


@pytest.mark.fault("F12")
def test_a_secret_made_anew_with_another_binding(scene: Scene) -> None:
    """Deleted and made anew with another expression, while AWS stands still: its consumer is restarted."""
    scene.receiver()
    scene.create("db")
    value = {"old": scene.value("old"), "new": scene.value("new")}
    scene.client.put_secret_value(SecretId=f"{scene.namespace}/db", SecretString=json.dumps(value))

    def bind(expression: str) -> None:
        binding = {"keyturn.dev/data": f"PASSWORD: {expression}"}
        scene.cluster.create([secret(scene.namespace, "db", f"{scene.namespace}/db", **binding)])
        eventually(lambda: expression.encode() in scene.witness.now("db")[0].get("PASSWORD", b""))

    def mark() -> str:
        revisions = scene.witness.revisions("db")[-1]
        return digest(revisions, revisions)

    bind("old")
    reads = {"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "PASSWORD"}}}]}
    scene.cluster.create([workload(scene.namespace, "web", {"container": reads})])
    eventually(lambda: scene.witness.baseline("web", "db") == mark())
    scene.cluster.kubectl("delete", "secret", "db", "-n", scene.namespace)
    bind("new")
    eventually(lambda: scene.witness.marks("web", "db") == [None, mark()])


@pytest.mark.fault("F23")
def test_what_one_replica_failed_at_and_another_has_put_right(scene: Scene) -> None:
    """A value that no replica can use, and then one that the other replica applies: neither counts it as failing."""
    replicas = one, other = scene.receiver(), scene.receiver()
    scene.given(consumers=())
    useless = rotate(scene.client, f"{scene.namespace}/db", json.dumps({"other": scene.value("other")}))
    assert scene.send(scene.changed("db", useless), to=one).outcome == "ignored"
    assert one.metric("keyturn_failing_bindings") == 1
    assert scene.deliver(scene.rotate(), to=other).outcome in ("applied", "unchanged")  # it may have looked by itself
    eventually(lambda: [each.metric("keyturn_failing_bindings") for each in replicas] == [0, 0])
    scene.converge()
