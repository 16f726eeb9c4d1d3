"""The built artifact, run by Lambda's own runtime client on records from the queue."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from keyturn_contract.message import CONTENT_TYPE_BATCH, Outcome, Result, decode, encode_reply
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.notifier import artifact
from keyturn_local.notifier.event_source import EventSource, function_environment
from keyturn_local.notifier.lambda_runtime import FunctionError, LambdaRuntime
from keyturn_local.timeline import Timeline
from support.deliveries import queue_length
from support.fake_receiver import FakeReceiver
from support.wait import eventually

HANDLER = "keyturn_notifier.handler.handler"
ROTATION = "keyturn_notifier.rotation.handler"


@pytest.fixture(scope="module")
def built() -> Path:
    return artifact.build()


@pytest.fixture
def sandbox(
    built: Path, aws: LocalAws, path: EventPath, receiver: FakeReceiver, tmp_path: Path
) -> Iterator[LambdaRuntime]:
    environment = function_environment(aws, path, [receiver.url])
    with LambdaRuntime(built, HANDLER, environment, tmp_path) as running:
        yield running


@pytest.fixture
def source(aws: LocalAws, path: EventPath, sandbox: LambdaRuntime, tmp_path: Path) -> EventSource:
    """Return the event source mapping between the sandbox and the queue, which is emptied first."""
    made = EventSource(aws.sqs(), path.queue_url, sandbox, Timeline(tmp_path / "timeline.jsonl"))
    while made.poll_once(wait_seconds=0):
        pass
    return made


def test_rotations_and_heartbeats_reach_the_receiver_from_the_queue(
    aws: LocalAws, path: EventPath, source: EventSource, receiver: FakeReceiver, sandbox: LambdaRuntime
) -> None:
    client, name = aws.secrets_manager(), f"prod/{uuid4()}"
    client.create_secret(Name=name, SecretString="hush-one")
    versions = [rotate(client, name, f"hush-{number}") for number in range(3)]
    aws.heartbeat()
    while source.poll_once(wait_seconds=0):
        pass
    delivered = [each for each in receiver.notifications if each.data.name == name]
    assert [each.data.version_id for each in delivered][1:] == versions
    assert "heartbeat" in {each.subject for each in receiver.notifications}
    key = client.get_secret_value(SecretId=path.signing_key_secret_id)["SecretString"]
    assert "hush" not in sandbox.output
    assert key not in sandbox.output


def test_output_is_json_logs_and_cloudwatch_embedded_metrics(
    aws: LocalAws, source: EventSource, sandbox: LambdaRuntime
) -> None:
    aws.secrets_manager().create_secret(Name=f"prod/{uuid4()}", SecretString="one")
    assert source.poll_once() == 1
    lines = [json.loads(line) for line in sandbox.output.splitlines()]
    (delivered,) = [line for line in lines if line.get("message") == "delivered"]
    assert delivered["correlation_id"]
    assert delivered["function_request_id"]
    (metrics,) = [line for line in lines if line.get("DeliveriesDone")]
    assert metrics["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    assert metrics["service"] == "keyturn"


def test_failed_message_stays_in_the_queue_and_the_others_are_deleted(
    aws: LocalAws, path: EventPath, source: EventSource, receiver: FakeReceiver
) -> None:
    bad = f"prod/bad-{uuid4()}"

    def picky(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        # The answer depends on the event and not on the number of the call. On a busy machine, the failed message may
        # become visible again so early that it is part of the second batch.
        results = [
            Result(each.id, Outcome.FAILED if bad in each.subject else Outcome.APPLIED)
            for each in decode(CONTENT_TYPE_BATCH, body)
        ]
        failed = any(result.outcome is Outcome.FAILED for result in results)
        return 503 if failed else 200, encode_reply(results)

    receiver.respond = picky
    for name in (bad, f"prod/good-{uuid4()}"):
        aws.secrets_manager().create_secret(Name=name, SecretString="one")
        source.poll_once()
    eventually(lambda: queue_length(aws.sqs(), path.queue_url) == 1, 10)


def test_wrong_setting_fails_the_invocation_and_is_named(
    built: Path, aws: LocalAws, path: EventPath, tmp_path: Path
) -> None:
    environment = function_environment(aws, path, ["http://receiver.example/v1/notifications"])
    with LambdaRuntime(built, HANDLER, environment, tmp_path) as running:
        with pytest.raises(FunctionError) as caught:
            running.invoke({"Records": []})
        assert caught.value.kind == "InvalidSettings"
        assert "the URL of receiver.example must start with https://" in running.output


def test_sandbox_that_times_out_is_killed_and_the_next_one_works(
    built: Path, aws: LocalAws, path: EventPath, receiver: FakeReceiver, tmp_path: Path
) -> None:
    (tmp_path / "hanging").mkdir()
    (tmp_path / "hanging" / "slow.py").write_text(
        "import time\ndef handler(event, context):\n    time.sleep(event['seconds'])\n    return 'done'\n"
    )
    with LambdaRuntime(tmp_path / "hanging", "slow.handler", {}, tmp_path, timeout=2) as running:
        with pytest.raises(FunctionError) as caught:
            running.invoke({"seconds": 60})
        assert caught.value.kind == "Sandbox.Timedout"
        assert running.invoke({"seconds": 0}) == "done"


def test_handlers_import_the_artifact_only_and_all_of_it(built: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "probe.py").write_text(
        "import sys\n"
        "def handler(event, context):\n"
        "    import boto3, urllib3, keyturn_notifier.handler, keyturn_notifier.rotation\n"
        "    for name in event: boto3.client(name, 'us-east-1')\n"
        "    files = {name: getattr(module, '__file__', None) for name, module in list(sys.modules.items())}\n"
        "    return {name: file for name, file in files.items() if file}\n"
    )
    with LambdaRuntime(built, "probe.handler", {"PYTHONPATH": ""}, tmp_path, extra=[probe]) as running:
        loaded = running.invoke(["kms", "secretsmanager", "sqs"])
    assert isinstance(loaded, dict)
    ours = {name.partition(".")[0] for name, file in loaded.items() if file.startswith(str(built))}
    there = {each.name.removesuffix(".py") for each in built.iterdir() if not each.name.endswith(".dist-info")}
    assert ours == there, "the artifact has spare or missing packages"
    installed = [file for file in loaded.values() if "site-packages" in file and "awslambdaric" not in file]
    assert [
        file for file in installed if not any(part in file for part in ("simplejson", "snapshot", "runtime_"))
    ] == []
