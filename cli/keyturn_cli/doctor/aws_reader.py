"""Reader of the facts about the stack in AWS. Only ``read_identity`` reads a secret value. It drops the value at
once."""

import contextlib
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from keyturn_cli.aws import Aws, AwsError, Stack, errors
from keyturn_cli.aws_events import label_move
from keyturn_cli.doctor.aws_facts import AwsFacts, Notifier, Queue, Rule, SigningKey
from keyturn_cli.doctor.clock_checks import Identity
from keyturn_cli.doctor.finding import Unknown

T = TypeVar("T")
RULE, SCHEDULE, FUNCTION = "LabelUpdatedRule", "Heartbeat", "Notifier"  # in template.yaml
HEARTBEAT_SOURCE, HEARTBEAT = "dev.keyturn", "Keyturn Heartbeat"
# AWS's error codes for an object that does not exist.
GONE = ("ResourceNotFoundException", "QueueDoesNotExist", "NotFoundException")
_METRIC_PERIOD = timedelta(minutes=10)


class AwsReader:
    """Reader of the facts about one stack."""

    def __init__(self, aws: Aws, stack: Stack) -> None:
        self._aws = aws
        self._stack = stack

    def read(self, used_key: str | None) -> AwsFacts:
        """Read all facts. ``used_key`` is the id of the signing key in the receivers' settings, or None if it is not
        known."""
        outputs = self._stack.outputs
        return AwsFacts(
            now=self._stack.date,
            rule=_readable(self._rule),
            schedule=_readable(self._schedule),
            queue=_readable(self._queue),
            dead_letters=_readable(lambda: self._messages(outputs["DeadLetterQueueUrl"])),
            undelivered=_readable(lambda: self._messages(outputs["UndeliveredEventsUrl"])),
            notifier=_readable(self._notifier),
            signing_key=_readable(lambda: self._signing_key(used_key)),
        )

    def _rule(self) -> Rule:
        events = self._aws.client("events")
        # The physical id of a rule on a bus other than the default bus is "bus|rule".
        name = self._stack.resources[RULE].rpartition("|")[2]
        place = {"EventBusName": self._bus()}
        with errors(f"events:DescribeRule {name}"):
            rule = events.describe_rule(Name=name, **place)
        with errors(f"events:ListTargetsByRule {name}"):
            targets = events.list_targets_by_rule(Rule=name, **place)["Targets"]
        pattern = str(rule.get("EventPattern", ""))
        return Rule(
            name,
            str(rule["Arn"]),
            rule.get("State", "").startswith("ENABLED"),
            _readable(lambda: self._matches(pattern)),
            tuple(str(each["Arn"]) for each in targets),
        )

    def _bus(self) -> str:
        return self._stack.parameters.get("EventBusName") or "default"

    def _matches(self, pattern: str) -> bool:
        sample = sample_event(self._stack)
        with errors("events:TestEventPattern"):
            reply = self._aws.client("events").test_event_pattern(EventPattern=pattern, Event=json.dumps(sample))
        return bool(reply["Result"])

    def _schedule(self) -> str:
        name = self._stack.resources[SCHEDULE].rpartition("|")[2].rpartition("/")[2]
        with errors(f"scheduler:GetSchedule {name}"):
            return str(self._aws.client("scheduler").get_schedule(Name=name)["State"])

    def _queue(self) -> Queue:
        url = self._stack.outputs["QueueUrl"]
        attributes = self._attributes(url)
        return Queue(
            attributes["QueueArn"],
            int(attributes["ApproximateNumberOfMessages"]),
            json.loads(attributes.get("Policy") or "{}"),
            _readable(lambda: self._oldest(attributes["QueueArn"].rpartition(":")[2])),
        )

    def _oldest(self, queue_name: str) -> timedelta:
        """Return the age of the oldest message: the newest value of CloudWatch's metric in the last ten minutes, or 0
        if the metric has no value."""
        end = datetime.now(UTC)
        with errors("cloudwatch:GetMetricStatistics"):
            points = self._aws.client("cloudwatch").get_metric_statistics(
                Namespace="AWS/SQS",
                MetricName="ApproximateAgeOfOldestMessage",
                Dimensions=[{"Name": "QueueName", "Value": queue_name}],
                StartTime=end - _METRIC_PERIOD,
                EndTime=end,
                Period=60,
                Statistics=["Maximum"],
            )["Datapoints"]
        newest = max(points, key=lambda point: point["Timestamp"], default={"Maximum": 0.0})
        return timedelta(seconds=newest["Maximum"])

    def _messages(self, url: str) -> int:
        attributes = self._attributes(url)
        return sum(
            int(attributes[name])
            for name in ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
            if name in attributes
        )

    def _attributes(self, url: str) -> Mapping[str, str]:
        name = url.rpartition("/")[2]
        with errors(f"sqs:GetQueueAttributes {name}"):
            reply = self._aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        attributes: dict[str, str] = reply["Attributes"]
        return attributes

    def _notifier(self) -> Notifier:
        functions, name = self._aws.client("lambda"), self._stack.outputs["NotifierName"]
        with errors(f"lambda:GetFunctionConfiguration {name}"):
            function = functions.get_function_configuration(FunctionName=name)
        with errors(f"lambda:ListEventSourceMappings {name}"):
            mappings = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
        return Notifier(
            name,
            str(function.get("State") or "Active"),
            str(function.get("LastUpdateStatus") or "Successful"),
            bool((function.get("VpcConfig") or {}).get("SubnetIds")),
            next((str(each["State"]) for each in mappings), ""),
            private_hosts(self._stack.parameters.get("ReceiverUrls", "")),
        )

    def _signing_key(self, used_key: str | None) -> SigningKey:
        secret_id = self._stack.outputs["SigningKeySecretId"]
        with errors("secretsmanager:DescribeSecret of the signing key"):
            secret = self._aws.secrets_manager(secret_id).describe_secret(SecretId=secret_id)
        stages: Mapping[str, list[str]] = secret.get("VersionIdsToStages") or {}
        rotated = secret.get("LastRotatedDate") or secret.get("LastChangedDate") or secret.get("CreatedDate")
        return SigningKey(
            str(secret["ARN"]),
            frozenset(label for labels in stages.values() for label in labels),
            bool(secret.get("DeletedDate")),
            bool(secret.get("RotationEnabled")),
            rotated,
            secret.get("NextRotationDate"),
            used_key,
        )


def sample_event(stack: Stack) -> dict[str, Any]:
    """Return a sample event that should match the stack's rule. It is about a move of a staging label of a secret that
    does not exist."""
    prefix, label = passing(stack)
    # The sample's partition, region and account come from the ARN of the signing key.
    scope, _, _ = stack.outputs["SigningKeySecretId"].partition(":secret:")
    name = f"{prefix}keyturn-sample"
    return label_move(f"{scope}:secret:{name}-AbCdEf", name, label, str(uuid4()), datetime.now(UTC))


def passing(stack: Stack) -> tuple[str, str]:
    """Return a prefix of secret names, and a staging label. An event with both matches the stack's rule. The prefix may
    be empty."""
    prefixes, labels = (stack.parameters.get(name, "").split(",") for name in ("NamePrefixes", "Labels"))
    return prefixes[0], labels[0] or "AWSCURRENT"


def put_heartbeat(aws: Aws, stack: Stack) -> None:
    """Put a heartbeat on the stack's bus, as the stack's schedule does every minute. Raises AwsError."""
    prefix, label = passing(stack)
    entry = {
        "Source": HEARTBEAT_SOURCE,
        "DetailType": HEARTBEAT,
        "Detail": json.dumps({"name": f"{prefix}keyturn-heartbeat", "labelUpdated": label}),
        "EventBusName": stack.parameters.get("EventBusName") or "default",
    }
    with errors("events:PutEvents"):
        (result,) = aws.client("events").put_events(Entries=[entry])["Entries"]
    if "ErrorCode" in result:
        raise AwsError("events:PutEvents", str(result["ErrorCode"]), "check the event bus of the stack")


def private_hosts(receiver_urls: str) -> dict[str, str]:
    """Return the hosts of receivers that resolve to private addresses. Each comes with one address.

    A host that does not resolve here is left out, because it may be in a private DNS zone. Loopback addresses are left
    out, because only an emulator of AWS on this machine delivers to them.
    """
    found = {}
    for url in filter(None, receiver_urls.split(",")):
        host = urlsplit(url).hostname or ""
        with contextlib.suppress(OSError, ValueError):
            for *_, address in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM):
                ip = ipaddress.ip_address(address[0])
                if ip.is_private and not ip.is_loopback:
                    found[host] = str(ip)
    return found


def read_identity(aws: Aws, signing_key_id: str) -> Identity | Unknown:
    """Read the AWS identity of this process. Then try the two reads that the receivers make: the value of the signing
    key, which is dropped at once, and the list of the secrets. A read is not tried if the id of the signing key, or the
    region, is not known."""
    try:
        with errors("sts:GetCallerIdentity"):
            arn = str(aws.client("sts", aws.region or "us-east-1").get_caller_identity()["Arn"])
    except AwsError as error:
        remedy = (
            "give the ServiceAccount a role: docs/aws-access.md" if error.code == "no credentials" else error.advice
        )
        return Unknown(f"{error.call}: {error.code}", remedy)
    reads: dict[str, str] = {}
    if signing_key_id:
        reads["reads signing key"] = _refusal(
            lambda: aws.secrets_manager(signing_key_id).get_secret_value(SecretId=signing_key_id)
        )
    if aws.region:
        # It is not a fault if this right is missing, because the poller then describes each bound secret.
        listed = _refusal(lambda: aws.client("secretsmanager").list_secrets(MaxResults=1))
        if not listed:
            reads["ListSecrets"] = ""
    return Identity(arn, aws.region, reads)


def _refusal(call: Callable[[], object]) -> str:
    try:
        with errors("secretsmanager"):
            call()
    except AwsError as error:
        return error.code
    return ""


def _readable(read: Callable[[], T]) -> T | Unknown:
    """Return the result of ``read``. If the read fails, return an ``Unknown`` with the reason."""
    try:
        return read()
    except AwsError as error:
        if any(code in error.code for code in GONE):
            return Unknown(f"it is gone ({error.call}: {error.code})", "deploy the stack again", is_fault=True)
        return Unknown(f"{error.call}: {error.code}", error.advice)
    except KeyError as error:
        return Unknown(f"the stack has no {error.args[0]}", "name Keyturn's stack: --stack NAME", is_fault=True)
