"""Least privilege: a user who has only the deployer's policy deploys the stack, and a receiver uses only the receiver's
role.

The emulator enforces the policies of both.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from keyturn_local.aws import sdk
from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import stacks
from support.cluster_state import annotations_of
from support.manifests import secret
from support.site import Endpoints, Site
from support.wait import eventually

ISSUER = "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
SERVICE_ACCOUNT = "system:serviceaccount:keyturn:keyturn"


def test_stack_with_a_key_works_with_the_roles_of_the_templates(
    control_plane: ControlPlane, emulator: Emulator, tmp_path: Path
) -> None:
    """deployer-policy.yaml, stack-key.yaml, secrets-key.yaml and receiver-role.yaml, used together."""
    name = f"keyturn-{uuid4().hex[:6]}"
    endpoints = Endpoints(tmp_path)
    with (
        stacks.deployed(emulator, stacks.infra("stack-key"), StackName=name) as key,
        stacks.deployed(
            emulator, stacks.infra("deployer-policy"), StackName=name, KmsKeyArn=key.outputs["KeyArn"]
        ) as policy,
    ):
        deployer = deployer_of(emulator, policy.outputs["PolicyArn"])
        given = {**endpoints.parameters(), "KmsKeyArn": key.outputs["KeyArn"]}
        deployment = sam.deploy(emulator, name, given, credentials=deployer)
        with Site.of(control_plane, deployment, endpoints, tmp_path) as site:
            role = stacks.deployed(
                emulator,
                stacks.infra("receiver-role"),
                Identity="irsa",
                ClusterName="blue",
                OidcProviderArn=f"arn:aws:iam::{sdk.ACCOUNT}:oidc-provider/{ISSUER}",
                SecretNamePrefixes=f"{site.team}/",
                SigningKeySecretArn=deployment.outputs["SigningKeySecretId"],
            )
            with role as receiver_role:
                arn = receiver_role.outputs["RoleArn"]
                with pytest.raises(ClientError, match="AccessDenied"):
                    assume(emulator, arn, "system:serviceaccount:other:keyturn")
                site.start_receivers(**assume(emulator, arn, SERVICE_ACCOUNT))
                rotation_and_refusal(site)
        uses_key(emulator, deployment, key.outputs["KeyArn"])
        deployment.delete()


def rotation_and_refusal(site: Site) -> None:
    """Check that a rotation of a secret with the role's prefix is applied, and that a status says that AWS denies
    another secret."""
    site.bind("db")
    site.put("db", "second")
    site.wait_applied("db", "second")
    other = f"other-{site.team}/db"
    site.secrets_manager.create_secret(Name=other, SecretString="theirs")
    allowed = f"keyturn.dev/allow-secrets={site.team}/*,other-{site.team}/*"
    site.cluster.kubectl("annotate", "--overwrite", "namespace", site.team, allowed)
    site.cluster.create([secret(site.team, "theirs", other)])

    def status() -> str:
        return annotations_of(site.cluster, "secret", site.team, "theirs").get("keyturn.dev/status", "")

    eventually(lambda: "AccessDenied" in status(), 60)
    assert site.data("theirs") == {}


def uses_key(emulator: Emulator, deployment: sam.Deployment, key: str) -> None:
    """Check that the key encrypts the queues, the signing key and the logs."""
    sqs = emulator.client("sqs")
    for output in ("QueueUrl", "DeadLetterQueueUrl", "UndeliveredEventsUrl"):
        attributes = sqs.get_queue_attributes(QueueUrl=deployment.outputs[output], AttributeNames=["All"])["Attributes"]
        assert attributes["KmsMasterKeyId"] == key
    described = emulator.client("secretsmanager").describe_secret(SecretId=deployment.outputs["SigningKeySecretId"])
    assert described["KmsKeyId"] == key
    groups = emulator.client("logs").describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{deployment.name}-")
    assert {each["kmsKeyId"] for each in groups["logGroups"]} == {key}


def deployer_of(emulator: Emulator, policy: str) -> Mapping[str, str]:
    """Make a user with only that policy. Return the environment variables with the user's credentials."""
    iam = emulator.client("iam")
    name = f"deployer-{uuid4().hex[:6]}"
    iam.create_user(UserName=name)
    iam.attach_user_policy(UserName=name, PolicyArn=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def assume(emulator: Emulator, role: str, subject: str) -> dict[str, str]:
    """Assume a role by IRSA; return the variables with its credentials."""
    token = stacks.web_identity(ISSUER, subject)
    credentials = emulator.client("sts").assume_role_with_web_identity(
        RoleArn=role, RoleSessionName="receiver", WebIdentityToken=token
    )["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_SESSION_TOKEN": credentials["SessionToken"],
    }


def test_key_of_a_team_is_created_with_its_policy(emulator: Emulator) -> None:
    reader, writer = (f"arn:aws:iam::{sdk.ACCOUNT}:role/{name}" for name in ("reader", "writer"))
    given = {"Team": "shop", "ReaderArns": reader, "WriterArns": writer}
    with stacks.deployed(emulator, stacks.infra("secrets-key"), **given) as key:
        kms = emulator.client("kms")
        (key_id,) = (each for name, each in key.resources().items() if name == "Key")
        policy = json.loads(kms.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"])
        named = json.dumps(policy)
        assert reader in named
        assert writer in named
        kms.schedule_key_deletion(KeyId=key_id)
