"""Functions that read the demo's output and the values that the demo uses."""

import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import boto3

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

DEMO = [sys.executable, "-m", "keyturn_local.demo"]


def read_until_done(demo: subprocess.Popen[str]) -> str:
    """Return the output of the demo up to its last step. With ``--keep`` the demo's process keeps running after
    that."""
    assert demo.stdout is not None
    printed = ""
    while "put-secret-value" not in printed and (line := demo.stdout.readline()):
        printed += line
    return printed


def contains_value(text: str, values: Sequence[str]) -> bool:
    """Return whether a text contains a part of one of the values that is long enough not to occur by chance."""
    return any(part in text for value in values for part in re.findall(r"[\w-]{12,}", value))


def step_times(printed: str) -> list[dict[str, int]]:
    """Return how many milliseconds each step took, in one dictionary for each rotation."""
    lines = [re.match(r" +(\d+) ms  ([^,(]*)", line) for line in printed.splitlines()]
    return [
        {line[2].strip(): int(line[1]) for line in block if line}
        for is_step, block in groupby(lines, key=bool)
        if is_step
    ]


def all_values(client: "SecretsManagerClient") -> list[str]:
    """Return all values of the demo's AWS secrets: two initial ones, and one from each of four rotations."""
    values = [
        client.get_secret_value(SecretId=name, VersionId=version["VersionId"])["SecretString"]
        for name in ("demo/database", "demo/api-token")
        for version in client.list_secret_version_ids(SecretId=name, IncludeDeprecated=True)["Versions"]
    ]
    assert len(values) == 6
    return values


def client_from_printed_env(printed: str) -> "SecretsManagerClient":
    """Return a client that is configured by the environment variables that the demo prints for the AWS CLI."""
    exported = re.search(r"export (.*)", printed)
    assert exported is not None
    variables = dict(pair.split("=", 1) for pair in exported[1].split())
    return boto3.client(
        "secretsmanager",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )
