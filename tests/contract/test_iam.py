"""IAM: what the code calls, and nothing else, is what the roles may do. Derived from the code, with every switch."""

import ast
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name

from keyturn_local.template import FILE, read
from sam import resolved

LAMBDA = FILE.parent / "lambda"
CLIENTS = {
    name: boto3.client(name, "us-east-1", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model
    for name in ("kms", "secretsmanager", "sqs")
}
ACTIONS = {
    xform_name(operation): f"{name}:{operation}"
    for name, model in CLIENTS.items()
    for operation in model.operation_names
}
# Actions that are called otherwise than the operation:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html
RENAMED = {"sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility"}

# What AWS does in the function's name, with no line of ours: for its log,
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html#monitoring-cloudwatchlogs-prereqs
LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
# its event source, https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html#events-sqs-permissions
EVENT_SOURCE = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
# traces, https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html#services-xray-permissions
TRACES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
# network, https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
NETWORK = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
# and a customer's key behind queue and secret.
# https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html
CUSTOMER_KEY = {"kms:Decrypt", "kms:GenerateDataKey"}

TEMPLATE = read()
ROLES = {
    "NotifierRole": ("keyturn_notifier.handler", EVENT_SOURCE),
    "SigningKeyRotationRole": ("keyturn_notifier.rotation", set()),
}
COMBINATIONS = [
    dict(zip(TEMPLATE["Conditions"], values, strict=True))
    for values in itertools.product((False, True), repeat=len(TEMPLATE["Conditions"]))
]


def imported(module: str, root: Path) -> set[Path]:
    """The files of our own that a module imports, at whatever depth and place."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        file = root / (waiting.pop().replace(".", "/") + ".py")
        if not file.exists() or file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def called(files: Iterable[Path]) -> set[str]:
    """The IAM actions of the AWS operations that the code names as methods of a client."""
    names = {
        node.attr for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)
    }
    actions = {ACTIONS[name] for name in names if name in ACTIONS}
    return {RENAMED.get(action, action) for action in actions}


def granted(role: str, conditions: dict[str, bool]) -> list[dict[str, Any]]:
    properties = resolved(TEMPLATE["Resources"][role], conditions)["Properties"]
    return [statement for policy in properties["Policies"] for statement in policy["PolicyDocument"]["Statement"]]


def actions(statements: Iterable[dict[str, Any]]) -> list[str]:
    return [
        each for one in statements for each in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    ]


@pytest.mark.parametrize("role", ROLES)
def test_no_action_is_missing_and_none_is_spare_whatever_is_switched_on(role: str) -> None:
    module, always = ROLES[role]
    ours = called(imported(module, LAMBDA))
    assert ours, "nothing found: the test looks in the wrong place"
    for conditions in COMBINATIONS:
        expected = {each for each in ours if not each.startswith("kms:") or conditions["WithKmsSigning"]} | always | LOG
        expected |= TRACES if conditions["WithTracing"] else set()
        expected |= NETWORK if conditions["InVpc"] else set()
        expected |= CUSTOMER_KEY if conditions["WithCustomerKey"] else set()
        found = actions(granted(role, conditions))
        assert set(found) == expected, conditions
        assert len(found) == len(set(found)), "granted twice"


@pytest.mark.parametrize("role", ROLES)
def test_each_action_is_for_one_named_thing_where_aws_lets_it_be(role: str) -> None:
    for conditions in COMBINATIONS:
        for statement in granted(role, conditions):
            if statement["Resource"] == "*":
                assert set(statement["Action"]) in (TRACES, NETWORK)
            else:
                assert set(statement["Resource"]) <= {"Ref", "Fn::GetAtt"}, statement
            assert statement["Effect"] == "Allow"


def test_no_action_is_a_wildcard() -> None:
    for role in ROLES:
        for conditions in COMBINATIONS:
            assert "*" not in "".join(actions(granted(role, conditions)))


def test_the_schedule_may_send_heartbeats_and_nothing_else() -> None:
    for conditions in COMBINATIONS:
        (statement,) = granted("HeartbeatRole", conditions)
        assert statement["Action"] == "events:PutEvents"
        assert statement["Resource"]["Fn::Sub"].endswith("event-bus/${EventBusName}")
        assert statement["Condition"] == {"StringEquals": {"events:source": "dev.keyturn"}}


def test_only_lambda_and_the_scheduler_may_take_the_roles_on() -> None:
    for name, service in (*((role, "lambda") for role in ROLES), ("HeartbeatRole", "scheduler")):
        (statement,) = TEMPLATE["Resources"][name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}
        assert statement["Action"] == "sts:AssumeRole"


def test_only_secrets_manager_may_call_the_rotation_and_only_for_the_signing_key() -> None:
    permission = TEMPLATE["Resources"]["SigningKeyRotationPermission"]["Properties"]
    assert permission["Principal"] == "secretsmanager.amazonaws.com"
    assert permission["SourceArn"] == {"Ref": "SigningKey"}
    assert permission["SourceAccount"] == {"Ref": "AWS::AccountId"}


def test_a_call_added_to_the_code_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(
        "def f(client):\n    client.delete_secret(SecretId='x')\n    run(client.tag_resource)\n"
    )
    assert called([tmp_path / "code.py"]) >= {"secretsmanager:DeleteSecret"}
