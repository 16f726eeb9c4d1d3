"""A rotation that the command line starts and follows, with a fake of Secrets Manager."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from keyturn_cli.aws import Aws, AwsError
from keyturn_cli.aws_rotation import Rotation, start, wait_for_label
from keyturn_cli.errors import CliError, ExitCode, TimedOut

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf"
OLD, NEW = "v-old", "v-new"


class FakeSecretsManager:
    """A fake client with one secret. Each description shows the next of ``stages``, until the last one is reached. If
    there is a ``code``, a description raises this error instead."""

    def __init__(self, *stages: dict[str, list[str]], rotates: bool = True, code: str = "") -> None:
        self.stages = list(stages)
        self.rotates = rotates
        self.code = code

    def describe_secret(self, SecretId: str) -> dict[str, Any]:
        if self.code:
            raise ClientError({"Error": {"Code": self.code, "Message": "quotes anything"}}, "DescribeSecret")
        stages = self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]
        return {"ARN": ARN, "Name": "shop/db", "RotationEnabled": self.rotates, "VersionIdsToStages": stages}

    def rotate_secret(self, SecretId: str) -> dict[str, Any]:
        if any("AWSPENDING" in labels and "AWSCURRENT" not in labels for labels in self.stages[0].values()):
            raise ClientError({"Error": {"Code": "InvalidRequestException", "Message": "quotes"}}, "RotateSecret")
        return {"ARN": ARN, "Name": "shop/db", "VersionId": NEW}


class FakeAws(Aws):
    def __init__(self, client: FakeSecretsManager) -> None:
        self._fake = client

    def secrets_manager(self, secret_id: str) -> Any:
        return self._fake


BEFORE = {OLD: ["AWSCURRENT"]}
PENDING = {OLD: ["AWSCURRENT"], NEW: ["AWSPENDING"]}
AFTER = {OLD: ["AWSPREVIOUS"], NEW: ["AWSCURRENT", "AWSPENDING"]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def wait(*stages: dict[str, list[str]], seconds: float = 60) -> float:
    clock = Clock()
    rotation = Rotation(ARN, "shop/db", NEW)
    return wait_for_label(FakeAws(FakeSecretsManager(*stages)), rotation, seconds, clock.sleep, clock)


def test_rotation_is_started() -> None:
    assert start(FakeAws(FakeSecretsManager(BEFORE)), "shop/db") == Rotation(ARN, "shop/db", NEW)


def test_rotation_can_follow_one_that_has_ended() -> None:
    ended = {OLD: ["AWSPREVIOUS"], "v-before": ["AWSCURRENT", "AWSPENDING"]}
    assert start(FakeAws(FakeSecretsManager(ended)), "shop/db").version_id == NEW


def test_secret_without_a_rotation_function_is_refused_with_advice() -> None:
    with pytest.raises(CliError, match=r"shop/db has no rotation function: configure one .*keyturn wait"):
        start(FakeAws(FakeSecretsManager(BEFORE, rotates=False)), "shop/db")


def test_rotation_that_is_not_complete_is_named() -> None:
    with pytest.raises(
        CliError, match=r"an earlier rotation of shop/db is not complete \(version v-new is AWSPENDING\)"
    ):
        start(FakeAws(FakeSecretsManager(PENDING)), "shop/db")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("ResourceNotFoundException", "check the name and the region"),
        ("AccessDeniedException", "ask for the right to secretsmanager:DescribeSecret"),
        ("ExpiredTokenException", "log in again"),
    ],
)
def test_error_of_aws_has_its_code_and_advice_and_not_its_text(code: str, advice: str) -> None:
    with pytest.raises(AwsError, match=advice) as caught:
        start(FakeAws(FakeSecretsManager(BEFORE, code=code)), "shop/db")
    assert code in str(caught.value)
    assert "quotes anything" not in str(caught.value)


def test_wait_ends_when_the_label_has_moved() -> None:
    assert wait(BEFORE | {NEW: []}, PENDING, PENDING, AFTER) == 3.0


def test_wait_that_lasts_too_long_has_the_exit_code_of_a_timeout() -> None:
    with pytest.raises(TimedOut, match="has not ended after 5 s: the old value is current") as caught:
        wait(PENDING, seconds=5)
    assert caught.value.exit_code is ExitCode.TIMEOUT


def test_cancelled_rotation_ends_the_wait() -> None:
    with pytest.raises(CliError, match="was cancelled: the old value is current") as caught:
        wait(PENDING, BEFORE)
    assert caught.value.exit_code is ExitCode.FINDING
