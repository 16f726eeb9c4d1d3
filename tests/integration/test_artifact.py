"""The built artifact, run by Lambda's own runtime client on records of the queue."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from keyturn_contract.message import CONTENT_TYPE_BATCH, Outcome, Result, decode, encode_reply
from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.notifier import artifact
from keyturn_local.notifier.function import function_environment
from support.fake_receiver import FakeReceiver
from support.lambda_runtime import FunctionError, LambdaRuntime

HANDLER = "keyturn_notifier.handler.handler"
EVENTS = Path(__file__).parents[1] / "events"
NATIVE = json.loads((EVENTS / "native-secret-label-updated.json").read_text())
HEARTBEAT = json.loads((EVENTS / "heartbeat.json").read_text())


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


def rotations(name: str, count: int) -> list[dict[str, Any]]:
    """Return the events of a secret's rotations, each with a version of its own."""
    detail = {**NATIVE["detail"], "name": name}
    arn = f"arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-a1b2c3"
    return [
        {**NATIVE, "id": str(uuid4()), "resources": [arn], "detail": {**detail, "versionId": str(uuid4())}}
        for _ in range(count)
    ]


def batch(*events: object) -> dict[str, Any]:
    """Return the invocation that carries these events, as Lambda makes it of messages in a queue."""
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": "none",
                "body": json.dumps(event),
                "attributes": {"ApproximateReceiveCount": "1"},
            }
            for number, event in enumerate(events)
        ]
    }


def test_rotations_and_heartbeats_reach_the_receiver(
    aws: LocalAws, path: EventPath, receiver: FakeReceiver, sandbox: LambdaRuntime
) -> None:
    events = rotations("prod/db", 3)
    assert sandbox.invoke(batch(*events)) == {"batchItemFailures": []}
    assert sandbox.invoke(batch(HEARTBEAT)) == {"batchItemFailures": []}
    delivered = [each for each in receiver.notifications if each.data.name == "prod/db"]
    assert [each.data.version_id for each in delivered] == [each["detail"]["versionId"] for each in events]
    assert "heartbeat" in {each.subject for each in receiver.notifications}
    key = aws.secrets_manager().get_secret_value(SecretId=path.signing_key_secret_id)["SecretString"]
    assert key not in sandbox.output


def test_output_is_json_logs_and_cloudwatch_embedded_metrics(sandbox: LambdaRuntime) -> None:
    sandbox.invoke(batch(*rotations("prod/db", 1)))
    lines = [json.loads(line) for line in sandbox.output.splitlines()]
    (delivered,) = [line for line in lines if line.get("message") == "delivered"]
    assert delivered["correlation_id"]
    assert delivered["function_request_id"]
    (metrics,) = [line for line in lines if line.get("DeliveriesDone")]
    assert metrics["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    assert metrics["service"] == "keyturn"


def test_failed_message_alone_is_reported(sandbox: LambdaRuntime, receiver: FakeReceiver) -> None:
    (bad,), (good,) = rotations("prod/bad", 1), rotations("prod/good", 1)

    def picky(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        results = [
            Result(each.id, Outcome.FAILED if each.data.name == "prod/bad" else Outcome.APPLIED)
            for each in decode(CONTENT_TYPE_BATCH, body)
        ]
        failed = any(result.outcome is Outcome.FAILED for result in results)
        return 503 if failed else 200, encode_reply(results)

    receiver.respond = picky
    assert sandbox.invoke(batch(bad, good)) == {"batchItemFailures": [{"itemIdentifier": "m0"}]}


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
        loaded = running.invoke(["events", "kms", "secretsmanager", "sqs"])
    assert isinstance(loaded, dict)
    ours = {name.partition(".")[0] for name, file in loaded.items() if file.startswith(str(built))}
    there = {each.name.removesuffix(".py") for each in built.iterdir() if not each.name.endswith(".dist-info")}
    assert ours == there, "the artifact has spare or missing packages"
    installed = [file for file in loaded.values() if "site-packages" in file and "awslambdaric" not in file]
    assert [
        file for file in installed if not any(part in file for part in ("simplejson", "snapshot", "runtime_"))
    ] == []
