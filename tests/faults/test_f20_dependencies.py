"""F20 to F22: AWS or Kubernetes fails. A failure does not delay other work, and the failed work is done once the
failure is over."""

import json
import time
from collections.abc import Callable, Mapping

import pytest

from keyturn_contract.message import EventType
from keyturn_local.bench.stub_aws import CANARY
from support.cluster_state import data_of, warnings_of
from support.delivery_client import DeliveryReply
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, CutAfter, Fault, Hang, Reply
from support.manifests import secret
from support.wait import eventually

AWS_JSON = {"Content-Type": "application/x-amz-json-1.1"}


def aws_error(code: str, status: int = 400) -> Reply:
    """Return an error in AWS's format. Its message contains a secret value, which the receiver must not repeat."""
    return Reply(status, {"__type": code, "message": f"about {CANARY}-in-a-message"}, AWS_JSON)


# For each fault in AWS calls about one secret: the fault, the status of the answer (503 if the fault will pass by
# itself, 200 if a person has to act), and the advice in the Secret's status.
AWS_FAULTS: Mapping[str, tuple[Fault, int, str]] = {
    "throttled": (aws_error("ThrottlingException"), 503, ""),
    "500": (aws_error("InternalServiceError", 500), 503, ""),
    "503 without a word": (Reply(503, b""), 503, ""),
    "cut": (Cut(), 503, ""),
    "hung": (Hang(), 503, ""),
    "garbage": (Reply(200, b"<html>", AWS_JSON), 503, ""),
    "credentials expired": (aws_error("ExpiredTokenException"), 503, ""),
    "access denied": (aws_error("AccessDeniedException"), 200, "allow secretsmanager:GetSecretValue"),
    "key denied": (aws_error("DecryptionFailure"), 200, "kms:Decrypt"),
}


def only_about(name: str, fault: Fault) -> Callable[[Call], Fault]:
    """Return a function that injects ``fault`` into the reads of one AWS secret, the one called ``name``."""
    return lambda call: fault if call.action in ("GetSecretValue", "BatchGetSecretValue") and call.about(name) else None


def bad_fails_and_good_goes_on(env: FaultEnv, status: int) -> None:
    """Check that the rotation of the failing secret is answered with ``status``, while the rotation of a good one is
    applied in time."""
    answer = env.send(env.rotate("bad"))
    assert answer.status == status, answer.body
    assert env.send(env.rotate("good")).outcome == "applied"  # within the deadline of 4 s


@pytest.mark.fault("F20")
@pytest.mark.parametrize(("fault", "status", "advice"), AWS_FAULTS.values(), ids=AWS_FAULTS)
def test_failure_of_aws_for_one_secret_affects_no_other(env: FaultEnv, fault: Fault, status: int, advice: str) -> None:
    """For one secret, AWS throttles, answers 5xx or garbage, cuts connections, hangs, rejects the credentials, or
    denies access to the secret or its key. Other secrets are still applied, and the failing Secret keeps its last good
    data until it recovers by itself or with the next event."""
    receiver = env.receiver(KEYTURN_DEADLINE_SECONDS="4")
    for name in ("bad", "good"):
        env.create_bound_secret(name, consumers=(f"web-{name}",))
    before = data_of(env.cluster, env.namespace, "bad")
    env.aws_proxy.fault_for = only_about("/bad", fault)
    bad_fails_and_good_goes_on(env, status)
    assert data_of(env.cluster, env.namespace, "bad") == before
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 1, 30)
    if advice:
        assert advice in env.status("bad")
        assert any(
            advice in text for text in eventually(lambda: warnings_of(env.cluster, env.namespace, "bad")).values()
        )
    env.aws_proxy.heal()
    if advice:  # AWS does not report changes of a policy, so only the next rotation or the poller can find out
        env.send_until_accepted(env.rotate("bad"))
    env.wait_converged(60)
    assert receiver.metric("keyturn_failing_bindings") == 0


@pytest.mark.long
@pytest.mark.fault("F20")
def test_forty_hanging_secrets_delay_the_others_by_seconds_at_most(env: FaultEnv) -> None:
    """Reads of forty secrets with a hundred bindings hang at once. The first rotation of another secret is applied
    within 30 s. Once the receiver knows which secrets hang, such a rotation takes less than 4 s."""
    env.receiver(KEYTURN_DEADLINE_SECONDS="8", KEYTURN_AWS_THREADS="16")
    env.create_bound_secret("good")
    names = [f"bad-{number}" for number in range(40)]
    for name in names:
        env.create_aws_secret(name)
    env.cluster.create(
        secret(env.namespace, f"bad-{number}", f"{env.namespace}/bad-{number % 40}") for number in range(100)
    )
    eventually(lambda: env.receivers[0].metric("keyturn_reconciles_total", outcome="applied") >= 101, 60)
    env.aws_proxy.fault_for = only_about("/bad-", Hang())
    told = [env.notification_of(name, "unheard-of") for name in names]
    for begin in range(0, 40, 10):
        env.send(*told[begin : begin + 10], seconds=0.5)  # the sender does not wait for the answers
    assert env.send_until_accepted(env.rotate("good"), seconds=30).outcome in ("applied", "unchanged")
    # By now the receiver knows which secrets hang, and retries them only in the quarantine pool.
    time.sleep(12)
    for _ in range(5):
        told, begun = env.rotate("good"), time.monotonic()
        assert env.send(told).outcome == "applied"
        assert time.monotonic() - begun < 4  # a read that hangs would take 5 s
    env.aws_proxy.heal()
    env.wait_converged(60)


@pytest.mark.fault("F20")
def test_receiver_with_expired_credentials_is_not_ready_until_they_work(env: FaultEnv) -> None:
    """AWS no longer accepts the receiver's own credentials. The receiver reports this and is not ready until they work
    again."""
    receiver = env.receiver(KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1", start=True)
    env.create_bound_secret()
    env.aws_proxy.fault_for = lambda call: aws_error("ExpiredTokenException") if call.action else None
    eventually(lambda: receiver.ready()[0] == 503, 15)
    assert "AWS credentials" in receiver.ready()[1]
    told = env.rotate()
    assert env.send(told).status == 503
    env.aws_proxy.heal()
    eventually(lambda: receiver.ready()[0] == 200, 15)
    # The outcome is "unchanged" if the receiver's own retry came first.
    assert env.send_until_accepted(told).outcome in ("applied", "unchanged")
    env.wait_converged()


@pytest.mark.fault("F20")
def test_secret_deleted_in_aws_is_deleted_only_with_on_delete(make_env: Callable[..., FaultEnv]) -> None:
    """An AWS secret is scheduled for deletion, restored, and later deleted for good; its Secret stays and reports this
    in its status. A Secret with `on-delete: delete` is deleted too, but only when the AWS secret is gone for good."""
    env = make_env(deletions={"enabled": True})
    env.receiver(KEYTURN_DELETIONS="true")
    for name, more in (("stays", {}), ("goes", {"keyturn.dev/on-delete": "delete"})):
        env.create_bound_secret(name, consumers=(), **more)
    before = {name: data_of(env.cluster, env.namespace, name) for name in ("stays", "goes")}

    def told(name: str, kind: EventType) -> DeliveryReply:
        arn = arns[name]
        return env.send_until_accepted(env.notification_without_version(arn, kind))

    arns = {name: env.client.describe_secret(SecretId=f"{env.namespace}/{name}")["ARN"] for name in before}
    for name in before:
        env.client.delete_secret(SecretId=arns[name], RecoveryWindowInDays=7)
        told(name, EventType.DELETED)
        assert data_of(env.cluster, env.namespace, name) == before[name]
        assert "SourcePendingDeletion: " in env.status(name)
    for name in before:
        env.client.restore_secret(SecretId=arns[name])
        told(name, EventType.RESTORED)
        assert env.is_current(name)
    for name in before:
        env.client.delete_secret(SecretId=arns[name], ForceDeleteWithoutRecovery=True)
        told(name, EventType.DELETED)
    assert data_of(env.cluster, env.namespace, "stays") == before["stays"]
    assert "SourceNotFound: " in env.status("stays")
    eventually(lambda: not env.cluster.kubectl("get", "secret", "goes", "-n", env.namespace, "--ignore-not-found"))
    env.assert_no_value_leaked()


@pytest.mark.fault("F20")
def test_deletion_without_the_right_to_it_keeps_the_secret_and_says_so(make_env: Callable[..., FaultEnv]) -> None:
    """AWS deletes a secret, and its Secret has `on-delete: delete`, but the receiver's settings forbid deletions. The
    Secret stays and reports this until the settings allow deletions."""
    # The chart grants the permission to delete, so only the receiver's own setting forbids deletions.
    env = make_env(deletions={"enabled": True})
    receiver = env.receiver()
    arn = env.create_bound_secret("goes", consumers=(), **{"keyturn.dev/on-delete": "delete"})
    before = data_of(env.cluster, env.namespace, "goes")
    env.client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    answer = env.send_until_accepted(env.notification_without_version(arn, EventType.DELETED))
    advice = "set deletions.enabled in the chart (KEYTURN_DELETIONS)"
    assert answer.outcome == "ignored"
    assert advice in answer.body
    assert env.status("goes").startswith("SourceNotFound: ")
    assert advice in env.status("goes")
    assert advice in eventually(lambda: warnings_of(env.cluster, env.namespace, "goes"))["SourceNotFound"]
    assert data_of(env.cluster, env.namespace, "goes") == before
    assert not env.kubernetes_proxy.matching("DELETE", "")

    receiver.stop()
    env.expire_lease()
    env.receiver(KEYTURN_DELETIONS="true")
    eventually(lambda: not env.cluster.kubectl("get", "secret", "goes", "-n", env.namespace, "--ignore-not-found"))
    env.assert_no_value_leaked()


@pytest.mark.fault("F20")
def test_receiver_in_the_wrong_region_deletes_nothing(make_env: Callable[..., FaultEnv]) -> None:
    """A receiver that is started in the wrong region finds none of the secrets. It deletes no Secret."""
    env = make_env(deletions={"enabled": True})
    first = env.receiver(KEYTURN_DELETIONS="true")
    env.create_bound_secret("goes", consumers=(), **{"keyturn.dev/on-delete": "delete"})
    first.stop()
    env.expire_lease()
    env.client_in("eu-west-1").create_secret(Name="keyturn/signing-key", SecretString=env.signing_key)
    elsewhere = env.receiver(
        AWS_REGION="eu-west-1",
        AWS_DEFAULT_REGION="eu-west-1",
        KEYTURN_SIGNING_KEY_SECRET_ID="keyturn/signing-key",
        KEYTURN_DELETIONS="true",
        KEYTURN_POLL_INTERVAL_SECONDS="1",
    )
    eventually(lambda: elsewhere.metric("keyturn_reconciles_total", outcome="SourceRefused") > 0, 20)
    assert "which role and region" in env.status("goes")
    elsewhere.stop()
    env.expire_lease()
    first.start()
    env.send_until_accepted(env.rotate("goes"), to=first)
    env.wait_converged()


STATUS = {"kind": "Status", "status": "Failure", "message": f"about {CANARY}-in-a-message", "metadata": {}}
# For each fault in writes of one Secret: the fault, the status of the answer, and the advice in the Secret's status.
KUBERNETES_FAULTS: Mapping[str, tuple[Fault, int, str]] = {
    "429": (Reply(429, {**STATUS, "reason": "TooManyRequests", "code": 429}, {"Retry-After": "1"}), 503, ""),
    "409": (Reply(409, {**STATUS, "reason": "Conflict", "code": 409}), 503, ""),
    "500": (Reply(500, {**STATUS, "reason": "InternalError", "code": 500}), 503, ""),
    "hung": (Hang(), 503, ""),
    "cut": (Cut(), 503, ""),
    "garbage": (Reply(502, b"<html>"), 503, ""),
    "denied by admission": (Reply(403, {**STATUS, "reason": "Forbidden", "code": 403}), 200, "admission policy"),
    "over quota": (Reply(403, {**STATUS, "reason": "Forbidden", "code": 403}), 200, "a quota"),
    "too large": (Reply(413, {**STATUS, "reason": "RequestEntityTooLarge", "code": 413}), 200, "correct the object"),
    "invalid": (
        Reply(422, {**STATUS, "reason": "Invalid", "code": 422, "details": {"causes": [{"field": "data[value]"}]}}),
        200,
        "data[value]",
    ),
}


@pytest.mark.fault("F21")
@pytest.mark.parametrize(("fault", "status", "advice"), KUBERNETES_FAULTS.values(), ids=KUBERNETES_FAULTS)
def test_failure_of_kubernetes_for_one_secret_affects_no_other(
    env: FaultEnv, fault: Fault, status: int, advice: str
) -> None:
    """When one Secret is written, the API server answers 429, 409, 500 or garbage, hangs, cuts the connection, or
    refuses because of admission, quota, size or validation. Other Secrets are still applied, and the failing one
    recovers by itself or with the next event."""
    env.receiver(KEYTURN_DEADLINE_SECONDS="4")
    for name in ("bad", "good"):
        env.create_bound_secret(name, consumers=(f"web-{name}",))

    def applies(call: Call) -> Fault:
        is_apply = "apply-patch" in call.headers.get("content-type", "")
        return fault if is_apply and call.path.endswith("/secrets/bad") else None

    env.kubernetes_proxy.fault_for = applies
    bad_fails_and_good_goes_on(env, status)
    if advice:
        assert advice in env.status("bad")
    env.kubernetes_proxy.heal()
    if advice:
        env.send_until_accepted(env.rotate("bad"))
    env.wait_converged(60)


@pytest.mark.fault("F21")
@pytest.mark.parametrize("fault", [Cut(), CutAfter()], ids=["before", "after"])
@pytest.mark.parametrize("resource", ["secrets", "deployments"])
def test_write_whose_connection_is_cut_is_done_once(env: FaultEnv, resource: str, fault: Fault) -> None:
    """The connection is cut before or after the API server has done a write to a Secret or a workload. The write takes
    effect exactly once, both after a rotation and after an edit of the binding."""
    env.receiver(KEYTURN_DEADLINE_SECONDS="4")
    env.create_bound_secret()

    def cut_once() -> None:
        left = [fault]
        env.kubernetes_proxy.fault_for = lambda call: (
            left.pop() if left and call.method == "PATCH" and f"/{resource}/" in call.path else None
        )

    cut_once()
    env.send_until_accepted(env.rotate())
    env.wait_converged()
    cut_once()
    env.cluster.kubectl("annotate", "secret", "db", "-n", env.namespace, "keyturn.dev/data=other: '@'")
    eventually(lambda: data_of(env.cluster, env.namespace, "db") == {"other": env.aws_value().encode()})
    eventually(lambda: len([mark for mark in env.history.marks("web", "db") if mark]) == 2)
    env.assert_history_consistent()
    assert env.receivers[0].metric("keyturn_kubernetes_requests_total", verb="patch", code="0") == 2


@pytest.mark.fault("F21")
def test_secret_that_cannot_be_written_says_so_and_affects_no_other(env: FaultEnv) -> None:
    """An immutable Secret and a Secret that would exceed 1 MiB report why they cannot be written. Neither of them
    affects other Secrets, nor does a Secret in a namespace that is being deleted."""
    receiver = env.receiver()
    env.create_bound_secret("good")
    env.create_aws_secret("large")
    env.client.put_secret_value(SecretId=f"{env.namespace}/large", SecretString=env.new_value("x" * 60_000))
    lines = "\n".join(f"key-{number}: '@'" for number in range(20))
    immutable = {**secret(env.namespace, "immutable", f"{env.namespace}/good"), "immutable": True}
    env.cluster.create(
        [immutable, secret(env.namespace, "large", f"{env.namespace}/large", **{"keyturn.dev/data": lines})]
    )
    for name, advice in (("immutable", "without `immutable: true`"), ("large", "take fewer of them")):
        assert advice in env.status(name)

    doomed = f"{env.namespace}-doomed"
    annotations = {"keyturn.dev/allow-secrets": f"{env.namespace}/*"}
    env.create_objects(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": doomed, "annotations": annotations}}
    )
    kept = secret(doomed, "db", f"{env.namespace}/good")
    kept["metadata"]["finalizers"] = ["example.com/not-yet"]
    env.cluster.create([kept])
    eventually(lambda: data_of(env.cluster, doomed, "db"))
    env.cluster.kubectl("delete", "namespace", doomed, "--wait=false")
    try:
        eventually(lambda: env.cluster.get("secret", "db", doomed)["metadata"].get("deletionTimestamp"), 30)
        assert env.send_until_accepted(env.rotate("good")).outcome == "applied"
        assert receiver.metric("keyturn_bindings") >= 3
    finally:
        env.cluster.kubectl("patch", "secret", "db", "-n", doomed, "-p", '{"metadata": {"finalizers": null}}')
    env.wait_converged()


@pytest.mark.fault("F22")
@pytest.mark.parametrize("how", ["gone", "read-only"])
def test_receiver_survives_an_outage_of_the_api_server(env: FaultEnv, how: str) -> None:
    """The API server is gone or read-only for 30 s (F22 is about a long outage). Deliveries are answered with 503, the
    liveness probe succeeds throughout, and the Secrets converge once the API server is back."""
    receiver = env.receiver(KEYTURN_DEADLINE_SECONDS="2", KEYTURN_STUCK_SECONDS="15")
    env.create_bound_secret()
    forbidden = {**STATUS, "reason": "InternalError", "code": 500}
    env.kubernetes_proxy.fault_for = lambda call: (
        Cut() if how == "gone" else None if call.method == "GET" else Reply(500, forbidden)
    )
    told = env.rotate()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert env.send(told).status == 503
        assert receiver.alive()[0] == 200, receiver.alive()
        time.sleep(1)
    env.kubernetes_proxy.heal()
    env.send_until_accepted(told)
    env.wait_converged(60)
    assert receiver.running
    # The log is still intact: its first line is a valid one.
    assert json.loads(receiver.log.splitlines()[0])["message"]
