"""F20 to F22: AWS and Kubernetes fail, in all their ways. What fails holds up no other, and is made good afterwards."""

import json
import time
from collections.abc import Callable, Mapping

import pytest

from keyturn_contract.message import EventType
from support.fault_env import CANARY, Answered, Scene
from support.fault_proxy import Call, Cut, CutAfter, Fate, Hang, Reply
from support.manifests import data_of, eventually, secret, warnings_of

AWS_JSON = {"Content-Type": "application/x-amz-json-1.1"}


def aws_error(code: str, status: int = 400) -> Reply:
    """An error as AWS words it, with a value in its text, which must not be told on."""
    return Reply(status, {"__type": code, "message": f"about {CANARY}-in-a-message"}, AWS_JSON)


# What AWS does to calls about one secret, and whether the answer is 503 (it will pass) or 200 (a person must help).
AWS_FAULTS: Mapping[str, tuple[Fate, int, str]] = {
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


def only_about(name: str, fate: Fate) -> Callable[[Call], Fate]:
    """Do this to calls of AWS that read the secret of this name."""
    return lambda call: fate if call.action in ("GetSecretValue", "BatchGetSecretValue") and call.about(name) else None


def bad_fails_and_good_goes_on(scene: Scene, status: int) -> None:
    """Rotate the secret that cannot be carried over, which is answered so, and one that is applied in time."""
    answer = scene.send(scene.rotate("bad"))
    assert answer.status == status, answer.body
    assert scene.send(scene.rotate("good")).outcome == "applied"  # within the deadline of 4 s


@pytest.mark.fault("F20")
@pytest.mark.parametrize(("fate", "status", "advice"), AWS_FAULTS.values(), ids=AWS_FAULTS)
def test_aws_fails_for_one_secret(scene: Scene, fate: Fate, status: int, advice: str) -> None:
    """AWS throttles, answers 5xx or garbage, cuts, hangs, finds credentials expired, denies access or the key, for one
    secret: others go on meanwhile, its last good Secret stays whole, and it is made good by itself or by an event."""
    receiver = scene.receiver(KEYTURN_DEADLINE_SECONDS="4")
    for name in ("bad", "good"):
        scene.given(name, consumers=(f"web-{name}",))
    before = data_of(scene.cluster, scene.namespace, "bad")
    scene.aws_proxy.fate = only_about("/bad", fate)
    bad_fails_and_good_goes_on(scene, status)
    assert data_of(scene.cluster, scene.namespace, "bad") == before
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 1, 30)
    if advice:
        assert advice in scene.status("bad")
        assert any(
            advice in text for text in eventually(lambda: warnings_of(scene.cluster, scene.namespace, "bad")).values()
        )
    scene.aws_proxy.heal()
    if advice:  # AWS tells of no change of a policy: the next rotation finds it, or the poller
        scene.deliver(scene.rotate("bad"))
    scene.converge(60)
    assert receiver.metric("keyturn_failing_bindings") == 0


@pytest.mark.fault("F20")
def test_many_secrets_hang_at_once(scene: Scene) -> None:
    """Forty secrets hang at once, with a hundred bindings between them: the others wait for seconds at most, and not at
    all as soon as it is known who hangs."""
    scene.receiver(KEYTURN_DEADLINE_SECONDS="8", KEYTURN_AWS_THREADS="16")
    scene.given("good")
    names = [f"bad-{number}" for number in range(40)]
    for name in names:
        scene.create(name)
    scene.cluster.create(
        secret(scene.namespace, f"bad-{number}", f"{scene.namespace}/bad-{number % 40}") for number in range(100)
    )
    eventually(lambda: scene.receivers[0].metric("keyturn_reconciles_total", outcome="applied") >= 101, 60)
    scene.aws_proxy.fate = only_about("/bad-", Hang())
    told = [scene.changed(name, "unheard-of") for name in names]
    for begin in range(0, 40, 10):
        scene.send(*told[begin : begin + 10], seconds=0.5)  # nobody waits for them
    assert scene.deliver(scene.rotate("good"), seconds=30).outcome in ("applied", "unchanged")
    time.sleep(12)  # what hung once is known to by now, and tried again in a lane of its own
    for _ in range(5):
        told, begun = scene.rotate("good"), time.monotonic()
        assert scene.send(told).outcome == "applied"
        assert time.monotonic() - begun < 4  # one that hangs takes five
    scene.aws_proxy.heal()
    scene.converge(60)


@pytest.mark.fault("F20")
def test_credentials_that_do_not_work(scene: Scene) -> None:
    """The receiver's own credentials stop working: it says so, takes itself out of the Service, and comes back."""
    receiver = scene.receiver(KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1", start=True)
    scene.given()
    scene.aws_proxy.fate = lambda call: aws_error("ExpiredTokenException") if call.action else None
    eventually(lambda: receiver.ready()[0] == 503, 15)
    assert "AWS credentials" in receiver.ready()[1]
    told = scene.rotate()
    assert scene.send(told).status == 503
    scene.aws_proxy.heal()
    eventually(lambda: receiver.ready()[0] == 200, 15)
    assert scene.deliver(told).outcome in ("applied", "unchanged")  # or it was made good by itself
    scene.converge()


@pytest.mark.fault("F20")
def test_a_secret_is_deleted_and_restored(set_scene: Callable[..., Scene]) -> None:
    """A secret is scheduled for deletion, restored, and deleted for good: its Secret stays and says so; with
    `on-delete: delete` it is deleted then, and not before."""
    scene = set_scene(deletions={"enabled": True})
    scene.receiver(KEYTURN_DELETIONS="true")
    for name, more in (("stays", {}), ("goes", {"keyturn.dev/on-delete": "delete"})):
        scene.given(name, consumers=(), **more)
    before = {name: data_of(scene.cluster, scene.namespace, name) for name in ("stays", "goes")}

    def told(name: str, kind: EventType) -> Answered:
        arn = arns[name]
        return scene.deliver(scene.about(arn, kind))

    arns = {name: scene.client.describe_secret(SecretId=f"{scene.namespace}/{name}")["ARN"] for name in before}
    for name in before:
        scene.client.delete_secret(SecretId=arns[name], RecoveryWindowInDays=7)
        told(name, EventType.DELETED)
        assert data_of(scene.cluster, scene.namespace, name) == before[name]
        assert "SourcePendingDeletion: " in scene.status(name)
    for name in before:
        scene.client.restore_secret(SecretId=arns[name])
        told(name, EventType.RESTORED)
        assert scene.in_order(name)
    for name in before:
        scene.client.delete_secret(SecretId=arns[name], ForceDeleteWithoutRecovery=True)
        told(name, EventType.DELETED)
    assert data_of(scene.cluster, scene.namespace, "stays") == before["stays"]
    assert "SourceNotFound: " in scene.status("stays")
    eventually(lambda: not scene.cluster.kubectl("get", "secret", "goes", "-n", scene.namespace, "--ignore-not-found"))
    scene.oracle_of_words()


@pytest.mark.fault("F20")
def test_a_receiver_that_may_not_delete(set_scene: Callable[..., Scene]) -> None:
    """AWS deletes a secret whose Secret asks to be deleted, too, and the receiver may not: the Secret stays and says
    so, until it may."""
    scene = set_scene(deletions={"enabled": True})  # so that it is not for want of a right
    receiver = scene.receiver()
    arn = scene.given("goes", consumers=(), **{"keyturn.dev/on-delete": "delete"})
    before = data_of(scene.cluster, scene.namespace, "goes")
    scene.client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    answer = scene.deliver(scene.about(arn, EventType.DELETED))
    advice = "set deletions.enabled in the chart (KEYTURN_DELETIONS)"
    assert answer.outcome == "ignored"
    assert advice in answer.body
    assert scene.status("goes").startswith("SourceNotFound: ")
    assert advice in scene.status("goes")
    assert advice in eventually(lambda: warnings_of(scene.cluster, scene.namespace, "goes"))["SourceNotFound"]
    assert data_of(scene.cluster, scene.namespace, "goes") == before
    assert not scene.kubernetes.matching("DELETE", "")

    receiver.stop()
    scene.end_lease()
    scene.receiver(KEYTURN_DELETIONS="true")
    eventually(lambda: not scene.cluster.kubectl("get", "secret", "goes", "-n", scene.namespace, "--ignore-not-found"))
    scene.oracle_of_words()


@pytest.mark.fault("F20")
def test_a_receiver_in_the_wrong_region_deletes_nothing(set_scene: Callable[..., Scene]) -> None:
    """A receiver that is started in the wrong region finds no secret at all: nothing is deleted."""
    scene = set_scene(deletions={"enabled": True})
    first = scene.receiver(KEYTURN_DELETIONS="true")
    scene.given("goes", consumers=(), **{"keyturn.dev/on-delete": "delete"})
    first.stop()
    scene.end_lease()
    scene.client_of("eu-west-1").create_secret(Name="keyturn/signing-key", SecretString=scene.signing_key)
    elsewhere = scene.receiver(
        AWS_REGION="eu-west-1",
        AWS_DEFAULT_REGION="eu-west-1",
        KEYTURN_SIGNING_KEY_SECRET_ID="keyturn/signing-key",
        KEYTURN_DELETIONS="true",
        KEYTURN_POLL_INTERVAL_SECONDS="1",
    )
    eventually(lambda: elsewhere.metric("keyturn_reconciles_total", outcome="SourceRefused") > 0, 20)
    assert "which role and region" in scene.status("goes")
    elsewhere.stop()
    scene.end_lease()
    first.start()
    scene.deliver(scene.rotate("goes"), to=first)
    scene.converge()


STATUS = {"kind": "Status", "status": "Failure", "message": f"about {CANARY}-in-a-message", "metadata": {}}
# What the API server does to writes of one Secret.
KUBERNETES_FAULTS: Mapping[str, tuple[Fate, int, str]] = {
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
@pytest.mark.parametrize(("fate", "status", "advice"), KUBERNETES_FAULTS.values(), ids=KUBERNETES_FAULTS)
def test_kubernetes_fails_for_one_secret(scene: Scene, fate: Fate, status: int, advice: str) -> None:
    """The API server answers 429, 409, 500 or garbage, hangs, cuts, denies by admission or quota, finds it too large
    or invalid, for one Secret: others go on meanwhile, and it is made good by itself or by the next event."""
    scene.receiver(KEYTURN_DEADLINE_SECONDS="4")
    for name in ("bad", "good"):
        scene.given(name, consumers=(f"web-{name}",))

    def applies(call: Call) -> Fate:
        is_apply = "apply-patch" in call.headers.get("content-type", "")
        return fate if is_apply and call.path.endswith("/secrets/bad") else None

    scene.kubernetes.fate = applies
    bad_fails_and_good_goes_on(scene, status)
    if advice:
        assert advice in scene.status("bad")
    scene.kubernetes.heal()
    if advice:
        scene.deliver(scene.rotate("bad"))
    scene.converge(60)


@pytest.mark.fault("F21")
@pytest.mark.parametrize("fate", [Cut(), CutAfter()], ids=["before", "after"])
@pytest.mark.parametrize("resource", ["secrets", "deployments"])
def test_a_write_is_cut_off(scene: Scene, resource: str, fate: Fate) -> None:
    """A write of the Secret, or of a workload, is cut off before or after it is done: it is done once, of an edited
    binding as well."""
    scene.receiver(KEYTURN_DEADLINE_SECONDS="4")
    scene.given()

    def cut_once() -> None:
        left = [fate]
        scene.kubernetes.fate = lambda call: (
            left.pop() if left and call.method == "PATCH" and f"/{resource}/" in call.path else None
        )

    cut_once()
    scene.deliver(scene.rotate())
    scene.converge()
    cut_once()
    scene.cluster.kubectl("annotate", "secret", "db", "-n", scene.namespace, "keyturn.dev/data=other: '@'")
    eventually(lambda: data_of(scene.cluster, scene.namespace, "db") == {"other": scene.current().encode()})
    eventually(lambda: len([mark for mark in scene.witness.marks("web", "db") if mark]) == 2)
    scene.oracle()
    assert scene.receivers[0].metric("keyturn_kubernetes_requests_total", verb="patch", code="0") == 2


@pytest.mark.fault("F21")
def test_secrets_that_cannot_be_written(scene: Scene) -> None:
    """An immutable Secret, one that would be over 1 MiB, one in a namespace that is going away: each says so, and the
    rest goes on."""
    receiver = scene.receiver()
    scene.given("good")
    scene.create("large")
    scene.client.put_secret_value(SecretId=f"{scene.namespace}/large", SecretString=scene.value("x" * 60_000))
    lines = "\n".join(f"key-{number}: '@'" for number in range(20))
    immutable = {**secret(scene.namespace, "immutable", f"{scene.namespace}/good"), "immutable": True}
    scene.cluster.create(
        [immutable, secret(scene.namespace, "large", f"{scene.namespace}/large", **{"keyturn.dev/data": lines})]
    )
    for name, advice in (("immutable", "without `immutable: true`"), ("large", "take fewer of them")):
        assert advice in scene.status(name)

    doomed = f"{scene.namespace}-doomed"
    annotations = {"keyturn.dev/allow-secrets": f"{scene.namespace}/*"}
    scene.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": doomed, "annotations": annotations}})
    kept = secret(doomed, "db", f"{scene.namespace}/good")
    kept["metadata"]["finalizers"] = ["example.com/not-yet"]
    scene.cluster.create([kept])
    eventually(lambda: data_of(scene.cluster, doomed, "db"))
    scene.cluster.kubectl("delete", "namespace", doomed, "--wait=false")
    try:
        eventually(lambda: scene.cluster.get("secret", "db", doomed)["metadata"].get("deletionTimestamp"), 30)
        assert scene.deliver(scene.rotate("good")).outcome == "applied"
        assert receiver.metric("keyturn_bindings") >= 3
    finally:
        scene.cluster.kubectl("patch", "secret", "db", "-n", doomed, "-p", '{"metadata": {"finalizers": null}}')
    scene.converge()


@pytest.mark.fault("F22")
@pytest.mark.parametrize("how", ["gone", "read-only"])
def test_the_api_server_is_away_for_a_long_time(scene: Scene, how: str) -> None:
    """The API server is gone, or read-only, for half a minute that stands for ten: deliveries are answered 503, nothing
    is restarted by its probe, and it is made good within seconds of its return."""
    receiver = scene.receiver(KEYTURN_DEADLINE_SECONDS="2", KEYTURN_STUCK_SECONDS="15")
    scene.given()
    forbidden = {**STATUS, "reason": "InternalError", "code": 500}
    scene.kubernetes.fate = lambda call: (
        Cut() if how == "gone" else None if call.method == "GET" else Reply(500, forbidden)
    )
    told = scene.rotate()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert scene.send(told).status == 503
        assert receiver.alive()[0] == 200, receiver.alive()
        time.sleep(1)
    scene.kubernetes.heal()
    scene.deliver(told)
    scene.converge(60)
    assert receiver.running
    assert json.loads(receiver.log.splitlines()[0])["message"]  # the same process's log, from its beginning
