"""Versions and values of AWS secrets: reads of AWS Secrets Manager, with the credentials and the rights of the caller,
and reads of a file with a new value."""

from pathlib import Path
from typing import TYPE_CHECKING

from keyturn_cli.aws import configured_region
from keyturn_cli.errors import CliError, UsageError
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import CURRENT
from keyturn_receiver.core.render import SecretVersion

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

MAX_FILE = 64 * 1024  # bytes, https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html


def read_file(file: Path, secret_id: str) -> SecretVersion:
    """Return the content of a file as a version of an AWS secret. Raises UsageError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror})", "name a file with the new value") from None
    if len(content) > MAX_FILE:
        raise UsageError(f"{file} has {len(content)} bytes", f"a value in AWS has at most {MAX_FILE} bytes")
    try:
        value: str | bytes = content.decode()
    except UnicodeDecodeError:
        value = content
    return SecretVersion(secret_id, secret_id, "the-new-version", value)


def read_version(secret_id: str, stage: str, in_region: str = "") -> SecretVersion:
    """Return the version that has a staging label, with its value. ``in_region`` is the secret's region if
    ``secret_id`` is not an ARN. Raises CliError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        got = _client(secret_id, in_region).get_secret_value(SecretId=secret_id, VersionStage=stage)
    except ClientError as error:
        raise _refusal(f"the value of {secret_id} with the label {stage}", error.response["Error"]["Code"]) from None
    except BotoCoreError as error:
        raise _refusal(f"the value of {secret_id}", type(error).__name__) from None
    value = got["SecretString"] if "SecretString" in got else got["SecretBinary"]
    return SecretVersion(got["ARN"], got["Name"], got["VersionId"], value)


def version_at(secret_id: str, in_region: str = "", stage: str = CURRENT, instead: str = "--version ID") -> str:
    """Return the id of the version that has a staging label. The version's value is not read. ``in_region`` is the
    secret's region if ``secret_id`` is not an ARN. ``instead`` is an option that the error suggests. Raises
    CliError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        described = _client(secret_id, in_region).describe_secret(SecretId=secret_id)
    except ClientError as error:
        raise _refusal(f"the version of {secret_id}", error.response["Error"]["Code"], instead) from None
    except BotoCoreError as error:
        raise _refusal(f"the version of {secret_id}", type(error).__name__, instead) from None
    for version, stages in described.get("VersionIdsToStages", {}).items():
        if stage in stages:
            return version
    raise CliError(f"no version of {secret_id} has the label {stage}", "set its value in AWS")


def _client(secret_id: str, in_region: str) -> "SecretsManagerClient":
    import boto3  # the import takes a quarter of a second, and most commands do not need it
    from botocore.config import Config

    settings = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 3})
    name = region(secret_id) or in_region or configured_region()
    # boto3.client would use one session for all calls, with the profile of the first call.
    session = boto3.Session(region_name=name or None)
    client: SecretsManagerClient = session.client("secretsmanager", config=settings)
    return client


def _refusal(what: str, code: str, instead: str = "") -> CliError:
    advice = "log in to AWS (AWS_PROFILE, AWS_REGION), and ask for the right to read it"
    return CliError(f"{what} cannot be read from AWS ({code})", f"{advice}; or give {instead}" if instead else advice)
