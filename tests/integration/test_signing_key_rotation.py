"""The rotation of the signing key. The built function runs step by step, against receivers that accept certain keys."""

import asyncio
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyturn_contract.message import MAX_HEARTBEAT_AGE, EventType, Outcome
from keyturn_contract.signature import TOLERANCE, NotVerified, new_key, parse_key, verify
from keyturn_local.aws.rotation import rotate_by_function, start_rotation
from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.notifier import artifact
from keyturn_local.notifier.function import function_environment
from keyturn_notifier import rotation
from keyturn_receiver.sources.caller_identity import TenantIdentity
from keyturn_receiver.sources.key_secret import KeySecret
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.signing_keys import SigningKeys
from keyturn_receiver.sources.store_health import StoreHealth
from keyturn_receiver.sources.stores import Identity, Store, StoreKey, Stores
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.telemetry.metrics import Metrics
from support.aws_client import no_tenant
from support.fake_receiver import FakeReceiver, reply_to_all
from support.lambda_runtime import FunctionError, LambdaRuntime

HANDLER = "keyturn_notifier.rotation.handler"


@pytest.fixture
def aws(moto: LocalAws) -> LocalAws:
    """An empty AWS, because each test has a signing key of its own."""
    moto.reset()
    return moto


@pytest.fixture
def path(aws: LocalAws) -> EventPath:
    return aws.provision()


@pytest.fixture
def receivers(aws: LocalAws, path: EventPath) -> Iterator[list[FakeReceiver]]:
    """Yield two receivers that accept signatures by the current, the previous or the pending key."""
    made = [FakeReceiver(), FakeReceiver()]
    for receiver in made:
        receiver.respond = accepting(aws, path, "AWSCURRENT", "AWSPREVIOUS", "AWSPENDING")
    yield made
    for receiver in made:
        receiver.close()


@pytest.fixture
def function(aws: LocalAws, path: EventPath, receivers: list[FakeReceiver], tmp_path: Path) -> Iterator[LambdaRuntime]:
    environment = function_environment(aws, path, [receiver.url for receiver in receivers])
    # This leaves time for two attempts, even on a busy machine.
    timeout = rotation.TRY_SECONDS + rotation.PAUSE_SECONDS + 8
    with LambdaRuntime(artifact.build(), HANDLER, environment, tmp_path, timeout) as running:
        yield running


def accepting(aws: LocalAws, path: EventPath, *labels: str) -> Callable[[dict[str, str], bytes], tuple[int, bytes]]:
    """Return a function that answers like a receiver which accepts only signatures by the keys with these labels."""

    def answer(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        keys = [parse_key(value) for label, value in key_values(aws, path).items() if label in labels]
        try:
            verify(keys, headers, body, float(headers["webhook-timestamp"]))
        except NotVerified:
            return 401, b""
        return 200, reply_to_all(body, Outcome.IGNORED)

    return answer


def reading(aws: LocalAws, path: EventPath) -> Callable[[dict[str, str], bytes], tuple[int, bytes]]:
    """Return a function that answers like a receiver which has just started and has read the keys with its own code."""

    async def keys() -> Sequence[bytes]:
        async def create(key: StoreKey, identity: Identity) -> Store:
            client = aws.secrets_manager()
            return Store.of(
                key, SecretsManager(client, client, pools, Metrics(), TenantIdentity(""), StoreHealth(True))
            )

        pools = ThreadPools.of(2)
        signing_keys = SigningKeys([KeySecret(Stores(create, "us-east-1", no_tenant), path.signing_key_secret_id)])
        try:
            await signing_keys.load()
        finally:
            pools.close()
        return signing_keys.current()

    def answer(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            verify(asyncio.run(keys()), headers, body, float(headers["webhook-timestamp"]))
        except NotVerified:
            return 401, b""
        return 200, reply_to_all(body, Outcome.IGNORED)

    return answer


def key_values(aws: LocalAws, path: EventPath) -> dict[str, str]:
    client, values = aws.secrets_manager(), {}
    for version_id, labels in stages(aws, path).items():
        try:
            value = client.get_secret_value(SecretId=path.signing_key_secret_id, VersionId=version_id)["SecretString"]
        except client.exceptions.ResourceNotFoundException:
            continue  # the version has no value yet
        values |= dict.fromkeys(labels, value)
    return values


def stages(aws: LocalAws, path: EventPath) -> dict[str, list[str]]:
    return aws.secrets_manager().describe_secret(SecretId=path.signing_key_secret_id)["VersionIdsToStages"]


def test_rotation_makes_the_new_key_current_and_the_old_one_previous(
    aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
) -> None:
    old = key_values(aws, path)["AWSCURRENT"]
    version_id = rotate_by_function(aws.secrets_manager(), function, path.signing_key_secret_id)
    assert "AWSCURRENT" in stages(aws, path)[version_id]
    values = key_values(aws, path)
    assert values["AWSPREVIOUS"] == old
    assert len(parse_key(values["AWSCURRENT"])) == 32
    for receiver in receivers:
        assert {each.type for each in receiver.notifications} == {EventType.HEARTBEAT}
    for value in values.values():
        assert value not in function.output


def test_heartbeat_of_the_test_step_does_not_make_a_broken_event_path_look_healthy(
    aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
) -> None:
    rotate_by_function(aws.secrets_manager(), function, path.signing_key_secret_id)
    times = [datetime.fromisoformat(each.time) for receiver in receivers for each in receiver.notifications]
    assert times
    # The heartbeats are too old by the clock of any receiver that accepts the signature.
    assert all(datetime.now(UTC) - each > timedelta(seconds=MAX_HEARTBEAT_AGE + TOLERANCE) for each in times)


def test_heartbeat_of_the_test_step_is_signed_with_the_new_key_alone(
    aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
) -> None:
    old = key_values(aws, path)["AWSCURRENT"]
    rotate_by_function(aws.secrets_manager(), function, path.signing_key_secret_id)
    headers, body = receivers[0].requests[-1]
    with pytest.raises(NotVerified):
        verify([parse_key(old)], headers, body, float(headers["webhook-timestamp"]))


def test_rotation_waits_for_a_receiver_that_has_not_read_the_new_key_yet(
    aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
) -> None:
    accepts_all, accepts_old = receivers[1].respond, accepting(aws, path, "AWSCURRENT", "AWSPREVIOUS")
    receivers[1].respond = lambda *request: (accepts_all if len(receivers[1].requests) > 2 else accepts_old)(*request)
    version_id = rotate_by_function(aws.secrets_manager(), function, path.signing_key_secret_id)
    assert "AWSCURRENT" in stages(aws, path)[version_id]
    assert len(receivers[0].requests) == 1, "a receiver that has accepted the key gets no second heartbeat"


def test_old_key_stays_current_while_a_receiver_refuses_and_is_logged(
    aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
) -> None:
    before = stages(aws, path)
    receivers[1].respond = accepting(aws, path, "AWSCURRENT", "AWSPREVIOUS")
    with pytest.raises(FunctionError) as caught:
        rotate_by_function(aws.secrets_manager(), function, path.signing_key_secret_id)
    assert caught.value.kind == "RotationFailed"
    assert {version: labels for version, labels in stages(aws, path).items() if labels != ["AWSPENDING"]} == before
    log = [json.loads(line) for line in function.output.splitlines()]
    host = receivers[1].url.split("/")[2]
    assert any(f"{host}: status 401" in str(line.get("reason")) for line in log)


@pytest.mark.parametrize("remedy", ["rotate", "put"])
def test_unusable_current_key_can_be_replaced(
    aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver], remedy: str
) -> None:
    """After nonsense was written twice, no label has a usable key. Each remedy in the runbook still works."""
    for receiver in receivers:
        receiver.respond = reading(aws, path)
    client = aws.secrets_manager()
    for _ in range(2):
        client.put_secret_value(SecretId=path.signing_key_secret_id, SecretString="nonsense")
    if remedy == "put":
        client.put_secret_value(SecretId=path.signing_key_secret_id, SecretString=new_key(os.urandom(32)))
    version_id = rotate_by_function(client, function, path.signing_key_secret_id)
    assert "AWSCURRENT" in stages(aws, path)[version_id]
    assert len(parse_key(key_values(aws, path)["AWSCURRENT"])) == 32


def test_repeated_step_changes_nothing(aws: LocalAws, path: EventPath, function: LambdaRuntime) -> None:
    """Secrets Manager retries a rotation from its first step, and uses the same version id again."""

    def twice(event: dict[str, Any], context: object) -> None:
        function(event, context)
        pending = key_values(aws, path).get("AWSPENDING")
        function(event, context)
        assert key_values(aws, path).get("AWSPENDING") == pending

    version_id = rotate_by_function(aws.secrets_manager(), twice, path.signing_key_secret_id)
    assert "AWSCURRENT" in stages(aws, path)[version_id]


def test_rotation_of_another_secret_is_refused(aws: LocalAws, function: LambdaRuntime) -> None:
    arn = aws.secrets_manager().create_secret(Name="prod/db", SecretString="hush")["ARN"]
    for step in rotation.STEPS:
        with pytest.raises(FunctionError):
            function.invoke({"Step": step, "SecretId": arn, "ClientRequestToken": str(uuid.uuid4())})
    assert len(aws.secrets_manager().describe_secret(SecretId=arn)["VersionIdsToStages"]) == 1


def test_unknown_step_is_refused(path: EventPath, function: LambdaRuntime) -> None:
    with pytest.raises(FunctionError) as caught:
        function.invoke({"Step": "dance", "SecretId": path.signing_key_secret_id, "ClientRequestToken": "v"})
    assert caught.value.kind == "RotationFailed"
    assert "unknown step" in function.output


def refusal(function: LambdaRuntime, step: str, path: EventPath, version_id: str) -> str:
    """Invoke one step, check that it fails, and return the logged reason."""
    event = {"Step": step, "SecretId": path.signing_key_secret_id, "ClientRequestToken": version_id}
    with pytest.raises(FunctionError) as caught:
        function.invoke(event)
    assert caught.value.kind == "RotationFailed"
    log = [json.loads(line) for line in function.output.splitlines()]
    return str([line["reason"] for line in log if line.get("message") == "signing key rotation step failed"][-1])


class TestGuards:
    """Whoever may call the function can pass any step and any version."""

    def test_step_is_refused_while_rotation_is_not_enabled(
        self, aws: LocalAws, path: EventPath, function: LambdaRuntime
    ) -> None:
        before = stages(aws, path)
        (version_id,) = before
        for step in rotation.STEPS:
            assert "rotation is not enabled" in refusal(function, step, path, version_id)
        assert stages(aws, path) == before

    def test_step_is_refused_for_a_version_that_does_not_exist(
        self, aws: LocalAws, path: EventPath, function: LambdaRuntime
    ) -> None:
        start_rotation(aws.secrets_manager(), path.signing_key_secret_id)
        before = stages(aws, path)
        for step in rotation.STEPS:
            assert "has no such version" in refusal(function, step, path, "11111111-1111-1111-1111-111111111111")
        assert stages(aws, path) == before

    def test_old_key_cannot_be_made_current_again(
        self, aws: LocalAws, path: EventPath, function: LambdaRuntime
    ) -> None:
        (first,) = stages(aws, path)
        rotate_by_function(aws.secrets_manager(), function, path.signing_key_secret_id)
        before = stages(aws, path)
        for step in rotation.STEPS:
            assert "is not labelled AWSPENDING" in refusal(function, step, path, first)
        assert stages(aws, path) == before

    def test_empty_version_cannot_be_made_current(
        self, aws: LocalAws, path: EventPath, function: LambdaRuntime
    ) -> None:
        version_id = start_rotation(aws.secrets_manager(), path.signing_key_secret_id)
        before = stages(aws, path)
        assert "no key" in refusal(function, "finishSecret", path, version_id)
        assert stages(aws, path) == before


class TestDryRun:
    """Secrets Manager runs only testSecret when a rotation is configured but not started, as in a new stack.

    The pending version may be empty in that case.
    """

    def test_current_key_is_tested_if_the_pending_version_is_empty(
        self, aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
    ) -> None:
        for receiver in receivers:
            receiver.respond = accepting(aws, path, "AWSCURRENT")
        version_id = start_rotation(aws.secrets_manager(), path.signing_key_secret_id)
        before = stages(aws, path)
        function.invoke(
            {"Step": "testSecret", "SecretId": path.signing_key_secret_id, "ClientRequestToken": version_id}
        )
        assert [len(receiver.requests) for receiver in receivers] == [1, 1]
        assert stages(aws, path) == before

    def test_receiver_that_refuses_the_current_key_is_named(
        self, aws: LocalAws, path: EventPath, function: LambdaRuntime, receivers: list[FakeReceiver]
    ) -> None:
        receivers[1].respond = lambda headers, body: (401, b"")
        version_id = start_rotation(aws.secrets_manager(), path.signing_key_secret_id)
        reason = refusal(function, "testSecret", path, version_id)
        assert reason.startswith("dry run: receivers refuse the current key: ")
        assert receivers[1].url.split("/")[2] in reason
