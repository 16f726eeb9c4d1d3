"""Rotations as the AWS console and rotation functions make them: first a pending value, then a move of AWSCURRENT."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


def rotate(client: "SecretsManagerClient", secret_id: str, value: str) -> str:
    """Store ``value`` as a pending version, make that version current, and return its id.

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
    """Move AWSCURRENT to a version. A newer version finishes a rotation, and an older one undoes it."""
    stages = client.describe_secret(SecretId=secret_id)["VersionIdsToStages"]
    current = next(version for version, labels in stages.items() if "AWSCURRENT" in labels)
    client.update_secret_version_stage(
        SecretId=secret_id, VersionStage="AWSCURRENT", MoveToVersionId=version_id, RemoveFromVersionId=current
    )


def start_rotation(client: "SecretsManagerClient", secret_id: str) -> str:
    """Start a rotation by function, as Secrets Manager does: an empty version gets AWSPENDING. Return its id."""
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
    """Rotate with a rotation function, in the four steps of Secrets Manager; return the new version's id.

    An exception from the function ends the rotation at that step.
    """
    version_id = start_rotation(client, secret_id)
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        handler({"Step": step, "SecretId": secret_id, "ClientRequestToken": version_id}, context)
    return version_id
