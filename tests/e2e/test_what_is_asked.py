"""What the receiver asks of Kubernetes and of AWS, seen by proxies that record every call."""

import json
import time

from keyturn_receiver.resilience.single_flight import RESULT_TTL
from support.fault_env import Scene
from support.fault_proxy import Call, Edit, Fate, Reply
from support.manifests import eventually, secret

PLURAL = ("/secrets", "/deployments", "/statefulsets", "/daemonsets", "/namespaces")


def lists(scene: Scene) -> list[Call]:
    return [call for call in scene.kubernetes.matching("GET", "") if not call.watch and call.path.endswith(PLURAL)]


def test_secrets_that_are_not_bound_are_never_read(scene: Scene) -> None:
    scene.receiver()
    scene.cluster.create([{**secret(scene.namespace, "private"), "stringData": {"value": scene.value("theirs")}}])
    scene.given()
    scene.deliver(scene.rotate())
    scene.converge()

    calls = [call for call in scene.kubernetes.calls if "/secrets" in call.path]
    many = [call for call in calls if call.path.endswith("/secrets")]
    assert any(call.watch for call in many)
    for call in many:
        assert call.query["labelSelector"] == ["keyturn.dev/bind=true"]
        assert "as=PartialObjectMetadata" in call.headers["accept"]
    # One by one only the bound one.
    assert {call.path.rpartition("/")[2] for call in calls if call not in many} == {"db"}


def test_an_event_costs_no_list(scene: Scene) -> None:
    scene.receiver()
    scene.given()
    before = len(lists(scene))
    assert before >= len(PLURAL)
    assert scene.send(scene.rotate()).outcome == "applied"
    scene.converge()
    assert len(lists(scene)) == before


def test_an_event_costs_one_read_and_two_writes(scene: Scene) -> None:
    scene.receiver()
    scene.given()
    scene.deliver(scene.rotate())  # from here on the receiver remembers the Secret

    def cost() -> tuple[list[tuple[str, str]], list[str]]:
        scene.settled(0.5)  # what the watches have shown of the one before has been looked at
        kubernetes, aws = len(scene.kubernetes.calls), len(scene.aws_proxy.calls)
        assert scene.send(scene.rotate()).outcome == "applied"
        writes = [
            (call.method, call.path.rpartition("/")[2])
            for call in scene.kubernetes.calls[kubernetes:]
            if not call.watch and "/leases" not in call.path and "/events" not in call.path
        ]
        asked = [call.action for call in scene.aws_proxy.calls[aws:] if not call.about("signing-key")]
        return writes, [action for action in asked if action != "ListSecrets"]  # the poller is apart

    # Where a watch lags behind, a look costs a read: not each time.
    assert ([("PATCH", "db"), ("PATCH", "web")], ["GetSecretValue"]) in (cost() for _ in range(3))


def reads(scene: Scene) -> list[str]:
    """The calls so far that have read values, but for the signing key's."""
    found = [*scene.aws_proxy.actions("GetSecretValue"), *scene.aws_proxy.actions("BatchGetSecretValue")]
    return [call.action for call in found if not call.about("signing-key")]


def test_one_rotation_that_five_hundred_bindings_wait_for_costs_one_value_read(scene: Scene) -> None:
    receiver = scene.receiver(KEYTURN_DEADLINE_SECONDS="60")
    scene.create("shared")
    names = [f"s{number}" for number in range(500)]
    scene.cluster.create(secret(scene.namespace, name, f"{scene.namespace}/shared") for name in names)
    eventually(lambda: receiver.metric("keyturn_reconciles_total", outcome="applied") >= 500, 60)
    before = len(reads(scene))
    told = scene.rotate("shared")
    begun = time.monotonic()
    answer = scene.send(told, seconds=70)
    took = time.monotonic() - begun
    assert answer.outcome == "applied"
    assert len(answer.results[0].secrets) == 500
    assert before < len(reads(scene)) <= before + 1 + took // RESULT_TTL  # a value is kept for so long
    version_ids = {
        each["metadata"]["annotations"]["keyturn.dev/version-ids"]
        for each in scene.cluster.list("secrets", scene.namespace)
    }
    assert len(version_ids) == 1
    assert str(told.data.version_id) in version_ids.pop()


def test_a_cold_restore_reads_twenty_values_with_a_call_and_an_error_of_one_is_its_own(scene: Scene) -> None:
    names = [f"s{number}" for number in range(100)]
    for name in names:
        scene.create(name)
    scene.cluster.create(secret(scene.namespace, name, f"{scene.namespace}/{name}") for name in names)
    denied = scene.client.describe_secret(SecretId=f"{scene.namespace}/s7")["ARN"]

    def deny(answer: bytes) -> bytes:
        content = json.loads(answer)
        values = [each for each in content["SecretValues"] if each["ARN"] != denied]
        if len(values) < len(content["SecretValues"]):
            fault = {"SecretId": f"{scene.namespace}/s7", "ErrorCode": "AccessDeniedException", "Message": "no"}
            content = {**content, "SecretValues": values, "Errors": [fault]}
        return json.dumps(content).encode()

    def fate(call: Call) -> Fate:
        if call.action == "BatchGetSecretValue":
            return Edit(deny)
        # The poller's first sweep may come upon it again, alone.
        alone = call.action == "GetSecretValue" and (call.about('/s7"') or call.about(denied))
        return Reply(400, {"__type": "AccessDeniedException", "message": "no"}) if alone else None

    scene.aws_proxy.fate = fate
    receiver = scene.receiver()
    eventually(lambda: receiver.metric("keyturn_reconciles_total", outcome="applied") >= 99, 60)
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 1)
    assert scene.status("s7").startswith("SourceRefused: ")
    assert all(scene.in_order(name) for name in ("s0", "s6", "s8", "s99"))
    assert len(reads(scene)) <= 30  # and not a hundred: twenty with a call, though not every call is full


def test_a_restart_with_nothing_changed_in_aws_reads_no_value_and_writes_nothing(scene: Scene) -> None:
    receiver = scene.receiver()
    names = [f"s{number}" for number in range(120)]
    for name in names:
        scene.create(name)
    scene.cluster.create(secret(scene.namespace, name, f"{scene.namespace}/{name}") for name in names)
    scene.given()
    eventually(lambda: receiver.metric("keyturn_reconciles_total", outcome="applied") >= 121, 60)
    receiver.stop()
    kubernetes, aws = len(scene.kubernetes.calls), len(scene.aws_proxy.calls)
    receiver.start()
    eventually(lambda: receiver.metric("keyturn_sweeps_total", kind="full", outcome="ok") >= 1, 30)
    scene.settled(5)  # longer than who does not lead hangs back
    since = scene.aws_proxy.calls[aws:]
    assert [call for call in since if "GetSecretValue" in call.action and not call.about("signing-key")] == []
    pages = [call for call in since if call.action == "ListSecrets"]
    known = sum(1 for page in scene.client.get_paginator("list_secrets").paginate() for _ in page["SecretList"])
    assert 2 <= len(pages) <= known // 100 + 1
    writes = [call for call in scene.kubernetes.calls[kubernetes:] if call.method != "GET"]
    assert {call.path.split("/")[-2] for call in writes} <= {"leases", scene.home}
