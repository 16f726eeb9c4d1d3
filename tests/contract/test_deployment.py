"""template.yaml, transformed by SAM's own translator, and deployed into moto as far as moto supports it."""

import copy
import io
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from support.sam import CODE, parameters, resolved, transformed

# Types of resources that moto's CloudFormation cannot create. They are checked only by cfn-lint and test_template.py.
UNKNOWN_TO_MOTO = {
    "AWS::CloudWatch::Alarm",
    "AWS::Events::EventBusPolicy",
    "AWS::KMS::Key",  # moto does not know the key spec ECC_NIST_EDWARDS25519
    "AWS::Scheduler::Schedule",
    "AWS::SecretsManager::ResourcePolicy",
    "AWS::SecretsManager::RotationSchedule",
    "AWS::SecretsManager::Secret",
    "AWS::SQS::QueuePolicy",
}
SWITCHES = {
    "LifecycleEvents": "true",
    "SignWithKms": "true",
    "KmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/0a0b0c0d-0000-4000-8000-000000000000",
    "Tracing": "true",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:pager",
    "NamePrefixes": "prod/,stage/",
    "Labels": "AWSCURRENT,blue",
    "ReceiverRoleArns": "arn:aws:iam::999988887777:role/receiver",
    "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
    "MemberCount": "2",
    "ExtraRuleArns": "arn:aws:events:us-east-1:123456789012:rule/mine",
    "CaBundleSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:ca-a1b2c3",
    "Receipts": "true",
}
# The conditions of resources that moto can create, each with the parameter that makes it true.
CONDITIONS = {
    "WithLifecycleEvents": "LifecycleEvents",
    "WithMembers": "MemberCount",
    "WithReceipts": "Receipts",
    "InVpc": "SubnetIds",
}
TEMPLATE = transformed()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws(config={"lambda": {"use_docker": False}}):  # the tests do not run the functions
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("keyturn_notifier/handler.py", "")
        boto3.client("s3").create_bucket(Bucket=CODE["Bucket"])
        boto3.client("s3").put_object(Bucket=CODE["Bucket"], Key=CODE["Key"], Body=archive.getvalue())
        yield


def known_part(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template without the resources that moto cannot create. References to these are replaced by fixed
    text."""
    lacking = {name for name, each in template["Resources"].items() if each["Type"] in UNKNOWN_TO_MOTO}

    def without(node: Any) -> Any:
        if isinstance(node, dict):
            if node.get("Ref") in lacking:
                return node["Ref"]
            if isinstance(node.get("Fn::GetAtt"), list) and node["Fn::GetAtt"][0] in lacking:
                return "arn:aws:x:us-east-1:123456789012:" + ".".join(node["Fn::GetAtt"])
            return {name: without(each) for name, each in node.items()}
        return [without(each) for each in node] if isinstance(node, list) else node

    made = copy.deepcopy(template)
    made["Resources"] = {name: each for name, each in made["Resources"].items() if name not in lacking}
    return dict(without(made))


def deploy(wanted: Callable[[str], bool] = lambda _: True, **values: str) -> dict[str, str]:
    """Deploy the resources whose type is wanted. Return the physical id of each."""
    client = boto3.client("cloudformation")
    template = known_part(TEMPLATE)
    template["Resources"] = {name: each for name, each in template["Resources"].items() if wanted(each["Type"])}
    client.create_stack(
        StackName="keyturn",
        TemplateBody=json.dumps(template),
        Parameters=parameters(values),
        Capabilities=["CAPABILITY_IAM"],
    )
    resources = client.describe_stack_resources(StackName="keyturn")["StackResources"]
    # moto also lists resources whose condition is false, but these have no logical id.
    return {
        each["LogicalResourceId"]: each.get("PhysicalResourceId", "")
        for each in resources
        if each.get("LogicalResourceId")
    }


@pytest.mark.parametrize("switches", [{}, *({name: value} for name, value in SWITCHES.items()), SWITCHES], ids=str)
def test_template_deploys_with_every_switch(cloud: None, switches: dict[str, str]) -> None:
    made = deploy(**switches)
    expected = {
        name
        for name, each in known_part(TEMPLATE)["Resources"].items()
        if "Condition" not in each or CONDITIONS[each["Condition"]] in switches
    }
    assert made.keys() == expected


@pytest.mark.parametrize("kind", sorted(UNKNOWN_TO_MOTO - {"AWS::KMS::Key"}))
@pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
def test_resource_type_left_out_is_unknown_to_moto(cloud: None, kind: str) -> None:
    """If this test fails, moto supports one more type of resource. That type has to be removed from UNKNOWN_TO_MOTO."""
    properties = {
        "Name": "x",
        "Queues": [],
        "SecretId": "x",
        "PolicyDocument": {"Version": "2012-10-17", "Statement": []},
    }
    template = {"Resources": {"X": {"Type": kind, "Properties": properties}}}
    client = boto3.client("cloudformation")
    client.create_stack(StackName="x", TemplateBody=json.dumps(template))
    made = client.list_stack_resources(StackName="x")["StackResourceSummaries"]
    assert [each["LogicalResourceId"] for each in made if each["LogicalResourceId"]] == []


def deploy_rules(**values: str) -> dict[str, str]:
    """Deploy everything except the functions, so that messages stay in the queue."""
    return deploy(lambda kind: not kind.startswith("AWS::Lambda::"), **values)


def received(queue_url: str) -> list[dict[str, Any]]:
    messages = boto3.client("sqs").receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(message["Body"]) for message in messages]


def put(detail_type: str, detail: dict[str, str], source: str) -> None:
    entry = {"Source": source, "DetailType": detail_type, "Detail": json.dumps(detail)}
    boto3.client("events").put_events(Entries=[entry])


@pytest.mark.parametrize(
    ("prefixes", "labels", "name", "label", "carried"),
    [
        ("", "", "anything/at-all", "AWSCURRENT", True),
        ("", "", "anything/at-all", "blue", True),
        ("prod/", "", "prod/db", "AWSCURRENT", True),
        ("prod/", "", "stage/db", "AWSCURRENT", False),
        ("prod/", "", "not-prod/db", "AWSCURRENT", False),
        ("prod/,stage/", "", "stage/db", "blue", True),
        ("a/,b/,c/,d/,e/", "", "e/db", "AWSCURRENT", True),
        ("a/,b/,c/,d/,e/", "", "f/db", "AWSCURRENT", False),
        ("a/,b/,c/", "", "c/db", "AWSCURRENT", True),
        ("shop/,rds!cluster-", "", "rds!cluster-0a1b", "AWSCURRENT", True),
        ("shop/,rds!cluster-", "", "rds!db-0a1b", "AWSCURRENT", False),
        ("", "AWSCURRENT", "prod/db", "AWSCURRENT", True),
        ("", "AWSCURRENT", "prod/db", "blue", False),
        ("", "AWSCURRENT,blue", "prod/db", "blue", True),
        ("prod/", "blue", "prod/db", "blue", True),
    ],
)
def test_prefixes_and_labels_filter_events_and_never_heartbeats(
    cloud: None, prefixes: str, labels: str, name: str, label: str, carried: bool
) -> None:
    made = deploy_rules(NamePrefixes=prefixes, Labels=labels)
    put("Secret Label Updated", {"name": name, "labelUpdated": label, "versionId": "v"}, "aws.secretsmanager")
    assert len(received(made["Queue"])) == carried
    text, _ = TEMPLATE["Resources"]["Heartbeat"]["Properties"]["Target"]["Input"]["Fn::Sub"]
    first = {"${Prefix}": prefixes.split(",")[0], "${Label}": labels.split(",")[0] or "AWSCURRENT"}
    for variable, value in first.items():
        text = text.replace(variable, value)
    put("Keyturn Heartbeat", json.loads(text), "dev.keyturn")
    assert len(received(made["Queue"])) == 1


@pytest.mark.parametrize(
    "name",
    ["DeleteSecret", "RestoreSecret", "RotationFailed", "RotationSucceeded", "PutSecretValue", "GetSecretValue"],
)
def test_lifecycle_rule_forwards_only_the_lifecycle_events(cloud: None, name: str) -> None:
    made = deploy_rules(LifecycleEvents="true")
    for kind in ("AWS API Call via CloudTrail", "AWS Service Event via CloudTrail"):
        put(kind, {"eventName": name}, "aws.secretsmanager")
    expected = 0 if name in ("RotationSucceeded", "PutSecretValue", "GetSecretValue") else 2
    assert len(received(made["Queue"])) == expected


def test_event_of_another_source_is_not_forwarded(cloud: None) -> None:
    made = deploy_rules()
    put("Secret Label Updated", {"name": "x", "labelUpdated": "AWSCURRENT"}, "com.example")
    put("Object Created", {"name": "x", "labelUpdated": "AWSCURRENT"}, "aws.s3")
    assert received(made["Queue"]) == []


def test_event_source_mapping_reads_batches_and_reports_failures(cloud: None) -> None:
    made = deploy()
    (mapping,) = boto3.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 10
    queue = boto3.client("sqs").get_queue_attributes(QueueUrl=made["Queue"], AttributeNames=["All"])["Attributes"]
    assert mapping["EventSourceArn"] == queue["QueueArn"]
    redrive = json.loads(queue["RedrivePolicy"])
    dead = boto3.client("sqs").get_queue_attributes(QueueUrl=made["DeadLetterQueue"], AttributeNames=["All"])[
        "Attributes"
    ]
    assert redrive["deadLetterTargetArn"] == dead["QueueArn"]


def test_functions_have_subnets_and_security_groups_only_in_a_vpc() -> None:
    conditions = {name: name == "InVpc" for name in TEMPLATE["Conditions"]}
    for name in ("Notifier", "SigningKeyRotation"):
        inside = resolved(TEMPLATE["Resources"][name], conditions)["Properties"]["VpcConfig"]
        assert inside == {"SubnetIds": {"Ref": "SubnetIds"}, "SecurityGroupIds": {"Ref": "SecurityGroupIds"}}
        outside = resolved(TEMPLATE["Resources"][name], {**conditions, "InVpc": False})["Properties"]
        assert "VpcConfig" not in outside


def test_outputs_hold_what_the_helm_values_need() -> None:
    assert {"SigningKeySecretId", "SigningKmsKeyId", "DeadLetterQueueUrl"} <= TEMPLATE["Outputs"].keys()


def test_outputs_hold_what_the_page_uses() -> None:
    page = (Path(__file__).parents[2] / "docs" / "aws.md").read_text()
    named = {name for name in re.findall(r"<([A-Z][A-Za-z]+)>", page)}
    assert {"QueueArn", "DeadLetterQueueArn"} <= named <= TEMPLATE["Outputs"].keys()


def test_references_exist_under_every_combination_of_conditions() -> None:
    """Each resource and each output is checked under every combination of the conditions that it uses. In each
    combination, the resources to which it refers must exist, whatever the other conditions are."""
    for name, each in {**TEMPLATE["Resources"], **TEMPLATE["Outputs"]}.items():
        names = sorted(set(conditions_of(each)))
        for values in itertools.product((False, True), repeat=len(names)):
            conditions = dict(zip(names, values, strict=True))
            for target in references(resolved({name: each}, conditions)):
                if not target.startswith("AWS::") and target not in TEMPLATE["Parameters"]:
                    condition = TEMPLATE["Resources"][target].get("Condition")
                    assert condition is None or conditions.get(condition), (name, target, conditions)


def conditions_of(node: Any) -> Iterator[str]:
    """Yield the name of each condition that a part of the template depends on."""
    if isinstance(node, dict):
        if "Fn::If" in node:
            yield node["Fn::If"][0]
        if isinstance(node.get("Condition"), str):
            yield node["Condition"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from conditions_of(each)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "Ref" in node:
            yield node["Ref"]
        if isinstance(node.get("Fn::GetAtt"), list):
            yield node["Fn::GetAtt"][0]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)


def test_template_does_not_name_the_artifact_of_the_tests() -> None:
    assert CODE["Bucket"] not in Path(__file__).parents[2].joinpath("template.yaml").read_text()
