"""What the emulator cannot do by itself: the rows of docs/emulator.md. A test fails when the emulator closes a gap.

Then the row of the gap has to be removed. If a part of launch.py closes the gap, this part has to be removed, too.
"""

import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError

from keyturn_local.aws import sdk
from keyturn_local.aws.emulator.server import Emulator
from support import stacks

PAGE = Path(__file__).parents[2] / "docs" / "emulator.md"
GAPS: dict[str, Callable[[Emulator], bool]] = {}

TRUST = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
PRINTS = """
import json
def handler(event, context):
    print(json.dumps({"_aws": {"Timestamp": event["now"], "CloudWatchMetrics": [
        {"Namespace": "Gap", "Dimensions": [[]], "Metrics": [{"Name": "Calls"}]}]}, "Calls": 1}))
    import sys
    return {"version": list(sys.version_info[:2]), "modules": [each for each in sys.path if "site-packages" in each]}
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator.start(tmp_path_factory.mktemp("bare"), bare=True) as running:
        yield running


def gap(row: str) -> Callable[[Callable[[Emulator], bool]], Callable[[Emulator], bool]]:
    """Mark a function that returns whether the gap of a row of the page is still there."""

    def mark(is_open: Callable[[Emulator], bool]) -> Callable[[Emulator], bool]:
        GAPS[row] = is_open
        return is_open

    return mark


# --- CloudFormation


def template(outputs: dict[str, Any] | None = None, **resources: Any) -> str:
    return json.dumps({"Resources": resources, "Outputs": outputs or {}})


def is_refused(emulator: Emulator, text: str, words: str, **parameters: str) -> bool:
    try:
        stacks.create(emulator, text, f"gap-{uuid4().hex[:6]}", **parameters)
    except stacks.Refused as error:
        return words in str(error)
    return False


def type_is_unknown(resource_type: str) -> Callable[[Emulator], bool]:
    text = template(Each={"Type": resource_type, "Properties": {}})
    return lambda emulator: is_refused(emulator, text, "Unrecognized resource types")


for each_type in (
    "SecretsManager::RotationSchedule",
    "SecretsManager::ResourcePolicy",
    "Events::EventBusPolicy",
    "EKS::PodIdentityAssociation",
):
    GAPS[f"`AWS::{each_type}`"] = type_is_unknown(f"AWS::{each_type}")


@gap("`Ref` of a secret")
def ref_of_a_secret_is_its_name(emulator: Emulator) -> bool:
    made = {"Type": "AWS::SecretsManager::Secret", "Properties": {"SecretString": "value"}}
    with stacks.deployed(emulator, template({"Ref": {"Value": {"Ref": "Made"}}}, Made=made)) as stack:
        return not stack.outputs["Ref"].startswith("arn:")


@gap("`Ref` of a rule of another bus")
def ref_of_a_rule_lacks_its_bus(emulator: Emulator) -> bool:
    bus = {"Type": "AWS::Events::EventBus", "Properties": {"Name": f"gap-{uuid4().hex[:6]}"}}
    rule = {"EventBusName": {"Ref": "Bus"}, "EventPattern": {"source": ["gap"]}}
    made = {"Type": "AWS::Events::Rule", "Properties": rule}
    with stacks.deployed(emulator, template({"Ref": {"Value": {"Ref": "Made"}}}, Bus=bus, Made=made)) as stack:
        return "|" not in stack.outputs["Ref"]


@gap("`GenerateSecretString` with `ExcludePunctuation`")
def punctuation_is_not_excluded(emulator: Emulator) -> bool:
    generate = {"PasswordLength": 500, "ExcludePunctuation": True}
    made = {"Type": "AWS::SecretsManager::Secret", "Properties": {"GenerateSecretString": generate}}
    with stacks.deployed(emulator, template(Made=made)) as stack:
        secret_id = stack.resources()["Made"]
        value = emulator.client("secretsmanager").get_secret_value(SecretId=secret_id)["SecretString"]
    return not value.isalnum()


@gap("numbers given by parameters, such as `MaximumConcurrency`")
def number_of_a_parameter_stays_text(emulator: Emulator) -> bool:
    mapping = {
        "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
        "FunctionName": {"Ref": "Function"},
        "ScalingConfig": {"MaximumConcurrency": {"Ref": "Number"}},
    }
    code = {"ZipFile": "def handler(event, context): pass"}
    function = {"Handler": "index.handler", "Runtime": "python3.13", "Code": code, "Role": role(emulator)}
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Function": {"Type": "AWS::Lambda::Function", "Properties": function},
        "Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping},
    }
    text = json.dumps({"Parameters": {"Number": {"Type": "Number", "Default": 10}}, "Resources": resources})
    with stacks.deployed(emulator, text) as stack:
        url = stack.resources()["Queue"]
        emulator.client("sqs").send_message(QueueUrl=url, MessageBody="never taken")
        time.sleep(2)
        attributes = emulator.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return attributes["ApproximateNumberOfMessages"] == "1"


@gap("alarms of metric math")
def metric_math_is_refused(emulator: Emulator) -> bool:
    alarm = {
        "Metrics": [{"Id": "one", "Expression": "FILL(two, 0)"}],
        "ComparisonOperator": "LessThanThreshold",
        "Threshold": 1,
        "EvaluationPeriods": 1,
    }
    return is_refused(emulator, template(Alarm={"Type": "AWS::CloudWatch::Alarm", "Properties": alarm}), "metric math")


@gap("`Fn::Join` in conditions")
def join_is_not_resolved_in_conditions(emulator: Emulator) -> bool:
    queue = {"Type": "AWS::SQS::Queue", "Condition": "Given"}
    condition = {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", {"Ref": "List"}]}, ""]}]}
    text = {
        "Parameters": {"List": {"Type": "CommaDelimitedList", "Default": ""}},
        "Conditions": {"Given": condition},
        "Resources": {"Queue": queue, "Other": {"Type": "AWS::SQS::Queue"}},
    }
    with stacks.deployed(emulator, json.dumps(text)) as stack:
        return "Queue" in stack.resources()


@gap("the deploying role's rights to the resources")
def cloudformation_asks_for_no_right_to_a_resource(emulator: Emulator) -> bool:
    client = as_user(emulator, "cloudformation", {"Effect": "Allow", "Action": "cloudformation:*", "Resource": "*"})
    name = f"gap-{uuid4().hex[:6]}"
    client.create_stack(StackName=name, TemplateBody=template(Queue={"Type": "AWS::SQS::Queue"}))
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig=stacks.POLLING)
    return True


@gap("the limit of 80 characters for names of queues")
def name_of_a_queue_is_not_limited(emulator: Emulator) -> bool:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "k" * 81}}
    return not is_refused(emulator, template(Queue=queue), "")


# --- Secrets Manager


@gap("`RotateSecret`")
def rotation_calls_no_function(emulator: Emulator) -> bool:
    secrets_manager = emulator.client("secretsmanager")
    arn = secrets_manager.create_secret(Name=f"gap-{uuid4().hex}", SecretString="first")["ARN"]
    nobody = f"arn:aws:lambda:{sdk.REGION}:{sdk.ACCOUNT}:function:nobody"
    version_id = secrets_manager.rotate_secret(SecretId=arn, RotationLambdaARN=nobody)["VersionId"]
    return bool(secrets_manager.get_secret_value(SecretId=arn)["VersionId"] == version_id)


@gap("events of CloudTrail on the bus")
def calls_put_no_event_on_the_bus(emulator: Emulator) -> bool:
    url = ruled_queue(emulator, {"detail-type": ["AWS API Call via CloudTrail"]})
    secrets_manager = emulator.client("secretsmanager")
    arn = secrets_manager.create_secret(Name=f"gap-{uuid4().hex}", SecretString="first")["ARN"]
    secrets_manager.delete_secret(SecretId=arn)
    return not emulator.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages")


# --- STS


@gap("`aws:PrincipalArn` of a role's session")
def session_is_not_known_by_its_role(emulator: Emulator) -> bool:
    """A denial for everybody but the role also denies the role's own session."""
    arn = role(emulator)
    credentials = emulator.client("sts").assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    condition = {"ArnNotEquals": {"aws:PrincipalArn": arn}}
    statement = {"Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*", "Condition": condition}
    allow = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}
    emulator.client("iam").put_role_policy(
        RoleName=arn.split("/")[-1], PolicyName="right", PolicyDocument=document(allow)
    )
    url = emulator.client("sqs").create_queue(
        QueueName=f"gap-{uuid4().hex[:6]}", Attributes={"Policy": document(statement)}
    )["QueueUrl"]
    client = boto3.client(
        "sqs",
        endpoint_url=emulator.endpoint_url,
        region_name=sdk.REGION,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )
    try:
        client.send_message(QueueUrl=url, MessageBody="one")
    except ClientError as error:
        return "AccessDenied" in error.response["Error"]["Code"]
    return False


@gap("`aws:SourceAccount`, when a service assumes a role")
def services_assume_roles_without_their_account(emulator: Emulator) -> bool:
    """In the emulator, the root user can assume a service's role, but not if the trust policy demands
    aws:SourceAccount."""
    roles = [role(emulator), role(emulator, {"StringEquals": {"aws:SourceAccount": sdk.ACCOUNT}})]
    sts = emulator.client("sts")
    sts.assume_role(RoleArn=roles[0], RoleSessionName="service")
    with pytest.raises(ClientError, match="AccessDenied"):
        sts.assume_role(RoleArn=roles[1], RoleSessionName="service")
    return True


# --- KMS


@gap("the limit of 4,096 bytes for messages that KMS signs")
def message_of_any_length_is_signed(emulator: Emulator) -> bool:
    kms = emulator.client("kms")
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    try:
        kms.sign(KeyId=key, Message=b"k" * 4097, MessageType="RAW", SigningAlgorithm="ECDSA_SHA_256")
    except ClientError:
        return False
    return True


# --- SQS and EventBridge


@gap("schedules that send to a bus")
def schedule_does_not_send_its_event(emulator: Emulator) -> bool:
    source = uuid4().hex
    url = ruled_queue(emulator, {"source": [source]})
    target = {
        "Arn": f"arn:aws:events:{sdk.REGION}:{sdk.ACCOUNT}:event-bus/default",
        "RoleArn": role(emulator),
        "EventBridgeParameters": {"Source": source, "DetailType": "gap"},
        "Input": "{}",
    }
    emulator.client("scheduler").create_schedule(
        Name=source,
        ScheduleExpression=f"at({datetime.now(UTC):%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=target,
    )
    return not emulator.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=12).get("Messages")


@gap("IAM's actions for batches of SQS")
def batch_needs_a_right_of_its_own(emulator: Emulator) -> bool:
    url = emulator.client("sqs").create_queue(QueueName=f"gap-{uuid4().hex[:6]}")["QueueUrl"]
    client = as_user(emulator, "sqs", {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"})
    client.send_message(QueueUrl=url, MessageBody="one")
    try:
        client.send_message_batch(QueueUrl=url, Entries=[{"Id": "1", "MessageBody": "two"}])
    except ClientError as error:
        return "AccessDenied" in error.response["Error"]["Code"]
    return False


@gap("`aws:SecureTransport`")
def requests_count_as_insecure(emulator: Emulator) -> bool:
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*", "Condition": condition}
    sqs = emulator.client("sqs")
    url = sqs.create_queue(QueueName=f"gap-{uuid4().hex[:6]}", Attributes={"Policy": document(deny)})["QueueUrl"]
    with pytest.raises(ClientError, match="AccessDenied"):
        sqs.send_message(QueueUrl=url, MessageBody="one")
    return True


@gap("`StartMessageMoveTask`")
def messages_cannot_be_moved(emulator: Emulator) -> bool:
    with pytest.raises(ClientError, match="InvalidAction"):
        emulator.client("sqs").start_message_move_task(SourceArn=f"arn:aws:sqs:{sdk.REGION}:{sdk.ACCOUNT}:none")
    return True


@gap("policies of event buses")
def policy_of_a_bus_forbids_nothing(emulator: Emulator) -> bool:
    """The policy of the bus admits only one role, but a user can put an event nevertheless."""
    events, bus = emulator.client("events"), f"gap-{uuid4().hex[:6]}"
    arn = events.create_event_bus(Name=bus)["EventBusArn"]
    condition = {"ArnNotEquals": {"aws:PrincipalArn": role(emulator)}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "events:PutEvents", "Resource": arn, "Condition": condition}
    events.put_permission(EventBusName=bus, Policy=document({"Sid": "one", **deny}))
    client = as_user(emulator, "events", {"Effect": "Allow", "Action": "events:PutEvents", "Resource": "*"})
    entry = {"EventBusName": bus, "Source": "gap", "DetailType": "gap", "Detail": "{}"}
    return client.put_events(Entries=[entry])["FailedEntryCount"] == 0


@gap("queue policies, where a rule sends to a queue")
def rule_needs_no_policy_of_the_queue(emulator: Emulator) -> bool:
    url = ruled_queue(emulator, {"source": ["gap"]})
    emulator.client("events").put_events(Entries=[{"Source": "gap", "DetailType": "gap", "Detail": "{}"}])
    return bool(emulator.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages"))


@gap("dead-letter queues of rules")
def rule_has_no_dead_letters(emulator: Emulator) -> bool:
    sqs, events, source = emulator.client("sqs"), emulator.client("events"), uuid4().hex
    url = sqs.create_queue(QueueName=f"gap-{source[:6]}")["QueueUrl"]
    dead = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=source, EventPattern=json.dumps({"source": [source]}))
    target = {"Id": "none", "Arn": f"{dead}-none", "DeadLetterConfig": {"Arn": dead}}
    events.put_targets(Rule=source, Targets=[target])
    events.put_events(Entries=[{"Source": source, "DetailType": "gap", "Detail": "{}"}])
    return not sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages")


@gap("buses of other accounts")
def events_do_not_reach_another_account(emulator: Emulator) -> bool:
    other, source = "222222222222", uuid4().hex
    theirs = sdk.client("sqs", emulator.endpoint_url, other)
    url = theirs.create_queue(QueueName=f"gap-{source[:6]}")["QueueUrl"]
    arn = theirs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    their_events = sdk.client("events", emulator.endpoint_url, other)
    bus = their_events.create_event_bus(Name=source)["EventBusArn"]
    their_events.put_rule(Name=source, EventBusName=source, EventPattern=json.dumps({"source": [source]}))
    their_events.put_targets(Rule=source, EventBusName=source, Targets=[{"Id": "queue", "Arn": arn}])
    ours = emulator.client("events")
    ours.put_rule(Name=source, EventPattern=json.dumps({"source": [source]}))
    ours.put_targets(Rule=source, Targets=[{"Id": "bus", "Arn": bus, "RoleArn": role(emulator)}])
    ours.put_events(Entries=[{"Source": source, "DetailType": "gap", "Detail": "{}"}])
    return not theirs.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages")


def ruled_queue(emulator: Emulator, pattern: dict[str, Any]) -> str:
    """Return the URL of a queue that a rule fills."""
    sqs, events, name = emulator.client("sqs"), emulator.client("events"), f"gap-{uuid4().hex[:6]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    return str(url)


# --- Lambda and CloudWatch


@gap("the runtime `python3.13` on Arm")
def functions_run_on_this_machines_python(emulator: Emulator) -> bool:
    answer = invoke(emulator)
    return answer["version"] != [3, 13] or any(".venv-aws" in each for each in answer["modules"])


@gap("metrics in the embedded format")
def printed_metrics_reach_no_metric(emulator: Emulator) -> bool:
    invoke(emulator)
    return not emulator.client("cloudwatch").list_metrics(Namespace="Gap")["Metrics"]


@gap("logs of a function whose group is gone")
def logs_make_their_group(emulator: Emulator) -> bool:
    group = f"gap-{uuid4().hex[:6]}"
    invoke(emulator, LoggingConfig={"LogGroup": group})
    return bool(emulator.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"])


@gap("metrics of SQS")
def queues_have_no_metrics(emulator: Emulator) -> bool:
    sqs = emulator.client("sqs")
    url = sqs.create_queue(QueueName=f"gap-{uuid4().hex[:6]}")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="one")
    return not emulator.client("cloudwatch").list_metrics(Namespace="AWS/SQS")["Metrics"]


def invoke(emulator: Emulator, **properties: Any) -> Any:
    """Run a function that prints a metric, and return its answer."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("index.py", PRINTS)
    functions, name = emulator.client("lambda"), f"gap-{uuid4().hex[:6]}"
    functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Architectures=["arm64"],
        Role=role(emulator),
        Handler="index.handler",
        Code={"ZipFile": archive.getvalue()},
        **properties,
    )
    event = json.dumps({"now": int(time.time() * 1000)})
    return json.loads(functions.invoke(FunctionName=name, Payload=event)["Payload"].read())


# --- IAM


def role(emulator: Emulator, condition: Any = None) -> str:
    name = f"gap-{uuid4().hex[:6]}"
    trust = document({**TRUST, "Condition": condition or {}})
    made = emulator.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    return str(made["Role"]["Arn"])


def as_user(emulator: Emulator, service: str, statement: Any) -> Any:
    """Return a client of a user that has one right."""
    iam, name = emulator.client("iam"), f"gap-{uuid4().hex[:6]}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="right", PolicyDocument=document(statement))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return sdk.client(service, emulator.endpoint_url, key["AccessKeyId"], key["SecretAccessKey"])


def document(statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.mark.parametrize("row", GAPS)
def test_gap_is_still_there(bare: Emulator, row: str) -> None:
    assert GAPS[row](bare), f"the emulator has closed this gap: {row}"


def test_page_has_a_row_for_every_gap_and_no_other() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert set(rows) - {"what"} == set(GAPS)
