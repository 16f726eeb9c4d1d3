"""Rotations in two steps: store a pending value, and move AWSCURRENT to it. The AWS console and rotation functions
rotate in the same way."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


def rotate(client: "SecretsManagerClient", secret_id: str, value: str) -> str:
    """Store ``value`` as a pending version, make this version current, and return its id.

    https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
    """
    version_id = str(uuid.uuid4())
    client.put_secret_value(
        SecretId=secret_id, ClientRequestToken=version_id, SecretString=value, VersionStages=["AWSPENDING"]
    )
    promote(client, secret_id, version_id)
    client.update_secret_version_stage(SecretId=secret_id, VersionStage="AWSPENDING", RemoveFromVersionId=version_id)
    return version_id


def promote(client: "SecretsManagerClient", secret_id: str, version_id: str) -> None:
    """Move AWSCURRENT to a version. If the version is newer than the current one, this finishes a rotation. If it is
    older, this is a rollback."""
    stages = client.describe_secret(SecretId=secret_id)["VersionIdsToStages"]
    current = next(version for version, labels in stages.items() if "AWSCURRENT" in labels)
    client.update_secret_version_stage(
        SecretId=secret_id, VersionStage="AWSCURRENT", MoveToVersionId=version_id, RemoveFromVersionId=current
    )


def start_rotation(client: "SecretsManagerClient", secret_id: str) -> str:
    """Start a rotation that a rotation function has to finish. Secrets Manager creates an empty version with the
    staging label AWSPENDING. Return the version's id."""
    version_id = str(uuid.uuid4())
    arn = "arn:aws:lambda:us-east-1:123456789012:function:rotation"
    client.rotate_secret(SecretId=secret_id, ClientRequestToken=version_id, RotationLambdaARN=arn)
    return version_id


def rotate_by_function(
    client: "SecretsManagerClient",
    handler: Callable[[dict[str, Any], Any], object],
    secret_id: str,
    context: Any = None,
) -> str:
    """Rotate with a rotation function, in the four steps of Secrets Manager. Return the new version's id.

    If the rotation function raises an exception in a step, this function raises it, too, and does not run the later
    steps.
    """
    version_id = start_rotation(client, secret_id)
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        handler({"Step": step, "SecretId": secret_id, "ClientRequestToken": version_id}, context)
    return version_id
