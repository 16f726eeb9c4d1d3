"""Failures that random histories have found. Each has a test of its own."""

import json
import threading
from dataclasses import replace
from uuid import uuid4

import pytest

from keyturn_contract.message import EventType
from keyturn_local.aws.rotation import promote, rotate
from keyturn_receiver.core.revision import digest
from support.cluster_state import replica_sets
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, Edit, Fault, Reply
from support.manifests import secret, workload
from support.wait import eventually


@pytest.mark.fault("F5")
def test_replica_held_up_after_its_read_reads_again_before_writing(env: FaultEnv) -> None:
    """One replica has read a value, but its write is delayed, and meanwhile another replica writes a newer value. The
    older value never gets into the Secret."""
    held_up, quick = env.receiver(), env.receiver(via_proxy=False)
    env.create_bound_secret()
    arrived, released = threading.Event(), threading.Event()

    def hold(call: Call) -> Fault:
        if call.method == "PATCH" and call.path.endswith("/secrets/db") and not arrived.is_set():
            arrived.set()
            released.wait(10)
        return None

    env.kubernetes_proxy.fault_for = hold
    one = env.rotate(text="one")
    sending = threading.Thread(target=env.send, args=[one], kwargs={"to": held_up})
    sending.start()
    assert arrived.wait(10)
    assert env.send(env.rotate(text="two"), to=quick).outcome == "applied"
    released.set()
    sending.join()
    env.wait_converged()
    values = [state["value"].split(b"-")[2] for state in env.history.data_history("db") if state]
    assert values == [b"first", b"two"]


@pytest.mark.fault("F8")
@pytest.mark.parametrize("with_version", [True, False])
def test_roll_back_of_a_rotation_unknown_to_the_replica_is_applied(env: FaultEnv, with_version: bool) -> None:
    """One replica applies a rotation, which is then rolled back in AWS. Another replica, which has not seen that write
    yet, is notified of the roll-back and still applies it."""
    silent = threading.Event()
    env.kubernetes_proxy.fault_for = lambda call: (
        Edit(lambda line: None if silent.is_set() else line) if call.watch else None
    )
    deaf, other = env.receiver(), env.receiver(via_proxy=False)
    arn = env.create_bound_secret()
    (first,) = env.client.describe_secret(SecretId=arn)["VersionIdsToStages"]
    # The answer shows that this replica knows the Secret.
    assert env.send(env.notification_of("db", "unheard-of"), to=deaf).outcome == "superseded"
    env.let_settle()
    silent.set()
    assert env.send(env.rotate(text="two"), to=other).outcome == "applied"
    promote(env.client, arn, first)
    told = (
        env.notification_of("db", first) if with_version else env.notification_without_version(arn, EventType.RESTORED)
    )
    assert env.send(told, to=deaf).outcome == "applied"
    env.wait_converged()


@pytest.mark.fault("F2")
def test_rollouts_happen_after_aws_deleted_the_secret_in_between(env: FaultEnv) -> None:
    """A Secret is written but the restarts of its consumers fail, and meanwhile the secret is deleted in AWS. The
    consumers are still restarted."""
    env.receiver()
    arn = env.create_bound_secret()
    env.kubernetes_proxy.fault_for = lambda call: (
        Cut() if call.method == "PATCH" and "/deployments/" in call.path else None
    )
    assert env.send(env.rotate()).status == 503
    assert env.is_current()
    env.client.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    assert env.send(env.notification_without_version(arn, EventType.DELETED)).status == 503
    env.kubernetes_proxy.heal()
    env.send_until_accepted(env.notification_without_version(arn, EventType.DELETED))
    assert env.status("db").startswith(("SourceNotFound:", "SourcePendingDeletion:"))
    env.assert_history_consistent()  # also checks that no restart is missing


def no_restart(call: Call) -> Fault:
    """Refuse all writes of Deployments, like an admission webhook that allows no restart."""
    refusal = Reply(422, {"kind": "Status", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422})
    return refusal if call.method == "PATCH" and "/deployments/" in call.path else None


@pytest.mark.fault("F2")
def test_refused_restart_is_reported_once(env: FaultEnv) -> None:
    """An admission webhook refuses every restart. The Secret's status reports this once, and does not change again
    however often the receiver retries."""
    env.receiver()
    env.create_bound_secret()
    env.kubernetes_proxy.fault_for = no_restart
    refused = env.rotate()
    for _ in range(5):
        assert env.send(refused).status == 200
    eventually(lambda: env.status("db").startswith("ClusterRefused"))
    env.let_settle(3)  # a second after its last write, the receiver checks the Secret, and tries once more
    states = env.history.states("secrets", "db")
    tries = len(env.kubernetes_proxy.matching("PATCH", "/deployments/web"))
    assert env.send(refused).status == 200
    env.let_settle()
    assert len(env.kubernetes_proxy.matching("PATCH", "/deployments/web")) == tries + 1
    assert env.history.states("secrets", "db") == states
    told = [state["metadata"]["annotations"].get("keyturn.dev/status", "").split(":")[0] for state in states]
    assert told[-2:] == ["ok", "ClusterRefused"]
    assert told.count("ClusterRefused") == 1
    env.kubernetes_proxy.heal()
    for rollout in ("keyturn.dev/rollout=disabled", "keyturn.dev/rollout-"):
        env.cluster.kubectl("annotate", "deployment", "web", "-n", env.namespace, rollout)
    # The edit of the workload is enough to make the receiver restart the workload and set the status to ok again.
    env.wait_converged()


@pytest.mark.fault("F2")
def test_refused_restart_hides_no_failed_rotation(env: FaultEnv) -> None:
    """An admission webhook refuses every restart, and AWS fails for a while. The receiver does not accept the delivery
    of a rotation until the Secret holds the rotated value."""
    env.receiver()
    env.create_bound_secret()
    env.kubernetes_proxy.fault_for = no_restart
    assert env.send(env.rotate()).status == 200
    eventually(lambda: env.status("db").startswith("ClusterRefused"))
    told = env.rotate()
    env.aws_proxy.fault_for = lambda call: Reply(500, {"__type": "InternalServiceError"})
    assert env.send(told).status == 503
    env.aws_proxy.heal()
    env.send_until_accepted(told)
    assert env.history.current("db")[0] == {"value": env.aws_value().encode()}
    env.kubernetes_proxy.heal()
    env.send_until_accepted(env.rotate())
    env.wait_converged()


@pytest.mark.fault("F13")
def test_duplicate_version_does_not_hide_a_deletion_in_the_same_delivery(env: FaultEnv) -> None:
    """One delivery reports a version that is already applied, and the deletion of the same secret. The receiver still
    asks AWS about the deletion."""
    env.receiver()
    arn = env.create_bound_secret(consumers=())
    told = env.rotate()
    assert env.send(told).outcome == "applied"
    env.client.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    assert (
        env.send(replace(told, id=str(uuid4())), env.notification_without_version(arn, EventType.DELETED)).status == 200
    )
    assert env.status("db").startswith("SourcePendingDeletion")


@pytest.mark.fault("F12")
def test_secret_deleted_during_a_refused_write_no_longer_counts_as_failing(env: FaultEnv) -> None:
    """A Secret is deleted while the receiver writes it, and the write is refused. The receiver no longer counts the
    Secret as failing."""
    receiver = env.receiver(KEYTURN_DEADLINE_SECONDS="18")  # enough for the deletion, which happens during the delivery
    env.create_bound_secret(consumers=())

    def refuse(call: Call) -> Fault:
        if call.method == "PATCH" and call.path.endswith("/secrets/db"):
            env.delete_bound_secret()
            eventually(lambda: receiver.metric("keyturn_bindings") == 0)
            return Reply(403, {"kind": "Status", "metadata": {}, "status": "Failure", "code": 403})
        return None

    env.kubernetes_proxy.fault_for = refuse
    assert env.send(env.rotate()).status == 200
    assert env.kubernetes_proxy.matching("PATCH", "/secrets/db")
    assert receiver.metric("keyturn_failing_bindings") == 0
    env.kubernetes_proxy.heal()


@pytest.mark.long
@pytest.mark.fault("F12")
def test_fight_with_another_writer_is_slowed_down(env: FaultEnv) -> None:
    """Another writer reverts every write of the receiver immediately. The receiver repeats its write, with growing
    delays."""
    receiver = env.receiver()
    env.create_bound_secret(consumers=())
    other = threading.Event()

    def answered(call: Call, status: int) -> None:
        if call.method == "PATCH" and call.path.endswith("/secrets/db") and not other.is_set():
            patch = json.dumps({"stringData": {"value": "theirs"}})
            env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "--type=merge", "-p", patch)

    env.kubernetes_proxy.on_answered = answered
    env.send_until_accepted(env.rotate())
    eventually(lambda: "backing off" in receiver.log, 60)
    env.let_settle(4)  # the receiver writes again after 1, 2 and 4 s
    before = len(env.kubernetes_proxy.matching("PATCH", "/secrets/db$"))
    env.let_settle(4)
    assert len(env.kubernetes_proxy.matching("PATCH", "/secrets/db$")) - before <= 2
    other.set()
    env.wait_converged(60)


@pytest.mark.fault("F12")
def test_recreated_secret_with_another_binding_restarts_its_consumer(env: FaultEnv) -> None:
    """A Secret is deleted and created again with a different expression, while its AWS secret stays the same. Its
    consumer is restarted."""
    env.receiver()
    env.create_aws_secret("db")
    value = {"old": env.new_value("old"), "new": env.new_value("new")}
    env.client.put_secret_value(SecretId=f"{env.namespace}/db", SecretString=json.dumps(value))

    def bind(expression: str) -> None:
        binding = {"keyturn.dev/data": f"PASSWORD: {expression}"}
        env.cluster.create([secret(env.namespace, "db", f"{env.namespace}/db", **binding)])
        eventually(lambda: expression.encode() in env.history.current("db")[0].get("PASSWORD", b""))
        eventually(lambda: env.history.revisions("db"))

    def mark() -> str:
        revisions = env.history.revisions("db")[-1]
        return digest(revisions, revisions)

    bind("old")
    reads = {"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "PASSWORD"}}}]}
    env.cluster.create([workload(env.namespace, "web", {"container": reads})])
    eventually(lambda: env.history.baseline("web", "db") == mark())
    env.cluster.kubectl("delete", "secret", "db", "-n", env.namespace)
    bind("new")
    eventually(lambda: env.history.marks("web", "db") == [None, mark()])


@pytest.mark.fault("F12")
def test_secret_that_is_created_again_with_equal_values_restarts_nobody(env: FaultEnv) -> None:
    """One of the two keys of a Secret rotates. Then the Secret is deleted and created again, twice, while nothing
    changes in AWS. The consumers of both keys keep their pods."""
    env.receiver()
    env.create_aws_secret("db")
    user = env.new_value("user")
    for password in ("one", "two"):
        value = {"user": user, "password": env.new_value(password)}
        env.client.put_secret_value(SecretId=f"{env.namespace}/db", SecretString=json.dumps(value))
        if password == "one":
            bound = secret(env.namespace, "db", f"{env.namespace}/db")
            env.cluster.create([bound])
            eventually(lambda: env.history.current("db")[0].get("password"))
            for key in value:
                reads = {"env": [{"name": "V", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}}]}
                env.cluster.create([workload(env.namespace, key, {"container": reads})])
                eventually(lambda key=key: env.history.baseline(key, "db"))
    version_id = env.client.get_secret_value(SecretId=f"{env.namespace}/db")["VersionId"]
    assert env.send(env.notification_of("db", version_id)).outcome == "applied"
    eventually(lambda: [replica_sets(env.cluster, env.namespace, key) for key in ("user", "password")] == [1, 2])
    before = env.history.revisions("db")[-1]
    assert len(set(before.values())) == 2
    for _ in range(2):
        env.cluster.kubectl("delete", "secret", "db", "-n", env.namespace)
        env.cluster.create([bound])
        eventually(lambda: env.history.current("db")[0].get("password") == value["password"].encode())
    env.let_settle(5)
    assert env.history.revisions("db")[-1] == before
    assert [replica_sets(env.cluster, env.namespace, key) for key in ("user", "password")] == [1, 2]
    env.assert_no_value_leaked()


@pytest.mark.fault("F23")
def test_failure_repaired_by_another_replica_no_longer_counts(env: FaultEnv) -> None:
    """One replica fails on a value that no replica can use, and the other replica applies the next value. After that,
    neither replica counts the Secret as failing."""
    replicas = one, other = env.receiver(), env.receiver()
    env.create_bound_secret(consumers=())
    useless = rotate(env.client, f"{env.namespace}/db", json.dumps({"value": env.new_value("cut")})[:-1])
    assert env.send(env.notification_of("db", useless), to=one).outcome == "ignored"
    assert one.metric("keyturn_failing_bindings") == 1
    assert env.send_until_accepted(env.rotate(), to=other).outcome in (
        "applied",
        "unchanged",
        # The outcome is "unchanged" if the value had already been applied when the delivery arrived.
    )
    eventually(lambda: [each.metric("keyturn_failing_bindings") for each in replicas] == [0, 0])
    env.wait_converged()
