"""IAM: for every combination of switches, the roles allow exactly the calls that the code makes. The tests derive these
calls from the code."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.aws.template import FILE, read
from support.aws_calls import called, imported
from support.iam import actions, allows
from support.sam import resolved

LAMBDA = FILE.parent / "lambda"
# The actions that Lambda itself needs in the role of the function. The following ones are for logs:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html#monitoring-cloudwatchlogs-prereqs
LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
# These are for the event source:
# https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html#events-sqs-permissions
EVENT_SOURCE = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
# These are for traces: https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html#services-xray-permissions
TRACES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
# These are for the VPC:
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
NETWORK = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
# These are for a customer-managed key that encrypts the queues and the signing key:
# https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html
CUSTOMER_KEY = {"kms:Decrypt", "kms:GenerateDataKey"}

TEMPLATE = read()
ROLES = {
    "NotifierRole": ("keyturn_notifier.handler", EVENT_SOURCE),
    "SigningKeyRotationRole": ("keyturn_notifier.rotation", set()),
}


def combinations(role: str) -> Iterator[dict[str, bool]]:
    """Yield every combination of the conditions that a role depends on. All other conditions are false."""
    text = json.dumps(TEMPLATE["Resources"][role])
    used = [name for name in TEMPLATE["Conditions"] if f'"{name}"' in text]
    for values in itertools.product((False, True), repeat=len(used)):
        yield {**dict.fromkeys(TEMPLATE["Conditions"], False), **dict(zip(used, values, strict=True))}


def granted(role: str, conditions: dict[str, bool]) -> list[dict[str, Any]]:
    properties = resolved(TEMPLATE["Resources"][role], conditions)["Properties"]
    return [statement for policy in properties["Policies"] for statement in policy["PolicyDocument"]["Statement"]]


@pytest.mark.parametrize("role", ROLES)
def test_role_grants_exactly_the_actions_that_the_code_calls(role: str) -> None:
    module, always = ROLES[role]
    ours = called(imported(module, LAMBDA))
    assert ours, "the test finds no calls: it looks in the wrong place"
    for conditions in combinations(role):
        switches = {"kms": conditions["WithKmsSigning"], "events": conditions.get("WithReceipts", False)}
        expected = {each for each in ours if switches.get(each.split(":")[0], True)} | always | LOG
        expected |= TRACES if conditions["WithTracing"] else set()
        expected |= NETWORK if conditions["InVpc"] else set()
        expected |= CUSTOMER_KEY if conditions["WithCustomerKey"] else set()
        statements = granted(role, conditions)
        assert set(actions(statements)) == expected, conditions
        pairs = [(action, str(each["Resource"])) for each in statements for action in actions([each])]
        assert len(pairs) == len(set(pairs)), "granted twice"


def test_notifier_may_put_events_on_the_receipts_bus_alone() -> None:
    for conditions in combinations("NotifierRole"):
        puts = [each for each in granted("NotifierRole", conditions) if "events:PutEvents" in actions([each])]
        assert [each["Resource"] for each in puts] == [{"Fn::GetAtt": ["ReceiptsBus", "Arn"]}] * conditions[
            "WithReceipts"
        ]


def test_receipts_bus_denies_everybody_but_the_notifier() -> None:
    bus, policy = (TEMPLATE["Resources"][name] for name in ("ReceiptsBus", "ReceiptsBusPolicy"))
    assert bus["Condition"] == policy["Condition"] == "WithReceipts"
    assert policy["Properties"]["EventBusName"] == {"Ref": "ReceiptsBus"}
    statement = policy["Properties"]["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "events:PutEvents")
    assert statement["Resource"] == {"Fn::GetAtt": ["ReceiptsBus", "Arn"]}
    condition = {"ArnNotEquals": {"aws:PrincipalArn": {"Fn::GetAtt": ["NotifierRole", "Arn"]}}}
    assert statement["Condition"] == condition
    role = "arn:aws:iam::123456789012:role/keyturn-NotifierRole-1A"
    allow = {"Effect": "Allow", "Action": "events:*", "Resource": "*"}
    deny = {**statement, "Resource": "*", "Condition": {"ArnNotEquals": {"aws:PrincipalArn": role}}}
    for context, expected in (
        ({"aws:PrincipalArn": role}, True),
        ({"aws:PrincipalArn": f"{role}2"}, False),
        ({"aws:PrincipalArn": "arn:aws:iam::123456789012:user/administrator"}, False),
        ({}, False),  # no principal ARN: a service, such as a rule without a role on another bus
    ):
        assert allows([allow, deny], "events:PutEvents", "*", context) is expected, context


def test_secret_with_the_cas_is_readable_if_it_is_given_and_no_other() -> None:
    for role in ROLES:
        for conditions in combinations(role):
            readable = [
                each["Resource"]
                for each in granted(role, conditions)
                if "secretsmanager:GetSecretValue" in actions([each])
            ]
            own = [{"Ref": "CaBundleSecretArn"}] if conditions["WithCaSecret"] else []
            assert readable == [{"Ref": "SigningKey"}, *own]


@pytest.mark.parametrize("role", ROLES)
def test_action_is_limited_to_a_named_resource_if_aws_allows_it(role: str) -> None:
    for conditions in combinations(role):
        for statement in granted(role, conditions):
            if statement["Resource"] == "*":
                assert set(statement["Action"]) in (TRACES, NETWORK)
            else:
                assert set(statement["Resource"]) <= {"Ref", "Fn::GetAtt"}, statement
            assert statement["Effect"] == "Allow"


def test_no_action_is_a_wildcard() -> None:
    for role in ROLES:
        for conditions in combinations(role):
            assert "*" not in "".join(actions(granted(role, conditions)))


def test_schedule_may_only_send_heartbeats() -> None:
    for conditions in combinations("HeartbeatRole"):
        (statement,) = granted("HeartbeatRole", conditions)
        assert statement["Action"] == "events:PutEvents"
        assert statement["Resource"]["Fn::Sub"].endswith("event-bus/${EventBusName}")
        for sources, expected in (
            (["dev.keyturn"], True),
            (["aws.secretsmanager"], False),
            (["dev.keyturn", "aws.secretsmanager"], False),
            (None, False),
        ):
            context = {} if sources is None else {"events:source": sources}
            assert allows([{**statement, "Resource": "*"}], "events:PutEvents", "*", context) is expected, sources


def test_customers_key_is_used_only_through_secrets_manager_and_sqs() -> None:
    conditions = dict.fromkeys(TEMPLATE["Conditions"], True)
    for role in ROLES:
        (statement,) = (each for each in granted(role, conditions) if each.get("Sid") == "UseCustomerKey")
        assert statement["Condition"] == {
            "StringEquals": {
                "kms:ViaService": [
                    {"Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}"},
                    {"Fn::Sub": "sqs.${AWS::Region}.${AWS::URLSuffix}"},
                ]
            }
        }


def test_receivers_of_other_accounts_may_read_the_signing_key_and_no_more() -> None:
    policy = TEMPLATE["Resources"]["SigningKeyPolicy"]
    assert policy["Condition"] == "WithForeignReceivers"
    assert policy["Properties"]["SecretId"] == {"Ref": "SigningKey"}
    assert policy["Properties"]["BlockPublicPolicy"] is True
    (statement,) = policy["Properties"]["ResourcePolicy"]["Statement"]
    assert statement["Principal"] == {"AWS": {"Ref": "ReceiverRoleArns"}}
    role = read(FILE.parent / "infra" / "aws" / "receiver-role.yaml")["Resources"]["Role"]["Properties"]
    (own,) = (
        each["Fn::If"][1]
        for each in role["Policies"][0]["PolicyDocument"]["Statement"]
        if each.get("Fn::If", [""])[0] == "WithSigningKey"
    )
    assert statement["Action"] == own["Action"]  # the receiver's own role and the policy of the key must agree


def test_code_of_the_functions_may_not_use_the_rights_that_attach_them_to_the_vpc() -> None:
    policy = TEMPLATE["Resources"]["VpcRightsOfLambdaAlone"]
    assert policy["Condition"] == "InVpc"
    assert policy["Properties"]["Roles"] == [{"Ref": role} for role in ROLES]
    (deny,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert (deny["Effect"], set(deny["Action"]), deny["Resource"]) == ("Deny", NETWORK, "*")
    functions = [name for name, each in TEMPLATE["Resources"].items() if each["Type"] == "AWS::Serverless::Function"]
    arns = deny["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]
    assert sorted(each["Fn::GetAtt"][0] for each in arns) == sorted(functions)


def test_roles_are_assumed_only_by_lambda_and_the_scheduler() -> None:
    for name, service in (*((role, "lambda") for role in ROLES), ("HeartbeatRole", "scheduler")):
        (statement,) = TEMPLATE["Resources"][name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}
        assert statement["Action"] == "sts:AssumeRole"


def test_rotation_is_invoked_only_by_secrets_manager_for_the_signing_key() -> None:
    permission = TEMPLATE["Resources"]["SigningKeyRotationPermission"]["Properties"]
    assert permission["Principal"] == "secretsmanager.amazonaws.com"
    assert permission["SourceArn"] == {"Ref": "SigningKey"}
    assert permission["SourceAccount"] == {"Ref": "AWS::AccountId"}


def test_call_added_to_the_code_is_detected(tmp_path: Path) -> None:
    code = "client = boto3.client('secretsmanager')\nclient.delete_secret(SecretId='x')\nrun(client.tag_resource)\n"
    (tmp_path / "code.py").write_text(code)
    assert called([tmp_path / "code.py"]) == {"secretsmanager:DeleteSecret", "secretsmanager:TagResource"}
