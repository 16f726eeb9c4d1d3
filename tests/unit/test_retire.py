"""The sample that retires the previous credential (infra/aws/retire): what it believes, and when it revokes."""

import importlib.util
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws

FILE = Path(__file__).parents[2] / "infra" / "aws" / "retire" / "retire.py"
ACCOUNT = "123456789012"
BLUE, GREEN = "blue.example.com", "green.example.com:8443"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retire", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Scene:
    """A secret that was rotated from the first access key of a user to the second one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.retire = load()
        self.iam, self.secrets = boto3.client("iam"), boto3.client("secretsmanager")
        self.iam.create_user(UserName="app")
        self.old, self.new = self.key(), self.key()
        created = self.secrets.create_secret(Name="shop/db", SecretString=self.old)
        self.arn, self.first = created["ARN"], created["VersionId"]
        self.version = self.secrets.put_secret_value(SecretId=self.arn, SecretString=self.new)["VersionId"]
        boto3.client("dynamodb").create_table(
            TableName="retire",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        variables = {"ACCOUNT": ACCOUNT, "SECRET_ARN": self.arn, "CLUSTERS": f"{BLUE},{GREEN}", "TABLE": "retire"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    def key(self) -> str:
        key = self.iam.create_access_key(UserName="app")["AccessKey"]
        return json.dumps({each: key[each] for each in ("UserName", "AccessKeyId", "SecretAccessKey")})

    def receipt(self, host: str, **changes: Any) -> dict[str, Any]:
        now = at(0)
        detail = {"secretArn": self.arn, "versionId": self.version, "host": host, "receiptId": f"live/{host}"}
        detail |= {"since": now}
        event = {"source": "dev.keyturn", "detail-type": "Keyturn Secret Live", "account": ACCOUNT, "time": now}
        return {**event, **changes, "detail": {**detail, **changes.get("detail", {})}}

    def tell(self, host: str, **changes: Any) -> str:
        return str(self.retire.handler(self.receipt(host, **changes), None)["reason"])

    def live(self, host: str, version: str, seconds: float, took: int | None = None) -> str:
        """Send the receipt that a version has been live since ``seconds`` from now, ``took`` seconds after the label
        moved. Return the reason in the answer."""
        detail = {"versionId": version, "since": at(seconds), "seconds": took}
        return self.tell(host, detail={name: value for name, value in detail.items() if value is not None})

    def move_label(self, version: str) -> None:
        stages = self.secrets.describe_secret(SecretId=self.arn)["VersionIdsToStages"]
        (current,) = (each for each, labels in stages.items() if "AWSCURRENT" in labels)
        self.secrets.update_secret_version_stage(
            SecretId=self.arn, VersionStage="AWSCURRENT", RemoveFromVersionId=current, MoveToVersionId=version
        )

    def active(self) -> list[str]:
        listed = self.iam.list_access_keys(UserName="app")["AccessKeyMetadata"]
        return [each["AccessKeyId"] for each in listed if each["Status"] == "Active"]

    @property
    def both(self) -> list[str]:
        return [json.loads(each)["AccessKeyId"] for each in (self.old, self.new)]


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """A session for all tests, so that the descriptions of AWS's services are read once."""
    return boto3.Session("testing", "testing", region_name="us-east-1")


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, session: boto3.Session) -> Iterator[Scene]:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
        yield Scene(monkeypatch)


def test_old_key_is_revoked_after_the_last_cluster_and_once(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert scene.tell(BLUE) == f"not live yet in {GREEN}"
    assert scene.tell(BLUE) == f"not live yet in {GREEN}"  # a receipt may come twice
    assert scene.active() == scene.both
    assert scene.tell(GREEN) == ""
    assert scene.active() == scene.both[1:]
    stages = scene.secrets.describe_secret(SecretId=scene.arn)["VersionIdsToStages"]
    assert [label for labels in stages.values() for label in labels] == ["AWSCURRENT"]
    for host in (BLUE, GREEN):
        assert scene.tell(host) == "it was retired before"
    printed = capsys.readouterr().out
    for each in (scene.old, scene.new):
        assert json.loads(each)["SecretAccessKey"] not in printed


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "com.example"},
        {"source": "aws.secretsmanager"},
        {"detail-type": "Keyturn Secret Applied"},
        {"account": "999988887777"},
        {"replay-name": "again"},
        {"time": (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")},
        {"time": (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")},
        {"detail": {"secretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:other-a1b2c3"}},
        {"detail": {"host": "stranger.example.com"}},
    ],
)
def test_receipt_that_is_not_believed_changes_nothing(scene: Scene, changes: dict[str, Any]) -> None:
    scene.tell(GREEN)
    assert scene.tell(BLUE, **changes).startswith("it is ")
    assert scene.active() == scene.both
    assert scene.tell(BLUE) == ""


def test_version_that_is_not_current_retires_nothing(scene: Scene) -> None:
    scene.tell(BLUE)
    rolled_back = scene.secrets.put_secret_value(SecretId=scene.arn, SecretString=scene.old)["VersionId"]
    assert scene.tell(GREEN) == "it is not the current version any more"
    assert scene.active() == scene.both
    scene.version = rolled_back
    scene.tell(BLUE)
    assert scene.tell(GREEN) == ""  # the version with the new key is now the one before the current one
    assert scene.active() == scene.both[:1]


def test_versions_with_the_same_credential_retire_nothing(scene: Scene) -> None:
    scene.version = scene.secrets.put_secret_value(SecretId=scene.arn, SecretString=scene.new)["VersionId"]
    scene.tell(BLUE)
    assert scene.tell(GREEN) == "both versions have the same credential"
    assert scene.active() == scene.both


def test_run_that_ended_after_it_had_revoked_is_made_up_by_the_next_try(scene: Scene) -> None:
    scene.tell(BLUE)
    scene.iam.update_access_key(UserName="app", AccessKeyId=scene.both[0], Status="Inactive")
    assert scene.tell(GREEN) == ""
    assert scene.active() == scene.both[1:]
    assert scene.tell(GREEN) == "it was retired before"


@pytest.mark.parametrize("told", [True, False])
def test_rollback_waits_for_the_pods_of_each_cluster_that_still_run_the_other_version(scene: Scene, told: bool) -> None:
    """The first version was live in both clusters. The second version is stuck in GREEN. BLUE runs the second version,
    and says so if ``told``. Then the label moves back to the first version."""
    scene.live(BLUE, scene.first, -600)
    assert scene.live(GREEN, scene.first, -600) == "it is not the current version any more"
    if told:
        assert scene.live(BLUE, scene.version, 5) == f"not live yet in {GREEN}"
    scene.move_label(scene.first)
    assert scene.live(BLUE, scene.first, 60, took=20) == f"not live yet in {GREEN}"
    assert scene.live(GREEN, scene.first, -600) == f"not live yet in {GREEN}"  # the old receipt comes once more
    assert scene.active() == scene.both
    assert scene.live(GREEN, scene.first, 90, took=50) == ""
    assert scene.active() == scene.both[:1]


def test_second_rollback_waits_for_each_cluster_too(scene: Scene) -> None:
    """Both versions are older than the stored state of GREEN, so only the time at which the label moved decides."""
    scene.live(BLUE, scene.first, 60)
    scene.live(GREEN, scene.first, 60)
    scene.move_label(scene.first)
    assert scene.live(BLUE, scene.first, 120, took=10) == f"not live yet in {GREEN}"
    assert scene.active() == scene.both
    assert scene.live(GREEN, scene.first, 130, took=20) == ""


def test_old_receipt_does_not_replace_a_later_one(scene: Scene) -> None:
    assert scene.live(GREEN, scene.first, 60) == f"not live yet in {BLUE}"
    assert scene.live(GREEN, scene.version, 30) == "a later receipt of this cluster was here before"
    assert scene.live(BLUE, scene.version, 30) == f"not live yet in {GREEN}"
    assert scene.active() == scene.both
    assert scene.live(GREEN, scene.version, 90) == ""
    assert scene.active() == scene.both[1:]
