"""The event path delivers every rotation, even if the receiver is down or the signing key rotates meanwhile."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from support.cluster_state import data_of
from support.deliveries import queue_length
from support.manifests import secret
from support.wait import eventually

SLEEPING = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600"}  # the poller sleeps, so only events can bring a change


def given_bindings(stack: Stack, namespace: str, count: int) -> list[str]:
    """Create ``count`` AWS secrets and a Secret bound to each of them. Return the names of the AWS secrets."""
    names = [f"{namespace}/s{number}" for number in range(count)]
    for name in names:
        stack.aws.secrets_manager().create_secret(Name=name, SecretString=value(0))
    stack.cluster.create([secret(namespace, f"s{number}", name) for number, name in enumerate(names)])
    for number in range(count):
        eventually(lambda number=number: data_of(stack.cluster, namespace, f"s{number}"))
    return names


def value(number: int) -> str:
    return json.dumps({"number": str(number)})


def values(stack: Stack, namespace: str) -> set[bytes | None]:
    listed = stack.cluster.list("secrets", namespace, "keyturn.dev/bind=true")
    return {data_of(stack.cluster, namespace, each["metadata"]["name"]).get("number") for each in listed}


def delivered(stack: Stack) -> set[str]:
    return stack.aws.notifier_log.delivered()


def counted(stack: Stack, metric: str) -> float:
    """Return the sum of one of the notifier's metrics. It is read from the notifier's log."""
    return stack.aws.notifier_log.metrics().get(metric, 0)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_500_rotations_during_an_outage_all_arrive(own_stack: Callable, namespace: str) -> None:
    with own_stack(**SLEEPING) as stack:
        names = given_bindings(stack, namespace, 50)
        eventually(lambda: not queue_length(stack.aws.sqs(), stack.path.queue_url), 60)
        stack.receiver.kill()
        client, versions = stack.aws.secrets_manager(), set()
        for number in range(1, 11):
            versions |= {rotate(client, name, value(number)) for name in names}
        assert len(versions) == 500
        eventually(lambda: queue_length(stack.aws.sqs(), stack.path.queue_url) == 500, 10)
        assert not versions & delivered(stack)

        stack.receiver.start()
        eventually(lambda: versions <= delivered(stack), 300)  # a retry waits for three minutes at most
        assert values(stack, namespace) == {b"10"}
        assert queue_length(stack.aws.sqs(), stack.path.queue_url) == 0
        assert queue_length(stack.aws.sqs(), stack.path.dlq_url) == 0
        assert counted(stack, "DeliveriesPoison") == 0


@contextmanager
def flowing(stack: Stack, names: Sequence[str]) -> Iterator[list[str]]:
    """Rotate the secrets one after another until the block ends. Yield the list of version ids, which grows
    meanwhile."""
    versions: list[str] = []
    over = threading.Event()

    def flow() -> None:
        client, number = stack.aws.secrets_manager(), 0
        while not over.is_set():
            number += 1
            versions.extend([rotate(client, name, value(number)) for name in names])

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield versions
    finally:
        over.set()
        thread.join()


@pytest.mark.timeout(600)
def test_rotation_of_the_signing_key_refuses_no_delivery(own_stack: Callable, namespace: str) -> None:
    with own_stack(**SLEEPING, KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1") as stack:
        names = given_bindings(stack, namespace, 5)
        client, key = stack.aws.secrets_manager(), stack.path.signing_key_secret_id

        def is_current(version_id: str) -> bool:
            return "AWSCURRENT" in client.describe_secret(SecretId=key)["VersionIdsToStages"].get(version_id, [])

        eventually(lambda: not stack.aws.key_is_rotating(), 60)  # the dry run of a new stack
        with flowing(stack, names) as versions:
            for _ in range(3):
                key_version = client.rotate_secret(SecretId=key)["VersionId"]
                eventually(lambda version_id=key_version: is_current(version_id), 120)
                seen = len(versions)
                eventually(lambda seen=seen: len(versions) >= seen + 10, 60)
        eventually(lambda: {*versions} <= delivered(stack), 120)
        stages = stack.aws.secrets_manager().describe_secret(SecretId=stack.path.signing_key_secret_id)
        assert "AWSCURRENT" in stages["VersionIdsToStages"][key_version]
        assert counted(stack, "DeliveriesDone") >= len(versions)
        assert counted(stack, "DeliveriesRefused") == 0
        assert counted(stack, "DeliveriesPoison") == 0
        assert queue_length(stack.aws.sqs(), stack.path.dlq_url) == 0
        assert len(values(stack, namespace)) == 1, "all are at the last value"


def test_receiver_with_a_public_key_accepts_kms_signatures(own_stack: Callable, namespace: str) -> None:
    with own_stack(kms=True, **SLEEPING) as stack:
        (name,) = given_bindings(stack, namespace, 1)
        version_id = rotate(stack.aws.secrets_manager(), name, value(1))
        eventually(lambda: version_id in delivered(stack))
        assert values(stack, namespace) == {b"1"}
        assert any(call.action == "Sign" and call.by_function for call in stack.aws.recent_calls("kms"))


def test_heartbeat_reaches_the_receiver_through_the_whole_event_path(stack: Stack) -> None:
    before = counted(stack, "HeartbeatsAccepted"), counted(stack, "HeartbeatsRefused")
    sent = stack.aws.heartbeat()
    eventually(lambda: stack.aws.notifier_log.is_accepted(sent))
    # The schedule sends heartbeats, too.
    assert counted(stack, "HeartbeatsAccepted") >= before[0] + 1
    assert counted(stack, "HeartbeatsRefused") == before[1]
