"""A member account's heartbeat passes from its schedule through the rules of both accounts and the queue to the
notifier, which counts it. All of this runs in moto."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto import mock_aws

from keyturn_local.aws.template import FILE, read
from keyturn_local.notifier.function import Context
from keyturn_notifier import handler

REGION, ACCOUNT = "us-east-1", "123456789012"
FORWARDING = FILE.parent / "infra" / "aws" / "event-forwarding.yaml"
KINDS = {"AWS::Events::Rule", "AWS::SQS::Queue", "AWS::IAM::Role"}  # on the path of events; moto can create them


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, REGION)
    with mock_aws():
        boto3.client("events").create_event_bus(Name="keyturn")
        yield


def deploy(file: Path, values: Mapping[str, str]) -> dict[str, str]:
    """Deploy the resources that events pass. Return their physical ids."""
    template = read(file)
    wanted = {name: each for name, each in template["Resources"].items() if each["Type"] in KINDS}
    if file == FILE:  # this template's roles are only those of the functions and of the schedule
        wanted = {name: each for name, each in wanted.items() if each["Type"] != "AWS::IAM::Role"}
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
    client, stack = boto3.client("cloudformation"), f"x-{uuid4()}"
    left = {name: template[name] for name in ("AWSTemplateFormatVersion", "Parameters", "Conditions")}
    body = json.dumps({**left, "Resources": wanted})
    client.create_stack(StackName=stack, TemplateBody=body, Parameters=given, Capabilities=["CAPABILITY_IAM"])
    found = client.describe_stack_resources(StackName=stack)["StackResources"]
    return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found if each.get("LogicalResourceId")}


def scheduled(target: Mapping[str, Any]) -> dict[str, str]:
    """Return the event that a schedule puts on its bus."""
    sent, text = target["EventBridgeParameters"], target["Input"]["Fn::Sub"]
    detail = text.replace("${AWS::AccountId}", ACCOUNT).replace("${AWS::Region}", REGION)
    bus = target["Arn"]["Fn::Sub"].rpartition("/")[2]
    return {"Source": sent["Source"], "DetailType": sent["DetailType"], "Detail": detail, "EventBusName": bus}


def records(queue_url: str) -> list[dict[str, Any]]:
    """Return the messages of a queue as Lambda passes them on. The account is added, because moto leaves it out."""
    messages = boto3.client("sqs").receive_message(QueueUrl=queue_url, WaitTimeSeconds=0).get("Messages", [])
    bodies = [{**json.loads(message["Body"]), "account": ACCOUNT} for message in messages]
    return [{"messageId": "m", "receiptHandle": "r", "body": json.dumps(body)} for body in bodies]


@pytest.mark.parametrize("member_count", ["0", "1"])
def test_heartbeat_goes_from_the_members_schedule_to_the_count_of_its_origin(
    member_count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = "https://receiver.invalid/v1/notifications"
    parameters = {"ReceiverUrls": receiver, "EventBusName": "keyturn", "MemberCount": member_count}
    queue_url = deploy(FILE, parameters)["Queue"]
    deploy(FORWARDING, {"BusArn": f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/keyturn"})
    entry: Any = scheduled(read(FORWARDING)["Resources"]["Heartbeat"]["Properties"]["Target"])
    boto3.client("events").put_events(Entries=[entry])
    arrived = records(queue_url)
    assert len(arrived) == int(member_count)
    settings = {
        "RECEIVER_URLS": receiver,
        "SIGNING_KEY_SECRET_ID": "none",
        "QUEUE_URL": queue_url,
        "DLQ_URL": queue_url,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"KEYTURN_{name}", value)
    handler._notifier.cache_clear()
    assert handler.handler({"Records": arrived}, Context()) == {"batchItemFailures": []}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    origins = [line["origin"] for line in lines if "MemberHeartbeats" in line]
    assert origins == [f"{ACCOUNT}/{REGION}"] * int(member_count)
    assert records(queue_url) == [], "the heartbeat was put back"
