"""The number of calls that the receiver makes to Kubernetes and AWS, as recorded by proxies."""

import json
import time

from keyturn_receiver.reconcile.reader_reporter import INTERVAL
from keyturn_receiver.reconcile.work_queue import SETTLE_SECONDS
from keyturn_receiver.resilience.single_flight import RESULT_TTL
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Edit, Fault, Reply
from support.manifests import secret
from support.wait import eventually

OF_READERS = ("/pods", "/cronjobs")  # the ends of the paths by which the receiver lists readers that nobody restarts
PLURAL = ("/secrets", "/deployments", "/statefulsets", "/daemonsets", "/namespaces")


def lists(env: FaultEnv) -> list[Call]:
    return [call for call in env.kubernetes_proxy.matching("GET", "") if not call.watch and call.path.endswith(PLURAL)]


def test_unbound_secrets_are_never_read(env: FaultEnv) -> None:
    env.receiver()
    env.cluster.create([{**secret(env.namespace, "private"), "stringData": {"value": env.new_value("theirs")}}])
    env.create_bound_secret()
    env.send_until_accepted(env.rotate())
    env.wait_converged()

    calls = [call for call in env.kubernetes_proxy.calls if "/secrets" in call.path]
    many = [call for call in calls if call.path.endswith("/secrets")]
    assert any(call.watch for call in many)
    # The receiver compares the data of a bound Secret with the hash of what it wrote, and the data of a watched Secret
    # with the hash of the former data. If a Secret is no longer bound, its metadata is enough.
    whole = ("keyturn.dev/bind", "keyturn.dev/watch")
    for call in many:
        (selector,) = call.query["labelSelector"]
        assert selector in (*whole, "keyturn.dev/state,keyturn.dev/bind notin (true)")
        assert selector in whole or "as=Partial" in call.headers["accept"]
    # Every other call is about a single Secret, and none of them is about the unbound one.
    names = {call.path.rpartition("/")[2] for call in calls if call not in many}
    assert names == {"db", "keyturn-record-key"}  # the latter is the receiver's own


def test_event_costs_no_list(env: FaultEnv) -> None:
    env.receiver()
    env.create_bound_secret()
    before = len(lists(env))
    assert before >= len(PLURAL)
    assert env.send(env.rotate()).outcome == "applied"
    env.wait_converged()
    assert len(lists(env)) == before


def test_rotation_with_one_consumer_costs_one_call_of_each_kind(env: FaultEnv) -> None:
    receiver = env.receiver(KEYTURN_REPORT_READERS="true")
    env.create_bound_secret()
    env.send_until_accepted(env.rotate())  # after this, the receiver holds digests of the Secret's values

    def cost() -> tuple[list[tuple[str, str]], list[str], float]:
        # Wait until the receiver has seen its own writes through the watches, and has finished its check for drift.
        env.let_settle(2 * SETTLE_SECONDS)
        kubernetes, aws = len(env.kubernetes_proxy.calls), len(env.aws_proxy.calls)
        reconciles = receiver.metric("keyturn_reconciles_total")
        assert env.send(env.rotate()).outcome == "applied"
        env.let_settle(2 * SETTLE_SECONDS)
        writes = [
            (call.method, call.path.rpartition("/")[2])
            for call in env.kubernetes_proxy.calls[kubernetes:]
            if not call.watch and not call.path.endswith(OF_READERS)
            if "/leases" not in call.path and "/events" not in call.path
        ]
        actions = [call.action for call in env.aws_proxy.calls[aws:] if not call.about("signing-key")]
        return (
            writes,
            [action for action in actions if action != "ListSecrets"],
            receiver.metric("keyturn_reconciles_total") - reconciles,
        )

    begun = time.monotonic()
    for _ in range(3):
        assert cost() == ([("PATCH", "db"), ("PATCH", "web")], ["GetSecretValue"], 1)
    # After a change, the receiver lists the readers that nobody restarts, but only rarely.
    eventually(lambda: env.kubernetes_proxy.matching("GET", "/cronjobs$"))
    listed = [call for call in env.kubernetes_proxy.calls if call.path.endswith(OF_READERS)]
    assert len(listed) <= len(OF_READERS) * (2 + (time.monotonic() - begun) // INTERVAL)
    assert not any(call.watch for call in listed)


def reads(env: FaultEnv) -> list[str]:
    """Return the AWS actions that have read values so far. Reads of the signing key are not counted."""
    found = [*env.aws_proxy.actions("GetSecretValue"), *env.aws_proxy.actions("BatchGetSecretValue")]
    return [call.action for call in found if not call.about("signing-key")]


def test_rotation_of_five_hundred_bindings_costs_one_value_read(env: FaultEnv) -> None:
    receiver = env.receiver(KEYTURN_DEADLINE_SECONDS="60")
    env.create_aws_secret("shared")
    names = [f"s{number}" for number in range(500)]
    env.cluster.create(secret(env.namespace, name, f"{env.namespace}/shared") for name in names)
    eventually(lambda: receiver.metric("keyturn_reconciles_total", outcome="applied") >= 500, 60)
    before = len(reads(env))
    told = env.rotate("shared")
    begun = time.monotonic()
    answer = env.send(told, seconds=70)
    took = time.monotonic() - begun
    assert answer.outcome == "applied"
    assert len(answer.results[0].secrets) > 300  # a result has as many names as fit; the Secrets are checked below
    assert before < len(reads(env)) <= before + 1 + took // RESULT_TTL  # a read value is kept for RESULT_TTL
    version_ids = {
        each["metadata"]["annotations"]["keyturn.dev/version-ids"]
        for each in env.cluster.list("secrets", env.namespace)
    }
    assert len(version_ids) == 1
    assert str(told.data.version_id) in version_ids.pop()


def test_cold_restore_batches_reads_and_isolates_an_error(env: FaultEnv) -> None:
    names = [f"s{number}" for number in range(100)]
    for name in names:
        env.create_aws_secret(name)
    env.cluster.create(secret(env.namespace, name, f"{env.namespace}/{name}") for name in names)
    denied = env.client.describe_secret(SecretId=f"{env.namespace}/s7")["ARN"]

    def deny(answer: bytes) -> bytes:
        content = json.loads(answer)
        values = [each for each in content["SecretValues"] if each["ARN"] != denied]
        if len(values) < len(content["SecretValues"]):
            fault = {"SecretId": f"{env.namespace}/s7", "ErrorCode": "AccessDeniedException", "Message": "no"}
            content = {**content, "SecretValues": values, "Errors": [fault]}
        return json.dumps(content).encode()

    def fate(call: Call) -> Fault:
        if call.action == "BatchGetSecretValue":
            return Edit(deny)
        # The poller's first sweep may read the denied secret again with a separate GetSecretValue.
        alone = call.action == "GetSecretValue" and (call.about('/s7"') or call.about(denied))
        return Reply(400, {"__type": "AccessDeniedException", "message": "no"}) if alone else None

    env.aws_proxy.fault_for = fate
    receiver = env.receiver()
    eventually(lambda: receiver.metric("keyturn_reconciles_total", outcome="applied") >= 99, 60)
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 1)
    assert env.status("s7").startswith("SourceRefused: ")
    assert all(env.is_current(name) for name in ("s0", "s6", "s8", "s99"))
    # One call reads up to twenty values. Not every call is full, but far fewer than a hundred calls suffice.
    assert len(reads(env)) <= 30


def test_restart_without_changes_reads_no_value_and_writes_nothing(env: FaultEnv) -> None:
    receiver = env.receiver()
    names = [f"s{number}" for number in range(120)]
    for name in names:
        env.create_aws_secret(name)
    env.cluster.create(secret(env.namespace, name, f"{env.namespace}/{name}") for name in names)
    env.create_bound_secret()
    eventually(lambda: receiver.metric("keyturn_reconciles_total", outcome="applied") >= 121, 60)
    receiver.stop()
    kubernetes, aws = len(env.kubernetes_proxy.calls), len(env.aws_proxy.calls)
    receiver.start()
    eventually(lambda: receiver.metric("keyturn_sweeps_total", kind="full", outcome="ok") >= 1, 30)
    env.let_settle(5)  # longer than a follower waits before it acts in place of the leader
    since = env.aws_proxy.calls[aws:]
    assert [call for call in since if "GetSecretValue" in call.action and not call.about("signing-key")] == []
    pages = [call for call in since if call.action == "ListSecrets"]
    known = sum(1 for page in env.client.get_paginator("list_secrets").paginate() for _ in page["SecretList"])
    assert 2 <= len(pages) <= known // 100 + 1
    writes = [call for call in env.kubernetes_proxy.calls[kubernetes:] if call.method != "GET"]
    assert {call.path.split("/")[-2] for call in writes} <= {"leases", env.receiver_namespace}
