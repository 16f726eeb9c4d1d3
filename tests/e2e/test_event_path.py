"""The event path delivers every rotation, even if the signing key rotates meanwhile."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from support.deliveries import queue_length
from support.stack_rotations import SLEEPING, counted, delivered, given_bindings, value, values
from support.wait import eventually


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

        eventually(lambda: not stack.aws.key_is_rotating(), 60)  # a new stack first makes a dry run of the rotation
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
