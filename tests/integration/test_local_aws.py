"""moto with its gaps closed: the move of a label changes the current value and the date, and a rotation starts with an
empty version."""

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from keyturn_local.aws.rotation import promote, rotate, start_rotation
from keyturn_local.aws.server import LocalAws

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


@pytest.fixture
def client(aws: LocalAws) -> "SecretsManagerClient":
    return aws.secrets_manager()


@pytest.fixture
def name(client: "SecretsManagerClient") -> str:
    """A secret with the value "one"."""
    made = f"prod/{uuid4()}"
    client.create_secret(Name=made, SecretString="one")
    return made


def test_rotation_leaves_the_new_value_current_and_none_pending(client: "SecretsManagerClient", name: str) -> None:
    version_id = rotate(client, name, "two")
    assert client.get_secret_value(SecretId=name)["SecretString"] == "two"
    stages = client.describe_secret(SecretId=name)["VersionIdsToStages"]
    assert stages[version_id] == ["AWSCURRENT"]


def test_move_of_a_label_changes_the_date_and_the_value(client: "SecretsManagerClient", name: str) -> None:
    (first,) = client.describe_secret(SecretId=name)["VersionIdsToStages"]
    rotate(client, name, "two")
    before = client.describe_secret(SecretId=name)["LastChangedDate"]
    time.sleep(1.1)  # the date has whole seconds
    promote(client, name, first)
    assert client.describe_secret(SecretId=name)["LastChangedDate"] > before
    assert client.get_secret_value(SecretId=name)["SecretString"] == "one"


def test_rotation_by_function_starts_with_an_empty_version_and_is_alone(
    client: "SecretsManagerClient", name: str
) -> None:
    version_id = start_rotation(client, name)
    assert client.describe_secret(SecretId=name)["VersionIdsToStages"][version_id] == ["AWSPENDING"]
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_secret_value(SecretId=name, VersionId=version_id)
    with pytest.raises(client.exceptions.InvalidRequestException, match="isn't complete"):
        start_rotation(client, name)
