"""IAM: what the code calls, and nothing else, is what the roles may do. Derived from the code, with every switch."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.aws.template import FILE, read
from support.aws_calls import called, imported
from support.iam import actions
from support.sam import resolved

LAMBDA = FILE.parent / "lambda"
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


def granted(role: str, conditions: dict[str, bool]) -> list[dict[str, Any]]:
    properties = resolved(TEMPLATE["Resources"][role], conditions)["Properties"]
    return [statement for policy in properties["Policies"] for statement in policy["PolicyDocument"]["Statement"]]


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
    code = "client = boto3.client('secretsmanager')\nclient.delete_secret(SecretId='x')\nrun(client.tag_resource)\n"
    (tmp_path / "code.py").write_text(code)
    assert called([tmp_path / "code.py"]) == {"secretsmanager:DeleteSecret", "secretsmanager:TagResource"}
