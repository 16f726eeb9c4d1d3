"""The templates of infra/aws, deployed into moto. The tests read the policies back and check which calls they allow."""

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from keyturn_cli.errors import TimedOut
from keyturn_cli.main import app
from keyturn_cli.receipts import wait_for_receipts
from keyturn_local.aws.template import FILE, read
from keyturn_notifier.aws_event_types import HEARTBEAT, NATIVE
from keyturn_receiver.core.binding import SECRET_NAME
from support.aws_calls import called
from support.iam import actions, allows
from support.sam import broken_rules, resolved

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra" / "aws"
TEMPLATES = sorted(INFRA.glob("*.yaml"))
ACCOUNT, REGION = "123456789012", "us-east-1"
PROVIDER = "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a0b0c0d-0000-4000-8000-000000000000"
SIGNING_KEY = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:SigningKey-a1b2c3"
THROUGH = f"secretsmanager.{REGION}.amazonaws.com"

# The types of resources, by template, that moto's CloudFormation cannot create. They are checked only by cfn-lint and
# by tests of the template's text.
UNKNOWN_TO_MOTO = {
    "receiver-role.yaml": {"AWS::EKS::PodIdentityAssociation"},
    "secrets-key.yaml": set(),
    "stack-key.yaml": set(),
    "deployer-policy.yaml": set(),
    "event-bus.yaml": {"AWS::Events::EventBusPolicy"},
    "receipts.yaml": {
        "AWS::Events::ApiDestination",
        "AWS::Events::Connection",
        "AWS::Logs::MetricFilter",
        "AWS::SNS::Subscription",
        "AWS::SNS::TopicPolicy",
    },
    "event-forwarding.yaml": {"AWS::CloudWatch::Alarm", "AWS::Scheduler::Schedule", "AWS::SQS::QueuePolicy"},
}


def secret_arn(name: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:secretsmanager:{REGION}:{account}:secret:{name}-a1b2c3"


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


def deploy(file: str, conditions: Mapping[str, bool] | None = None, **values: str) -> dict[str, str]:
    """Deploy those resources of a template that moto can create. Return the physical id of each.

    If ``conditions`` are given, they are resolved before the deployment. Otherwise moto would leave a hole for
    `AWS::NoValue`, and would then refuse a managed policy.
    """
    template = read(INFRA / file)
    if conditions is not None:
        template["Resources"] = resolved(template["Resources"], conditions)
    kinds = UNKNOWN_TO_MOTO[file]
    template["Resources"] = {n: each for n, each in template["Resources"].items() if each["Type"] not in kinds}
    template.pop("Outputs")
    client = boto3.client("cloudformation")
    name = f"x-{uuid4()}"
    client.create_stack(
        StackName=name,
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    found = client.describe_stack_resources(StackName=name)["StackResources"]
    return {
        each["LogicalResourceId"]: each.get("PhysicalResourceId", "") for each in found if each.get("LogicalResourceId")
    }


def document(found: Any) -> Any:
    """Return a policy document without the holes that moto leaves in lists for `AWS::NoValue`.

    AWS returns the document itself. moto sometimes returns a text instead, either as JSON or as Python prints the
    document.
    """
    if not isinstance(found, str):
        return _without_holes(found)
    return document(json.loads(found) if found.startswith(('{"', '"')) else ast.literal_eval(found))


def _without_holes(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_holes(each) for name, each in node.items()}
    return [_without_holes(each) for each in node if each] if isinstance(node, list) else node


def test_cfn_lint_finds_nothing_in_any_template_and_region() -> None:
    """One process checks all of them, because its start takes longer than its checks. Its output names the file."""
    regions = ["us-east-1", "eu-central-1"]
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([lint, "--regions", *regions, "--", *TEMPLATES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_templates_are_all_tested() -> None:
    assert {file.name for file in TEMPLATES} == UNKNOWN_TO_MOTO.keys()


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_resource_types_left_out_are_unknown_to_moto(file: Path) -> None:
    """If this test fails, moto supports one more type of resource. That type has to be removed from UNKNOWN_TO_MOTO."""
    kinds = {each["Type"] for each in read(file)["Resources"].values()}
    unknown = UNKNOWN_TO_MOTO[file.name]
    assert unknown <= kinds
    from moto.cloudformation.parsing import resource_class_from_type

    assert {kind for kind in kinds if resource_class_from_type(kind) is None} == unknown


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_parameter_has_a_description_and_a_pattern_if_it_can_be_mistyped(file: Path) -> None:
    for name, each in read(file)["Parameters"].items():
        assert each.get("Description"), name
        assert {"AllowedPattern", "AllowedValues"} & each.keys(), name
        assert "ConstraintDescription" in each or "AllowedPattern" not in each, name


LISTS = {
    ("event-bus.yaml", "AccountIds"): ["111122223333"],
    ("receiver-role.yaml", "ForeignSecretArns"): [
        secret_arn("shared/ca"),
        secret_arn("rds!cluster-0a1b")[:-6] + "??????",
    ],
    ("receiver-role.yaml", "KmsKeyArns"): [KEY],
    ("secrets-key.yaml", "ReaderArns"): [f"arn:aws:iam::{ACCOUNT}:role/path/r", f"arn:aws-cn:iam::{ACCOUNT}:user/u"],
    ("secrets-key.yaml", "WriterArns"): [f"arn:aws:iam::{ACCOUNT}:role/w"],
    ("stack-key.yaml", "ForeignReceiverRoleArns"): [f"arn:aws-us-gov:iam::{ACCOUNT}:role/r"],
}


def test_lists_are_all_tried() -> None:
    lists = {
        (file.name, name)
        for file in TEMPLATES
        for name, each in read(file)["Parameters"].items()
        if each["Type"] == "CommaDelimitedList"
    }
    assert lists == LISTS.keys()


@pytest.mark.parametrize(("file", "name"), LISTS)
def test_each_member_of_a_list_has_its_form(file: str, name: str) -> None:
    """CloudFormation checks each member of a list against the pattern."""
    pattern = read(INFRA / file)["Parameters"][name]["AllowedPattern"]
    assert all(re.fullmatch(pattern, good) for good in LISTS[file, name])
    for bad in ("<ARN>", "*", "keyturn", "arn:aws:s3:::bucket", f"{LISTS[file, name][0]} "):
        assert not re.fullmatch(pattern, bad), bad


@pytest.mark.parametrize("file", [FILE, *TEMPLATES], ids=lambda file: file.name)
def test_parameter_inside_a_json_text_can_hold_nothing_that_ends_a_string(file: Path) -> None:
    template = read(file)
    for text in json_texts(template["Resources"]):
        for name in set(re.findall(r"\$\{(\w+)\}", text)) & template["Parameters"].keys():
            pattern = template["Parameters"][name]["AllowedPattern"]
            samples = ["arn:aws:iam::123456789012:oidc-provider/x", "keyturn", "a"]
            (fitting, *_) = [each for each in samples if re.fullmatch(pattern, each)]
            for char in ('"', "\\", "\n", "\x01"):
                assert not re.fullmatch(pattern, fitting + char + fitting[-1]), (name, char)


@pytest.mark.parametrize("file", [FILE, *TEMPLATES], ids=lambda file: file.name)
def test_services_that_use_a_key_are_named_by_the_suffix_of_their_partition(file: Path) -> None:
    """Partitions have different suffixes. In China it is amazonaws.com.cn."""
    for each in re.findall(r'"((?:secretsmanager|sqs)\.(?!amazonaws)[^"]*)"', json.dumps(read(file)["Resources"])):
        assert each.endswith(".${AWS::URLSuffix}"), each


def json_texts(node: Any) -> Iterator[str]:
    """Yield each ``Fn::Sub`` text that is JSON, followed by the parameters that its variables refer to."""
    if isinstance(node, dict) and "Fn::Sub" in node:
        text, *variables = node["Fn::Sub"] if isinstance(node["Fn::Sub"], list) else [node["Fn::Sub"]]
        if text.lstrip().startswith("{"):
            yield text + "".join(f"${{{name}}}" for name in re.findall(r'"Ref": "(\w+)"', json.dumps(variables)))
    if isinstance(node, dict | list):
        for each in node.values() if isinstance(node, dict) else node:
            yield from json_texts(each)


@pytest.mark.parametrize("file", [FILE, *TEMPLATES], ids=lambda file: file.name)
def test_prefix_of_secret_names_may_hold_every_character_that_aws_allows(file: Path) -> None:
    """AWS's services put an exclamation mark into the names of the secrets that they manage, as in rds!cluster-..."""
    for name, each in read(file)["Parameters"].items():
        if "Prefix" in name:
            service = "rds!" if name.startswith("Managed") else ""
            for char in (char for char in map(chr, range(128)) if SECRET_NAME.fullmatch(char)):
                # The pattern for managed secrets allows slashes only after the service's exclamation mark.
                assert re.fullmatch(each["AllowedPattern"], f"{service}a{char}"), (name, char)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_no_action_of_a_role_is_a_wildcard(file: Path) -> None:
    template = read(file)
    for values in itertools.product((False, True), repeat=len(template.get("Conditions", {}))):
        conditions = dict(zip(template.get("Conditions", {}), values, strict=True))
        for each in resolved(template["Resources"], conditions).values():
            for policy in each["Properties"].get("Policies", ()) if each["Type"] == "AWS::IAM::Role" else ():
                assert "*" not in "".join(actions(policy["PolicyDocument"]["Statement"]))


class TestReceiverRole:
    SWITCHES: Mapping[str, str] = {
        "TagValue": "prod",
        "ForeignSecretArns": secret_arn("shared/ca", "999988887777")[:-6] + "*",
        "SigningKeySecretArn": SIGNING_KEY,
        "KmsKeyArns": KEY,
    }

    def role(self, identity: str = "irsa", mode: str = "list", **values: str) -> dict[str, Any]:
        """Deploy the receiver's role into moto. Return its trust policy and its permissions."""
        provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{PROVIDER}" if identity == "irsa" else ""
        given = {"SecretNamePrefixes": "team-a/", **values}
        made = deploy(
            "receiver-role.yaml",
            Identity=identity,
            ClusterName="blue",
            OidcProviderArn=provider,
            PollerMode=mode,
            **given,
        )
        client = boto3.client("iam")
        trust = document(client.get_role(RoleName=made["Role"])["Role"]["AssumeRolePolicyDocument"])
        policy = document(client.get_role_policy(RoleName=made["Role"], PolicyName="secrets")["PolicyDocument"])
        return {"trust": trust["Statement"], "may": policy["Statement"]}

    @pytest.mark.parametrize("identity", ["irsa", "pod-identity"])
    @pytest.mark.parametrize("mode", ["list", "describe"])
    @pytest.mark.parametrize("switches", [{}, SWITCHES], ids=["bare", "everything"])
    def test_receiver_role_allows_exactly_the_called_actions(
        self, identity: str, mode: str, switches: Mapping[str, str]
    ) -> None:
        # A tenant's role is assumed with only the tenant's token. That call is unsigned, so it needs no permission.
        calls = called((ROOT / "receiver").rglob("*.py")) - {"sts:AssumeRoleWithWebIdentity"}
        assert "secretsmanager:GetSecretValue" in calls
        listing = {"secretsmanager:ListSecrets"}
        expected = (calls if mode == "list" else calls - listing) | ({"kms:Decrypt"} if switches else set())
        assert set(actions(self.role(identity, mode, **switches)["may"])) == expected

    @pytest.mark.parametrize("action", ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"])
    def test_secrets_outside_the_prefixes_are_denied(self, action: str) -> None:
        may = self.role(SecretNamePrefixes="team-a/,team-b/db")["may"]
        for name in ("team-a/x", "team-a/deep/x", "team-b/db", "team-b/db-2"):
            assert allows(may, action, secret_arn(name)), name
        for name in ("team-c/x", "team-b/x", "x/team-a/x", "team-aa/x", "Team-a/x"):
            assert not allows(may, action, secret_arn(name)), name
        assert not allows(may, action, secret_arn("team-a/x", "999988887777"))

    @pytest.mark.parametrize("prefixes", ["a/", "a/,b/", "a/,b/,c/", "a/,b/,c/,d/", "a/,b/,c/,d/,e/"])
    def test_policy_has_exactly_the_given_prefixes(self, prefixes: str) -> None:
        may = self.role(SecretNamePrefixes=prefixes)["may"]
        readable = {n for n in "abcdef" if allows(may, "secretsmanager:GetSecretValue", secret_arn(f"{n}/x"))}
        assert readable == {prefix.rstrip("/") for prefix in prefixes.split(",")}

    def test_managed_secrets_of_a_prefix_may_be_read(self) -> None:
        may = self.role(SecretNamePrefixes="team-a/,rds!cluster-")["may"]
        assert allows(may, "secretsmanager:GetSecretValue", secret_arn("rds!cluster-0a1b"))
        assert not allows(may, "secretsmanager:GetSecretValue", secret_arn("rds!db-0a1b"))

    def test_secrets_without_the_required_tag_are_denied(self) -> None:
        may = self.role(TagValue="prod")["may"]
        for tags, expected in (({}, False), ({"keyturn": "stage"}, False), ({"keyturn": "prod"}, True)):
            context = {f"secretsmanager:ResourceTag/{name}": value for name, value in tags.items()}
            assert allows(may, "secretsmanager:GetSecretValue", secret_arn("team-a/x"), context) is expected
        assert not allows(
            may, "secretsmanager:GetSecretValue", secret_arn("team-b/x"), {"secretsmanager:ResourceTag/keyturn": "prod"}
        )

    def test_listing_is_allowed_in_list_mode_alone(self) -> None:
        for mode, expected in (("list", True), ("describe", False)):
            assert allows(self.role(mode=mode)["may"], "secretsmanager:ListSecrets", "*") is expected

    def test_secrets_of_other_accounts_are_allowed_if_named(self) -> None:
        may = self.role(**self.SWITCHES)["may"]
        assert allows(may, "secretsmanager:GetSecretValue", secret_arn("shared/ca", "999988887777"))
        assert not allows(may, "secretsmanager:GetSecretValue", secret_arn("shared/db", "999988887777"))

    def test_signing_key_is_allowed_if_named(self) -> None:
        assert allows(self.role(SigningKeySecretArn=SIGNING_KEY)["may"], "secretsmanager:GetSecretValue", SIGNING_KEY)
        assert not allows(self.role()["may"], "secretsmanager:GetSecretValue", SIGNING_KEY)

    def test_keys_decrypt_only_through_secrets_manager(self) -> None:
        may = self.role(KmsKeyArns=KEY)["may"]
        assert allows(may, "kms:Decrypt", KEY, {"kms:ViaService": THROUGH})
        assert not allows(may, "kms:Decrypt", KEY, {"kms:ViaService": "s3.us-east-1.amazonaws.com"})
        assert not allows(may, "kms:Decrypt", KEY)
        assert not allows(may, "kms:Decrypt", KEY[:-1] + "1", {"kms:ViaService": THROUGH})

    def test_irsa_trust_admits_exactly_the_service_account(self) -> None:
        trust = self.role("irsa")["trust"]
        assert trust[0]["Principal"] == {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{PROVIDER}"}
        for subject, audience, expected in (
            ("keyturn:keyturn", "sts.amazonaws.com", True),
            ("keyturn:default", "sts.amazonaws.com", False),
            ("team-a:keyturn", "sts.amazonaws.com", False),
            ("keyturn:keyturn", "kubernetes", False),
        ):
            context = {f"{PROVIDER}:sub": f"system:serviceaccount:{subject}", f"{PROVIDER}:aud": audience}
            assert allows(trust, "sts:AssumeRoleWithWebIdentity", "*", context) is expected
        assert not allows(trust, "sts:AssumeRole", "*", context)

    def test_pod_identity_trust_admits_exactly_the_service_account(self) -> None:
        trust = self.role("pod-identity")["trust"]
        assert trust[0]["Principal"] == {"Service": "pods.eks.amazonaws.com"}
        right = {
            "aws:SourceAccount": ACCOUNT,
            "aws:RequestTag/eks-cluster-name": "blue",
            "aws:RequestTag/kubernetes-namespace": "keyturn",
            "aws:RequestTag/kubernetes-service-account": "keyturn",
        }
        for action in ("sts:AssumeRole", "sts:TagSession"):
            assert allows(trust, action, "*", right)
            for key in right:
                assert not allows(trust, action, "*", {**right, key: right[key] + "x"}), key

    def test_pod_identity_association_is_made_in_the_cluster(self) -> None:
        association = read(INFRA / "receiver-role.yaml")["Resources"]["Association"]
        assert association["Properties"]["RoleArn"] == {"Fn::GetAtt": ["Role", "Arn"]}
        assert association["Condition"] == "ByPodIdentity"


class TestSecretsKey:
    @pytest.fixture
    def policy(self, cloud: None) -> list[dict[str, Any]]:
        return self.deployed()

    def deployed(self, **values: str) -> list[dict[str, Any]]:
        readers, writers = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in "rw")
        made = deploy("secrets-key.yaml", Team="team-a", ReaderArns=readers, WriterArns=writers, **values)
        client = boto3.client("kms")
        assert client.get_key_rotation_status(KeyId=made["Key"])["KeyRotationEnabled"] is True
        return list(document(client.get_key_policy(KeyId=made["Key"], PolicyName="default")["Policy"])["Statement"])

    def of(self, policy: list[dict[str, Any]], who: str) -> list[dict[str, Any]]:
        return [each for each in policy if who in json.dumps(each["Principal"])]

    @pytest.mark.parametrize("who", ["role/r", "role/w"])
    def test_key_decrypts_through_secrets_manager_for_the_team_alone(
        self, policy: list[dict[str, Any]], who: str
    ) -> None:
        may = self.of(policy, who)
        mine = {"kms:ViaService": THROUGH, "kms:EncryptionContext:SecretARN": secret_arn("team-a/db")}
        assert allows(may, "kms:Decrypt", "*", mine)
        assert not allows(may, "kms:Decrypt", "*", {**mine, "kms:EncryptionContext:SecretARN": secret_arn("team-b/db")})
        assert not allows(may, "kms:Decrypt", "*", {**mine, "kms:ViaService": "s3.us-east-1.amazonaws.com"})
        assert not allows(may, "kms:Decrypt", "*", {"kms:ViaService": THROUGH})

    @pytest.mark.parametrize("prefix", ["", "rds!cluster-"])
    def test_it_decrypts_managed_secrets_only_if_their_prefix_is_given(self, prefix: str) -> None:
        may = self.of(self.deployed(ManagedSecretPrefix=prefix), "role/r")
        for name, expected in (("rds!cluster-0a1b", bool(prefix)), ("rds!db-0a1b", False), ("team-a/db", True)):
            context = {"kms:ViaService": THROUGH, "kms:EncryptionContext:SecretARN": secret_arn(name)}
            assert allows(may, "kms:Decrypt", "*", context) is expected, name

    def test_readers_of_the_key_cannot_encrypt(self, policy: list[dict[str, Any]]) -> None:
        mine = {"kms:ViaService": THROUGH, "kms:EncryptionContext:SecretARN": secret_arn("team-a/db")}
        assert allows(self.of(policy, "role/w"), "kms:GenerateDataKey", "*", mine)
        assert not allows(self.of(policy, "role/r"), "kms:GenerateDataKey", "*", mine)

    def test_account_administers_the_key_and_cannot_use_it(self, policy: list[dict[str, Any]]) -> None:
        root = self.of(policy, f"{ACCOUNT}:root")
        assert allows(root, "kms:PutKeyPolicy", "*")
        for action in ("kms:Decrypt", "kms:GenerateDataKey", "kms:Encrypt", "kms:ReEncryptFrom"):
            assert not allows(root, action, "*"), action


class TestDeployerPolicy:
    # The calls that CloudFormation makes, with the deployer's rights, to create and delete each type of resource in
    # template.yaml.
    NEEDED: Mapping[str, tuple[str, set[str]]] = {
        "AWS::CloudWatch::Alarm": ("cloudwatch:{here}:alarm:{stack}-X-1A", {"PutMetricAlarm", "DeleteAlarms"}),
        "AWS::CloudWatch::Dashboard": (
            "cloudwatch::{account}:dashboard/{stack}-us-east-1",
            {"PutDashboard", "DeleteDashboards"},
        ),
        "AWS::Events::EventBus": ("events:{here}:event-bus/{stack}-receipts", {"CreateEventBus", "DeleteEventBus"}),
        "AWS::Events::EventBusPolicy": (
            "events:{here}:event-bus/{stack}-receipts",
            {"PutPermission", "RemovePermission"},
        ),
        "AWS::Events::Rule": ("events:{here}:rule/keyturn/{stack}-X-1A", {"PutRule", "PutTargets", "DeleteRule"}),
        "AWS::IAM::Policy": ("iam::{account}:role/{stack}-X-1A", {"PutRolePolicy", "DeleteRolePolicy"}),
        "AWS::IAM::Role": ("iam::{account}:role/{stack}-X-1A", {"CreateRole", "PutRolePolicy", "DeleteRole"}),
        "AWS::KMS::Key": ("kms:{here}:key/0a0b", {"CreateKey", "PutKeyPolicy", "ScheduleKeyDeletion"}),
        "AWS::Lambda::Permission": ("lambda:{here}:function:{stack}-X-1A", {"AddPermission", "RemovePermission"}),
        "AWS::Logs::LogGroup": (
            "logs:{here}:log-group:/aws/lambda/{stack}-notifier",
            {"CreateLogGroup", "PutRetentionPolicy", "AssociateKmsKey", "DeleteLogGroup"},
        ),
        "AWS::SQS::Queue": ("sqs:{here}:{stack}-events", {"CreateQueue", "SetQueueAttributes", "DeleteQueue"}),
        "AWS::SQS::QueuePolicy": ("sqs:{here}:{stack}-events", {"SetQueueAttributes"}),
        "AWS::Scheduler::Schedule": (
            "scheduler:{here}:schedule/default/{stack}-X-1A",
            {"CreateSchedule", "DeleteSchedule"},
        ),
        "AWS::SecretsManager::ResourcePolicy": (
            "secretsmanager:{here}:secret:SigningKey-1A-a1b2c3",
            {"PutResourcePolicy", "DeleteResourcePolicy"},
        ),
        "AWS::SecretsManager::RotationSchedule": (
            "secretsmanager:{here}:secret:SigningKey-1A-a1b2c3",
            {"RotateSecret", "CancelRotateSecret"},
        ),
        "AWS::SecretsManager::Secret": (
            "secretsmanager:{here}:secret:SigningKey-1A-a1b2c3",
            {"CreateSecret", "GetRandomPassword", "DeleteSecret"},
        ),
        "AWS::Serverless::Function": (
            "lambda:{here}:function:{stack}-X-1A",
            # Rotation needs InvokeFunction:
            # https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html
            {"CreateFunction", "UpdateFunctionCode", "InvokeFunction", "DeleteFunction", "CreateEventSourceMapping"},
        ),
    }

    def policy(self, stack: str = "keyturn", **values: str) -> list[dict[str, Any]]:
        conditions = {"WithCustomerKey": "KmsKeyArn" in values, "WithBoundary": "PermissionsBoundaryArn" in values}
        arn = deploy("deployer-policy.yaml", conditions, StackName=stack, **values)["Policy"]
        version = boto3.client("iam").get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]
        return list(document(version["Document"])["Statement"])

    def test_every_resource_of_the_stack_can_be_made_and_deleted(self) -> None:
        assert {each["Type"] for each in read()["Resources"].values()} == self.NEEDED.keys()
        may = self.policy()
        for kind, (resource, names) in self.NEEDED.items():
            arn = "arn:aws:" + resource.format(here=f"{REGION}:{ACCOUNT}", account=ACCOUNT, stack="keyturn")
            for name in names:
                context = {"kms:KeySpec": "ECC_NIST_EDWARDS25519"}
                assert allows(may, f"{arn.split(':')[2]}:{name}", arn, context), (kind, name)

    def test_nothing_of_another_stack_can_be_changed(self) -> None:
        may = self.policy()
        for kind, (resource, names) in self.NEEDED.items():
            if "{stack}" in resource:
                arn = "arn:aws:" + resource.format(here=f"{REGION}:{ACCOUNT}", account=ACCOUNT, stack="other")
                for name in names - {"CreateEventSourceMapping"}:  # this action cannot be limited to a resource
                    assert not allows(may, f"{arn.split(':')[2]}:{name}", arn), (kind, name)
        assert not allows(may, "secretsmanager:DeleteSecret", secret_arn("prod/db"))
        assert not allows(may, "kms:PutKeyPolicy", KEY, {"kms:KeySpec": "SYMMETRIC_DEFAULT"})
        assert not allows(may, "secretsmanager:GetSecretValue", secret_arn("SigningKey-1A"))

    def test_roles_are_passed_to_the_services_of_the_template_alone(self) -> None:
        may = self.policy()
        role = f"arn:aws:iam::{ACCOUNT}:role/keyturn-X-1A"
        trusted = {
            statement["Principal"]["Service"]
            for each in read()["Resources"].values()
            if each["Type"] == "AWS::IAM::Role"
            for statement in each["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        }
        assert len(trusted) == 2
        for service in (*trusted, "ec2.amazonaws.com"):
            assert allows(may, "iam:PassRole", role, {"iam:PassedToService": service}) is (service in trusted)

    def test_with_a_boundary_no_role_is_made_without_it(self) -> None:
        boundary = f"arn:aws:iam::{ACCOUNT}:policy/boundary"
        may = self.policy(PermissionsBoundaryArn=boundary)
        role = f"arn:aws:iam::{ACCOUNT}:role/keyturn-X-1A"
        for action in ("iam:CreateRole", "iam:PutRolePolicy"):
            assert allows(may, action, role, {"iam:PermissionsBoundary": boundary})
            assert not allows(may, action, role)

    def test_customers_key_is_used_if_it_is_given(self) -> None:
        assert allows(self.policy(KmsKeyArn=KEY), "kms:GenerateDataKey", KEY)
        assert not allows(self.policy(), "kms:GenerateDataKey", KEY)

    @pytest.mark.parametrize("file", ["deployer-policy.yaml", "stack-key.yaml"])
    def test_stack_name_that_is_too_long_for_the_queues_is_refused_before_the_stack_is_deployed(
        self, file: str
    ) -> None:
        queues = [each["Properties"] for each in read()["Resources"].values() if each["Type"] == "AWS::SQS::Queue"]
        suffix = max(len(each["QueueName"]["Fn::Sub"].removeprefix("${AWS::StackName}")) for each in queues)
        longest = 80 - suffix  # SQS accepts names of at most 80 characters
        parameter = read(INFRA / file)["Parameters"]["StackName"]
        assert re.fullmatch(parameter["AllowedPattern"], "x" * longest)
        assert not re.fullmatch(parameter["AllowedPattern"], "x" * (longest + 1))
        assert f"at most {longest} characters" in parameter["ConstraintDescription"]

    def test_it_is_no_longer_than_iam_allows(self) -> None:
        statements = self.policy("x" * 67, KmsKeyArn=KEY, PermissionsBoundaryArn=f"arn:aws:iam::{ACCOUNT}:policy/b")
        # IAM's limit does not count white space:
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
        assert len(json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))) <= 6144


class TestStackKey:
    def policy(self, **values: str) -> list[dict[str, Any]]:
        made = deploy("stack-key.yaml", **values)
        client = boto3.client("kms")
        assert client.get_key_rotation_status(KeyId=made["Key"])["KeyRotationEnabled"] is True
        return list(document(client.get_key_policy(KeyId=made["Key"], PolicyName="default")["Policy"])["Statement"])

    def test_the_accounts_policies_decide_on_it(self) -> None:
        root = [each for each in self.policy() if f"{ACCOUNT}:root" in json.dumps(each["Principal"])]
        for action in ("kms:Decrypt", "kms:GenerateDataKey", "kms:PutKeyPolicy"):
            assert allows(root, action, "*")

    def test_events_may_use_it_for_the_queues_of_the_stack_alone(self) -> None:
        may = [each for each in self.policy() if each["Principal"] == {"Service": "events.amazonaws.com"}]
        queues = [each for each in read()["Resources"].values() if each["Type"] == "AWS::SQS::Queue"]
        names = [each["Properties"]["QueueName"]["Fn::Sub"].replace("${AWS::StackName}", "keyturn") for each in queues]
        assert len(names) == 3
        for name, expected in (*((name, True) for name in names), ("other-events", False)):
            context = {"kms:EncryptionContext:aws:sqs:arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"}
            for action in ("kms:Decrypt", "kms:GenerateDataKey"):
                assert allows(may, action, "*", context) is expected, name
        assert not allows(may, "kms:Decrypt", "*")

    def test_logs_may_use_it_for_the_groups_of_the_stack_alone(self) -> None:
        service = {"Service": f"logs.{REGION}.amazonaws.com"}
        may = [each for each in self.policy() if each["Principal"] == service]
        groups = [each for each in read()["Resources"].values() if each["Type"] == "AWS::Logs::LogGroup"]
        names = [
            each["Properties"]["LogGroupName"]["Fn::Sub"].replace("${AWS::StackName}", "keyturn") for each in groups
        ]
        assert len(names) == 2
        for name, expected in (*((name, True) for name in names), ("/aws/lambda/other-notifier", False)):
            context = {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}"}
            for action in ("kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"):
                assert allows(may, action, "*", context) is expected, name

    @pytest.mark.parametrize("arns", ["", "arn:aws:iam::999988887777:role/r,arn:aws:iam::999988887777:role/s"])
    def test_receivers_of_other_accounts_decrypt_through_secrets_manager_if_they_are_named(self, arns: str) -> None:
        may = [each for each in self.policy(ForeignReceiverRoleArns=arns) if "role/r" in json.dumps(each["Principal"])]
        assert allows(may, "kms:Decrypt", "*", {"kms:ViaService": THROUGH}) is bool(arns)
        assert not allows(may, "kms:Decrypt", "*")
        assert not allows(may, "kms:GenerateDataKey", "*", {"kms:ViaService": THROUGH})


class TestEvents:
    def test_bus_accepts_secrets_manager_events_of_named_accounts_alone(self) -> None:
        resources = read(INFRA / "event-bus.yaml")["Resources"]
        organization = resources["OrganizationPolicy"]["Properties"]["Statement"]
        assert organization["Condition"].pop("StringEquals") == {"aws:PrincipalOrgID": {"Ref": "OrganizationId"}}
        accounts = resources["AccountsPolicy"]["Properties"]["Statement"]
        assert accounts["Principal"] == {"AWS": {"Ref": "AccountIds"}}
        for statement in (organization, accounts):
            assert statement["Action"] == "events:PutEvents"
            assert statement["Resource"] == {"Fn::GetAtt": ["Bus", "Arn"]}
            may = [{**statement, "Resource": "*"}]
            for sources, kind, by_rule, expected in (
                (["aws.secretsmanager"], NATIVE, "true", True),
                (["aws.secretsmanager"], "AWS API Call via CloudTrail", "true", True),
                (["aws.secretsmanager"], "AWS Service Event via CloudTrail", "true", True),
                (["dev.keyturn"], "Keyturn Member Heartbeat", "true", True),
                (["dev.keyturn"], HEARTBEAT, "true", False),  # the stack's own heartbeat
                (["aws.secretsmanager"], NATIVE, "false", False),
                (["aws.s3"], NATIVE, "true", False),
                (["aws.secretsmanager", "aws.s3"], NATIVE, "true", False),
            ):
                context = {"events:source": sources, "events:detail-type": [kind], "events:eventBusInvocation": by_rule}
                assert allows(may, "events:PutEvents", "*", context) is expected, (sources, kind, by_rule)
            assert not allows(may, "events:PutEvents", "*", {"events:eventBusInvocation": "true"})

    @pytest.mark.parametrize("given", [{"OrganizationId": "o-a1b2c3d4e5"}, {"AccountIds": "111122223333"}, {}])
    def test_bus_is_created(self, given: dict[str, str]) -> None:
        deploy("event-bus.yaml", **given)
        assert "keyturn" in {bus["Name"] for bus in boto3.client("events").list_event_buses()["EventBuses"]}

    @pytest.mark.parametrize("lifecycle", ["false", "true"])
    def test_member_accounts_forward_the_events_of_the_stack(self, lifecycle: str) -> None:
        bus = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/keyturn"
        boto3.client("events").create_event_bus(Name="keyturn")
        made = deploy("event-forwarding.yaml", BusArn=bus, LifecycleEvents=lifecycle)
        assert ("LifecycleRule" in made) is (lifecycle == "true")
        forward = boto3.client("iam").get_role_policy(RoleName=made["Role"], PolicyName="forward")["PolicyDocument"]
        assert document(forward)["Statement"] == [{"Effect": "Allow", "Action": "events:PutEvents", "Resource": bus}]
        stack, member = read()["Resources"], read(INFRA / "event-forwarding.yaml")["Resources"]
        wanted, sent = (each["LifecycleRule"]["Properties"]["EventPattern"] for each in (stack, member))
        assert wanted == sent
        label = member["LabelUpdatedRule"]["Properties"]["EventPattern"]
        assert label["detail-type"] == [NATIVE, "Keyturn Member Heartbeat"]
        assert NATIVE in stack["LabelUpdatedRule"]["Properties"]["EventPattern"]["detail-type"]

    def test_heartbeat_of_a_member_takes_the_way_of_its_events_and_is_not_taken_for_the_stacks(self) -> None:
        member, stack = read(INFRA / "event-forwarding.yaml")["Resources"], read()["Resources"]
        target = member["Heartbeat"]["Properties"]["Target"]
        rule = member["LabelUpdatedRule"]["Properties"]["EventPattern"]
        sent = target["EventBridgeParameters"]
        assert target["Arn"]["Fn::Sub"].endswith(":event-bus/default")
        assert sent["Source"] in rule["source"]
        assert sent["DetailType"] in rule["detail-type"]
        assert json.loads(target["Input"]["Fn::Sub"]).keys() == {"account", "region"}
        assert sent["DetailType"] not in stack["LabelUpdatedRule"]["Properties"]["EventPattern"]["detail-type"]
        alarm = member["HeartbeatsMissingAlarm"]["Properties"]
        assert alarm["Dimensions"] == [{"Name": "RuleName", "Value": {"Ref": "LabelUpdatedRule"}}]
        assert (alarm["MetricName"], alarm["TreatMissingData"]) == ("Invocations", "breaching")

    def test_schedule_of_a_member_may_only_send_heartbeats(self) -> None:
        boto3.client("events").create_event_bus(Name="keyturn")
        made = deploy("event-forwarding.yaml", BusArn=f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/keyturn")
        policy = boto3.client("iam").get_role_policy(RoleName=made["HeartbeatRole"], PolicyName="heartbeat")
        may = document(policy["PolicyDocument"])["Statement"]
        bus = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/default"
        assert allows(may, "events:PutEvents", bus, {"events:source": ["dev.keyturn"]})
        assert not allows(may, "events:PutEvents", bus, {"events:source": ["aws.secretsmanager"]})
        assert not allows(
            may, "events:PutEvents", bus.replace("default", "keyturn"), {"events:source": ["dev.keyturn"]}
        )

    def test_undelivered_event_reaches_a_queue_with_an_alarm(self) -> None:
        resources = read(INFRA / "event-forwarding.yaml")["Resources"]
        for name in ("LabelUpdatedRule", "LifecycleRule"):
            (target,) = resources[name]["Properties"]["Targets"]
            assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["Undelivered", "Arn"]}}
        alarm = resources["UndeliveredAlarm"]["Properties"]
        assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": {"Fn::GetAtt": ["Undelivered", "QueueName"]}}]
        conditions = {"WithLifecycleEvents": True, "WithTopic": True}
        sender, tls = resolved(resources["UndeliveredPolicy"], conditions)["Properties"]["PolicyDocument"]["Statement"]
        assert sender["Condition"]["ArnEquals"]["aws:SourceArn"] == [
            {"Fn::GetAtt": ["LabelUpdatedRule", "Arn"]},
            {"Fn::GetAtt": ["LifecycleRule", "Arn"]},
        ]
        assert (tls["Effect"], tls["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


class TestReceipts:
    TEMPLATE = read(INFRA / "receipts.yaml")
    RESOURCES: Mapping[str, Any] = TEMPLATE["Resources"]
    DETAIL: Mapping[str, str] = {
        "id": "live/blue/arn/v1",
        "name": "shop/db",
        "version": "v1",
        "host": "blue",
        "since": "2026-11-28T08:31:05Z",
    }

    def targets(self, webhook: str = "slack") -> dict[str, list[dict[str, Any]]]:
        """Return the targets of each rule if every condition is true, and the parameter Webhook is ``webhook``."""
        conditions = dict.fromkeys(self.TEMPLATE["Conditions"], True)
        text = json.dumps(resolved(self.RESOURCES, conditions)).replace('{"Ref": "Webhook"}', f'"{webhook}"')
        rules = {name: each for name, each in json.loads(text).items() if each["Type"] == "AWS::Events::Rule"}
        return {name: each["Properties"]["Targets"] for name, each in rules.items()}

    def filled(self, transformer: Mapping[str, Any], webhook: str) -> Any:
        """Return the result of an input transformer for DETAIL. In it, JSON replaces a placeholder ``<name>`` outside
        of quotes, and the plain text replaces one inside quotes."""
        template = transformer["InputTemplate"]
        if isinstance(template, dict):
            separator, parts = template["Fn::Join"]
            bodies = self.TEMPLATE["Mappings"]["Body"][webhook]
            template = separator.join(
                bodies[part["Fn::FindInMap"][2]] if isinstance(part, dict) else part for part in parts
            )
        for name in transformer["InputPathsMap"]:
            template = template.replace(f'": <{name}>', f'": {json.dumps(self.DETAIL[name])}')
            template = template.replace(f"<{name}>", self.DETAIL[name])
        return json.loads(template)

    @pytest.mark.parametrize("webhook", ["slack", "teams", "pagerduty"])
    def test_every_message_to_people_is_valid_and_names_the_secret(self, webhook: str) -> None:
        told = {name: targets for name, targets in self.targets(webhook).items() if name != "LogRule"}
        assert told.keys() == {"LiveRule", "StuckRule", "WaitingRule", "RefusedRule"}
        for topic, hook in told.values():
            text = self.filled(topic["InputTransformer"], webhook)
            body = self.filled(hook["InputTransformer"], webhook)
            assert isinstance(text, str)
            assert "shop/db" in text
            assert "<" not in json.dumps(body)
            if webhook == "slack":
                assert body == {"text": text}
            elif webhook == "pagerduty":
                assert (body["dedup_key"], body["payload"]["summary"]) == (self.DETAIL["id"], text)
            else:
                (attachment,) = body["attachments"]
                assert attachment["content"]["body"][0]["text"] == text

    def test_paths_of_the_messages_are_fields_of_receipts(self) -> None:
        page = (ROOT / "docs" / "receipts.md").read_text()
        for targets in self.targets().values():
            for target in targets:
                for path in target.get("InputTransformer", {}).get("InputPathsMap", {}).values():
                    assert f'"{path.removeprefix("$.detail.")}"' in page, path

    def test_every_rule_is_on_the_bus_of_the_receipts(self) -> None:
        for rule in (each for each in self.RESOURCES.values() if each["Type"] == "AWS::Events::Rule"):
            assert rule["Properties"]["EventBusName"] == {"Ref": "BusArn"}
            assert rule["Properties"]["EventPattern"]["source"] == ["dev.keyturn"]

    def test_only_the_rules_of_the_template_may_write_to_the_log_and_the_topic(self) -> None:
        text = self.RESOURCES["LogPolicy"]["Properties"]["PolicyDocument"]["Fn::Sub"]
        (statement,) = json.loads(text)["Statement"]
        assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": "${LogRule.Arn}"}}
        assert statement["Resource"] == "${Logs.Arn}"
        conditions = dict.fromkeys(self.TEMPLATE["Conditions"], True)
        (publish,) = resolved(self.RESOURCES["PeoplePolicy"], conditions)["Properties"]["PolicyDocument"]["Statement"]
        named = {each["Fn::GetAtt"][0] for each in publish["Condition"]["ArnEquals"]["aws:SourceArn"]}
        assert named == {"LiveRule", "StuckRule", "WaitingRule", "RefusedRule"}

    def test_receipts_of_the_bus_reach_the_log_group_where_a_pipeline_reads_them(self) -> None:
        """moto replaces EventBridge and CloudWatch Logs. Events of the default bus do not reach the log group."""
        events, bus = boto3.client("events"), "keyturn-receipts"
        arn = events.create_event_bus(Name=bus)["EventBusArn"]
        conditions = dict.fromkeys(self.TEMPLATE["Conditions"], False)
        deploy("receipts.yaml", conditions, BusArn=arn)
        version, other = str(uuid4()), str(uuid4())

        def put(kind: str, bus: str = bus, **detail: Any) -> None:
            content = json.dumps({"name": "shop/db", **detail})
            entry = {"EventBusName": bus, "Source": "dev.keyturn", "DetailType": kind, "Detail": content}
            assert events.put_events(Entries=[entry])["FailedEntryCount"] == 0

        receivers = [{"host": "blue", "outcome": "applied"}, {"host": "green", "outcome": "ignored"}]
        put("Keyturn Secret Applied", versionId=version, complete=True, healthy=True, receivers=receivers)
        put("Keyturn Secret Live", versionId=other, host="blue")
        put("Keyturn Secret Live", "default", versionId=version, host="blue")
        logs = boto3.client("logs")
        assert wait_for_receipts(logs, "shop/db", version, "applied", 5).hosts == {"blue"}
        with pytest.raises(TimedOut, match="not live in blue"):
            wait_for_receipts(logs, "shop/db", version, "live", 0)
        put("Keyturn Secret Live", versionId=version, host="blue")
        assert wait_for_receipts(logs, "shop/db", version, "live", 5).live == {"blue"}
        command = ["wait", "shop/db", "--aws", "--version", version, "--for", "live"]
        told = CliRunner().invoke(app, command)
        assert (told.exit_code, told.stdout) == (0, f"version {version[:8]} is live in blue\n")
        assert CliRunner().invoke(app, [*command, "--namespace", "shop"]).exit_code == 2
        missing = CliRunner().invoke(app, [*command, "--log-group", "/nowhere"])
        assert missing.exit_code == 1
        assert "deploy infra/aws/receipts.yaml there" in missing.stderr

    @pytest.mark.parametrize(
        ("values", "broken"),
        [
            ({}, []),
            ({"Email": "a@b.example"}, ["Topic must be true if Email is set"]),
            ({"Webhook": "slack"}, ["WebhookUrl must be set if Webhook is slack or teams"]),
            ({"Webhook": "slack", "WebhookUrl": "https://hooks.example/x"}, []),
            ({"Webhook": "pagerduty"}, ["RoutingKey must be set if Webhook is pagerduty"]),
            (
                {"Webhook": "pagerduty", "RoutingKey": "R0123456789", "Tell": "all"},
                ["Tell must be problems if Webhook is pagerduty, because each message is an alert"],
            ),
        ],
    )
    def test_parameters_that_belong_together_are_refused_alone(self, values: dict[str, str], broken: list[str]) -> None:
        assert broken_rules(self.TEMPLATE, values) == broken


class TestRetire:
    FOLDER = INFRA / "retire"
    TEMPLATE = read(FOLDER / "template.yaml")

    def test_cfn_lint_finds_nothing(self) -> None:
        lint = Path(sys.executable).with_name("cfn-lint")
        done = subprocess.run([lint, "--", self.FOLDER / "template.yaml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_role_allows_exactly_what_the_function_calls(self) -> None:
        logs = {"logs:CreateLogStream", "logs:PutLogEvents"}
        for key in (False, True):
            role = resolved(self.TEMPLATE["Resources"]["Role"], {"WithKey": key})["Properties"]
            statements = role["Policies"][0]["PolicyDocument"]["Statement"]
            expected = called([self.FOLDER / "retire.py"]) | logs | ({"kms:Decrypt"} if key else set())
            assert set(actions(statements)) == expected
            assert all(each["Resource"] != "*" for each in statements)

    def test_only_the_rule_on_the_receipts_bus_starts_the_function(self) -> None:
        rule, permission = (self.TEMPLATE["Resources"][name]["Properties"] for name in ("Rule", "Permission"))
        assert rule["EventBusName"] == {"Ref": "BusArn"}
        assert permission["SourceArn"] == {"Fn::GetAtt": ["Rule", "Arn"]}
        assert permission["Principal"] == "events.amazonaws.com"
