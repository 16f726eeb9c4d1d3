"""F20 to F22: AWS and Kubernetes fail, in all their ways. What fails holds up no other, and is made good afterwards."""

import json
import time
from collections.abc import Callable, Mapping

import pytest

from keyturn_contract.message import EventType
from support.cluster_state import data_of, warnings_of
from support.delivery_client import DeliveryReply
from support.fault_env import CANARY, FaultEnv
from support.fault_proxy import Call, Cut, CutAfter, Fault, Hang, Reply
from support.manifests import secret
from support.wait import eventually

AWS_JSON = {"Content-Type": "application/x-amz-json-1.1"}


def aws_error(code: str, status: int = 400) -> Reply:
    """An error as AWS words it, with a value in its text, which must not be told on."""
    return Reply(status, {"__type": code, "message": f"about {CANARY}-in-a-message"}, AWS_JSON)


# What AWS does to calls about one secret, and whether the answer is 503 (it will pass) or 200 (a person must help).
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
    """Do this to calls of AWS that read the secret of this name."""
    return lambda call: fault if call.action in ("GetSecretValue", "BatchGetSecretValue") and call.about(name) else None


def bad_fails_and_good_goes_on(env: FaultEnv, status: int) -> None:
    """Rotate the secret that cannot be carried over, which is answered so, and one that is applied in time."""
    answer = env.send(env.rotate("bad"))
    assert answer.status == status, answer.body
    assert env.send(env.rotate("good")).outcome == "applied"  # within the deadline of 4 s


@pytest.mark.fault("F20")
@pytest.mark.parametrize(("fault", "status", "advice"), AWS_FAULTS.values(), ids=AWS_FAULTS)
def test_failure_of_aws_for_one_secret_affects_no_other(env: FaultEnv, fault: Fault, status: int, advice: str) -> None:
    """AWS throttles, answers 5xx or garbage, cuts, hangs, finds credentials expired, denies access or the key, for one
    secret: others go on meanwhile, its last good Secret stays whole, and it is made good by itself or by an event."""
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
    if advice:  # AWS tells of no change of a policy: the next rotation finds it, or the poller
        env.send_until_accepted(env.rotate("bad"))
    env.wait_converged(60)
    assert receiver.metric("keyturn_failing_bindings") == 0


@pytest.mark.fault("F20")
def test_forty_hanging_secrets_delay_the_others_by_seconds_at_most(env: FaultEnv) -> None:
    """Forty secrets hang at once, with a hundred bindings between them: the others wait for seconds at most, and not at
    all as soon as it is known who hangs."""
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
        env.send(*told[begin : begin + 10], seconds=0.5)  # nobody waits for them
    assert env.send_until_accepted(env.rotate("good"), seconds=30).outcome in ("applied", "unchanged")
    time.sleep(12)  # what hung once is known to by now, and tried again in a lane of its own
    for _ in range(5):
        told, begun = env.rotate("good"), time.monotonic()
        assert env.send(told).outcome == "applied"
        assert time.monotonic() - begun < 4  # one that hangs takes five
    env.aws_proxy.heal()
    env.wait_converged(60)


@pytest.mark.fault("F20")
def test_receiver_with_expired_credentials_is_not_ready_until_they_work(env: FaultEnv) -> None:
    """The receiver's own credentials stop working: it says so, takes itself out of the Service, and comes back."""
    receiver = env.receiver(KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1", start=True)
    env.create_bound_secret()
    env.aws_proxy.fault_for = lambda call: aws_error("ExpiredTokenException") if call.action else None
    eventually(lambda: receiver.ready()[0] == 503, 15)
    assert "AWS credentials" in receiver.ready()[1]
    told = env.rotate()
    assert env.send(told).status == 503
    env.aws_proxy.heal()
    eventually(lambda: receiver.ready()[0] == 200, 15)
    assert env.send_until_accepted(told).outcome in ("applied", "unchanged")  # or it was made good by itself
    env.wait_converged()


@pytest.mark.fault("F20")
def test_secret_deleted_in_aws_is_deleted_only_with_on_delete(make_env: Callable[..., FaultEnv]) -> None:
    """A secret is scheduled for deletion, restored, and deleted for good: its Secret stays and says so; with
    `on-delete: delete` it is deleted then, and not before."""
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
    """AWS deletes a secret whose Secret asks to be deleted, too, and the receiver may not: the Secret stays and says
    so, until it may."""
    env = make_env(deletions={"enabled": True})  # so that it is not for want of a right
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
    """A receiver that is started in the wrong region finds no secret at all: nothing is deleted."""
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
# What the API server does to writes of one Secret.
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
    """The API server answers 429, 409, 500 or garbage, hangs, cuts, denies by admission or quota, finds it too large
    or invalid, for one Secret: others go on meanwhile, and it is made good by itself or by the next event."""
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
    """A write of the Secret, or of a workload, is cut off before or after it is done: it is done once, of an edited
    binding as well."""
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
    """An immutable Secret, one that would be over 1 MiB, one in a namespace that is going away: each says so, and the
    rest goes on."""
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
    """The API server is gone, or read-only, for half a minute that stands for ten: deliveries are answered 503, nothing
    is restarted by its probe, and it is made good within seconds of its return."""
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
    assert json.loads(receiver.log.splitlines()[0])["message"]  # the same process's log, from its beginning
