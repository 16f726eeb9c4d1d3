"""F13 to F17: deliveries are repeated, exceed the limit, or find no receiver."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from keyturn_contract.message import CONTENT_TYPE_BATCH, EventType, Outcome, decode
from keyturn_local.aws.deployed import Deploying
from keyturn_local.aws.rotation import rotate
from keyturn_local.receiver.certificate import Certificate
from support.cluster_state import annotations_of
from support.deliveries import queue_length
from support.fake_receiver import FakeReceiver, reply_to_all
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault
from support.wait import eventually


def slowly(env: FaultEnv, seconds: float) -> None:
    """Delay each answer of AWS to a read of a value by ``seconds``."""

    def slow(call: Call) -> Fault:
        if call.action in ("GetSecretValue", "BatchGetSecretValue"):
            time.sleep(seconds)
        return None

    env.aws_proxy.fault_for = slow


@pytest.mark.long
@pytest.mark.fault("F13")
def test_notification_sent_a_thousand_times_is_applied_once(env: FaultEnv) -> None:
    """The same notification is sent a thousand times at once to three replicas. The Secret is written once, and its
    consumer is restarted once."""
    replicas = [env.receiver(KEYTURN_MAX_DELIVERIES="1000") for _ in range(3)]
    env.create_bound_secret()
    told = env.rotate()
    urls = [each.url for each in replicas]
    answers = asyncio.run(env.deliveries.send_concurrently(urls, [[told]] * 1000))
    # The receiver closes a connection if the head of the request takes longer than ten seconds, which happens on an
    # overloaded machine. Such deliveries are sent again, as the notifier would do.
    answers = [answer for answer in answers if answer.status]
    answers += asyncio.run(env.deliveries.send_concurrently(urls, [[told]] * (1000 - len(answers))))
    assert Counter(answer.status for answer in answers) == {200: 1000}
    assert {answer.outcome for answer in answers} == {"applied", "unchanged"}
    env.wait_converged()
    env.let_settle(5)  # longer than a follower waits before it acts in place of the leader
    env.assert_history_consistent()
    assert len(env.history.data_history("db")) == 3  # empty, the first value, and the new one
    assert len([mark for mark in env.history.marks("web", "db") if mark]) == 1
    assert len(env.aws_proxy.actions("GetSecretValue", "/db")) < 20


@pytest.mark.fault("F14")
def test_change_under_fifty_ids_is_applied_once(env: FaultEnv) -> None:
    """Fifty notifications with different ids report the same version of the same secret, some one after another and
    some at once. The change is applied once."""
    receiver = env.receiver()
    env.create_bound_secret()
    told = env.rotate()
    outcomes = [env.send(replace(told, id=str(uuid4()))).outcome for _ in range(10)]
    assert outcomes == ["applied"] + ["unchanged"] * 9
    answers = asyncio.run(
        env.deliveries.send_concurrently([receiver.url], [[replace(told, id=str(uuid4()))] for _ in range(40)])
    )
    assert {answer.outcome for answer in answers} == {"unchanged"}
    env.wait_converged()
    assert len(env.history.data_history("db")) == 3


@pytest.mark.fault("F15")
def test_deliveries_over_the_limit_get_503_with_retry_after(env: FaultEnv) -> None:
    """A receiver that serves four deliveries at a time gets sixty at once. Later AWS takes 5 s to answer, although the
    receiver's deadline is 4 s. The receiver answers 503 with Retry-After, and never answers 200 for work that is not
    done."""
    receiver = env.receiver(KEYTURN_MAX_DELIVERIES="4", KEYTURN_DEADLINE_SECONDS="4")
    names = [f"db-{number}" for number in range(6)]
    for name in names:
        env.create_bound_secret(name, consumers=())
    slowly(env, 0.5)
    told = [env.rotate(name) for name in names]
    answers = asyncio.run(env.deliveries.send_concurrently([receiver.url], [[each] for each in told] * 10))
    count = Counter(answer.status for answer in answers)
    assert count.keys() == {200, 503}
    assert count[503] > 10
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status == 503)
    # If the notification about a Secret was answered 200, the Secret holds its new value.
    taken = {result.id for answer in answers if answer.status == 200 for result in answer.results}
    assert all(env.is_current(name) for name, each in zip(names, told, strict=True) if each.id in taken)

    slowly(env, 5)
    late = env.rotate(names[0], "late")
    answer = env.send(late)
    assert answer.status == 503
    assert answer.results[0].outcome is Outcome.FAILED
    assert "not done within the deadline" in answer.body
    env.aws_proxy.heal()
    for each in [*told, late]:
        env.send_until_accepted(each)
    env.wait_converged()


@pytest.mark.long
@pytest.mark.fault("F16")
def test_rotations_during_a_receiver_outage_arrive_from_the_queue(own_stack: Any, namespace: str) -> None:
    """The receiver is down while twenty secrets rotate three times each. The queue keeps all notifications, and
    delivers them once the receiver is back."""
    with own_stack(KEYTURN_POLL_INTERVAL_SECONDS="3600") as stack:
        client = stack.aws.secrets_manager()
        names = [f"{namespace}/s{number}" for number in range(20)]
        made = []
        for name in names:
            client.create_secret(Name=name, SecretString="first")
            metadata = {
                "namespace": namespace,
                "name": name.partition("/")[2],
                "labels": {"keyturn.dev/bind": "true"},
                "annotations": {"keyturn.dev/secret-id": name},
            }
            made.append({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
        stack.cluster.create(made)
        eventually(lambda: stack.receiver.metric("keyturn_reconciles_total", outcome="applied") >= 20, 30)
        stack.receiver.kill()
        last = {name: [rotate(client, name, f"turn-{turn}") for turn in range(3)][-1] for name in names}
        eventually(lambda: len(stack.aws.notifier_log.deliveries("not delivered")) >= 10, 60)
        sqs = stack.aws.sqs()
        eventually(lambda: queue_length(sqs, stack.path.queue_url) >= 60, 10)
        stack.receiver.start()
        eventually(lambda: queue_length(sqs, stack.path.queue_url) == 0, 120)
        for name in names:
            where = ("secret", namespace, name.partition("/")[2])
            eventually(lambda w=where, v=last[name]: v in annotations_of(stack.cluster, *w)["keyturn.dev/version-ids"])


@pytest.mark.long
@pytest.mark.fault("F17")
def test_retry_has_the_same_ids_and_a_signature_of_its_own(tmp_path: Path) -> None:
    """A delivery is answered 503 twice. Each retry has the same ids, but a new timestamp and a new signature."""
    certificate = Certificate.issue(tmp_path)
    receiver = FakeReceiver(certificate.context())
    tries: list[Mapping[str, str]] = []
    ids = set()

    def refuse_twice(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        events = decode(CONTENT_TYPE_BATCH, body)
        if all(event.type is EventType.HEARTBEAT for event in events):  # the stack sends heartbeats, too
            return 200, reply_to_all(body, Outcome.IGNORED)
        tries.append(headers)
        ids.update(event.id for event in events)
        return (503, b"") if len(tries) < 3 else (200, reply_to_all(body, Outcome.APPLIED))

    receiver.respond = refuse_twice
    parameters = {"ReceiverUrls": receiver.url, "CaBundle": certificate.parameter}
    with closing(receiver), Deploying(tmp_path, parameters) as deploying:
        aws = deploying.result()
        aws.secrets_manager().create_secret(Name="prod/db", SecretString="one")
        version_id = rotate(aws.secrets_manager(), "prod/db", "two")
        eventually(lambda: version_id in aws.notifier_log.delivered(), 60)
    assert len(ids) == 1
    assert len(tries) == 3
    for name, different in (("webhook-id", 1), ("webhook-timestamp", 3), ("webhook-signature", 3)):
        assert len({headers[name] for headers in tries}) == different, name
