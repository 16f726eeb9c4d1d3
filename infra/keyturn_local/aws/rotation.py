"""A rotation as the AWS console makes it: the new value is there, and tested, before the label moves to it."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


def rotate(client: "SecretsManagerClient", secret_id: str, value: str) -> str:
    """Put ``value`` as AWSPENDING, promote it, and return its version id.

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
    """Move AWSCURRENT to a version: forward to finish a rotation, or back to undo one."""
    stages = client.describe_secret(SecretId=secret_id)["VersionIdsToStages"]
    current = next(version for version, labels in stages.items() if "AWSCURRENT" in labels)
    client.update_secret_version_stage(
        SecretId=secret_id, VersionStage="AWSCURRENT", MoveToVersionId=version_id, RemoveFromVersionId=current
    )


def rotate_by_function(handler: Callable[[dict[str, Any], Any], object], secret_id: str, context: Any = None) -> str:
    """Rotate as Secrets Manager does with a rotation function: four steps. Returns the new version's id.

    Raises what the function raises; the rotation stops there.
    """
    version_id = str(uuid.uuid4())
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        handler({"Step": step, "SecretId": secret_id, "ClientRequestToken": version_id}, context)
    return version_id
