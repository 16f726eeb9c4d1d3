"""The local AWS: moves of labels become events, events become messages, and messages reach a handler."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyturn_local.aws.rotation import promote, rotate
from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.notifier.event_source import Context, EventSource
from keyturn_local.timeline import Timeline
from support.wait import eventually

NATIVE = json.loads((Path(__file__).parents[1] / "events" / "native-secret-label-updated.json").read_text())


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    return Timeline(tmp_path / "timeline.jsonl")


@pytest.fixture
def aws(tmp_path: Path, timeline: Timeline) -> Iterator[LocalAws]:
    with LocalAws.start(tmp_path, timeline) as running:
        yield running


@pytest.fixture
def path(aws: LocalAws) -> EventPath:
    return aws.provision(visibility_seconds=1, max_receives=2)


def messages(aws: LocalAws, url: str) -> list[dict]:
    found = aws.sqs().receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])
    for message in found:
        aws.sqs().delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in found]


def test_rotation_sends_one_event_in_the_documented_form(aws: LocalAws, path: EventPath) -> None:
    client = aws.secrets_manager()
    arn = client.create_secret(Name="prod/db", SecretString="one")["ARN"]
    version_id = rotate(client, "prod/db", "two")
    created, rotated = messages(aws, path.queue_url)
    for event in (created, rotated):
        assert [*event] == [*NATIVE]
        assert [*event["detail"]] == [*NATIVE["detail"]]
        assert {key: type(value) for key, value in event.items()} == {key: type(NATIVE[key]) for key in NATIVE}
        assert len(event["time"]) == len(NATIVE["time"])
        assert event["resources"] == [arn]
        assert event["account"] == "123456789012"
    assert rotated["detail"] == {"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": version_id}


def test_rotation_leaves_the_new_value_current_and_none_pending(aws: LocalAws) -> None:
    client = aws.secrets_manager()
    client.create_secret(Name="prod/db", SecretString="one")
    version_id = rotate(client, "prod/db", "two")
    assert client.get_secret_value(SecretId="prod/db")["SecretString"] == "two"
    stages = client.describe_secret(SecretId="prod/db")["VersionIdsToStages"]
    assert stages[version_id] == ["AWSCURRENT"]


def test_roll_backs_and_custom_labels_send_events_and_reads_do_not(aws: LocalAws, path: EventPath) -> None:
    client = aws.secrets_manager()
    first = client.create_secret(Name="prod/db", SecretString="one")["VersionId"]
    rotate(client, "prod/db", "two")
    messages(aws, path.queue_url)
    promote(client, "prod/db", first)
    client.put_secret_value(SecretId="prod/db", SecretString="three", VersionStages=["blue"])
    client.get_secret_value(SecretId="prod/db")
    labels = [event["detail"]["labelUpdated"] for event in messages(aws, path.queue_url)]
    assert labels == ["AWSCURRENT", "blue"]


def test_cut_event_path_loses_events_until_it_is_restored(aws: LocalAws, path: EventPath) -> None:
    client = aws.secrets_manager()
    aws.cut_event_path()
    client.create_secret(Name="prod/a", SecretString="one")
    aws.restore_event_path()
    client.create_secret(Name="prod/b", SecretString="one")
    assert [event["detail"]["name"] for event in messages(aws, path.queue_url)] == ["prod/b"]


def test_calls_are_counted(aws: LocalAws) -> None:
    before = aws.calls().get("secretsmanager.ListSecrets", 0)
    aws.secrets_manager().list_secrets()
    assert aws.calls()["secretsmanager.ListSecrets"] == before + 1


def test_message_leaves_the_queue_only_once_it_is_handled(aws: LocalAws, path: EventPath, timeline: Timeline) -> None:
    client = aws.secrets_manager()
    for name in ("a", "b"):
        client.create_secret(Name=name, SecretString="one")
    seen: list[str] = []

    def handler(event: dict, context: Context) -> object:
        failures = []
        for record in event["Records"]:
            name = json.loads(record["body"])["detail"]["name"]
            seen.append(name)
            if name == "b" and seen.count("b") < 2:
                failures.append({"itemIdentifier": record["messageId"]})
        assert context.get_remaining_time_in_millis() > 0
        return {"batchItemFailures": failures}

    source = EventSource(aws.sqs(), path.queue_url, handler, timeline)
    assert source.poll_once() == 2
    assert source.poll_once(wait_seconds=0) == 0  # the failed message is still invisible
    eventually(lambda: source.poll_once())
    assert seen == ["a", "b", "b"]
    assert source.poll_once(wait_seconds=2) == 0


@pytest.mark.parametrize("answer", [None, {}, {"batchItemFailures": None}, {"batchItemFailures": []}])
def test_answer_without_failures_deletes_the_batch(
    aws: LocalAws, path: EventPath, timeline: Timeline, answer: object
) -> None:
    aws.secrets_manager().create_secret(Name="a", SecretString="one")
    source = EventSource(aws.sqs(), path.queue_url, lambda event, context: answer, timeline)
    assert source.poll_once() == 1
    assert source.poll_once(wait_seconds=2) == 0


@pytest.mark.parametrize(
    "answer", [{"batchItemFailures": [{"itemIdentifier": "unknown"}]}, {"batchItemFailures": [{}]}, 7, ValueError()]
)
def test_batch_that_keeps_failing_goes_to_the_dead_letter_queue(
    aws: LocalAws, path: EventPath, timeline: Timeline, answer: object
) -> None:
    aws.secrets_manager().create_secret(Name="a", SecretString="one")
    tries: list[object] = []

    def handler(event: dict, context: Context) -> object:
        tries.append(event)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = EventSource(aws.sqs(), path.queue_url, handler, timeline)

    def dead() -> list[dict]:
        source.poll_once(wait_seconds=0)
        return messages(aws, path.dlq_url)

    (event,) = eventually(dead)
    assert event["detail"]["name"] == "a"
    assert len(tries) == 2
