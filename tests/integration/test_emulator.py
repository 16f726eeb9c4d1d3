"""The emulator: label moves become the events that AWS documents, and a rule carries them to a queue."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.aws.rotation import promote, rotate
from keyturn_local.aws.sdk import ACCOUNT

NATIVE = json.loads((Path(__file__).parents[1] / "events" / "native-secret-label-updated.json").read_text())
RULE = "labels"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator.start(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture(scope="module")
def queue(emulator: Emulator) -> str:
    """The URL of a queue for all events of Secrets Manager."""
    sqs, events = emulator.client("sqs"), emulator.client("events")
    url = sqs.create_queue(QueueName=RULE)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    events.put_rule(Name=RULE, EventPattern=json.dumps({"source": ["aws.secretsmanager"]}))
    events.put_targets(Rule=RULE, Targets=[{"Id": "queue", "Arn": arn}])
    return str(url)


def messages(emulator: Emulator, url: str) -> list[dict]:
    """Take at most ten messages out of the queue. Return their bodies."""
    sqs = emulator.client("sqs")
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])
    for message in found:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in found]


def test_rotation_sends_one_event_in_the_documented_form(emulator: Emulator, queue: str) -> None:
    client = emulator.client("secretsmanager")
    arn = client.create_secret(Name="form/db", SecretString="one")["ARN"]
    version_id = rotate(client, "form/db", "two")
    (event,) = messages(emulator, queue)
    assert event.keys() == NATIVE.keys()
    assert event["detail"].keys() == NATIVE["detail"].keys()
    assert {key: type(value) for key, value in event.items()} == {key: type(NATIVE[key]) for key in NATIVE}
    assert len(event["time"]) == len(NATIVE["time"])
    assert event["resources"] == [arn]
    assert event["account"] == ACCOUNT
    assert event["detail"] == {"name": "form/db", "labelUpdated": "AWSCURRENT", "versionId": version_id}


def test_roll_backs_and_custom_labels_send_events_and_reads_do_not(emulator: Emulator, queue: str) -> None:
    client = emulator.client("secretsmanager")
    first = client.create_secret(Name="labels/db", SecretString="one")["VersionId"]
    rotate(client, "labels/db", "two")
    messages(emulator, queue)
    promote(client, "labels/db", first)
    client.put_secret_value(SecretId="labels/db", SecretString="three", VersionStages=["blue"])
    client.get_secret_value(SecretId="labels/db")
    labels = [event["detail"]["labelUpdated"] for event in messages(emulator, queue)]
    assert labels == ["AWSCURRENT", "blue"]


def test_disabled_rule_loses_events_until_it_is_enabled(emulator: Emulator, queue: str) -> None:
    client, events = emulator.client("secretsmanager"), emulator.client("events")
    for name in ("cut/a", "cut/b"):
        client.create_secret(Name=name, SecretString="one")
    events.disable_rule(Name=RULE)
    rotate(client, "cut/a", "two")
    events.enable_rule(Name=RULE)
    rotate(client, "cut/b", "two")
    assert [event["detail"]["name"] for event in messages(emulator, queue)] == ["cut/b"]
