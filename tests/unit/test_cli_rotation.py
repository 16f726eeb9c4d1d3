"""What `wait`, `rotate` and `trace` say before they ask a cluster or AWS, and which region of AWS they ask."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyturn_cli.aws import Aws
from keyturn_cli.aws_secrets import _client
from keyturn_cli.bound_secrets import Bound, read_bound
from keyturn_cli.commands.trace import changed_since
from keyturn_cli.main import app
from keyturn_cli.subjects import Subject
from keyturn_receiver.core.history import Change, add

OLDER, NEWER = (f"d47862ed-55b2-4b4e-a1f4-3f4b7c9d2e1{number}" for number in (0, 1))


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "us-east-1"}, "us-east-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-east-1"}, "us-east-1"),
        ({"AWS_PROFILE": "shop"}, "eu-north-1"),
        ({"AWS_PROFILE": "shop", "AWS_REGION": "eu-west-1"}, "eu-west-1"),
    ],
)
def test_aws_region_comes_before_botos_own_configuration(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[profile shop]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert Aws().region == region
    assert Aws().client("secretsmanager").meta.region_name == region
    assert _client("shop/db", "").meta.region_name == region
    arn = "arn:aws:secretsmanager:ap-south-1:111122223333:secret:shop/db-AbCdEf"
    assert Aws().secrets_manager(arn).meta.region_name == _client(arn, "").meta.region_name == "ap-south-1"


def test_profile_that_does_not_exist_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nope")
    ran = CliRunner().invoke(app, ["redeliver", "--list"])
    assert ran.exit_code == 1
    assert ran.stderr == "Error: AWS: the configuration: ProfileNotFound: check AWS_PROFILE and ~/.aws/config\n"


def remembering(name: str, *events: str) -> Bound:
    """Return a Secret whose history has one change for each event. The last event is the newest."""
    text = ""
    for number, event in enumerate(events):
        change = Change(f"2026-11-28T08:30:5{number}.000Z", f"{number}" * 32, event=event, cause="notification")
        text = add(text, change)
    return read_bound({"metadata": {"namespace": "shop", "name": name, "annotations": {"keyturn.dev/history": text}}})


def test_older_event_is_told_from_the_last_change() -> None:
    found = Subject("event", [remembering("db", OLDER, NEWER), remembering("web", OLDER)])
    assert changed_since(found, OLDER) == (
        f"this is the last change, and event {OLDER} is an older one:"
        " Secret shop/db had version 00000000 from it at 2026-11-28T08:30:50.000Z"
    )
    assert changed_since(found, NEWER) == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--aws", "-n", "shop"], "--aws asks no cluster"),
        (["--aws", "--release", "keyturn/other"], "--aws asks no cluster"),
        (["--host", "blue"], "give --aws, too"),
        (["--log-group", "/other"], "give --aws, too"),
        (["--timeout", "soon"], "is no duration"),
    ],
)
def test_options_that_do_not_fit_are_usage(arguments: list[str], told: str) -> None:
    ran = CliRunner().invoke(app, ["wait", "shop/db", "--version", "f" * 32, *arguments])
    assert (ran.exit_code, told in ran.stderr) == (2, True), ran.stderr


def test_odd_name_is_usage_with_aws() -> None:
    ran = CliRunner().invoke(app, ["wait", "--aws", "--version", "f" * 32, "--", "a b"])
    assert (ran.exit_code, ran.stderr) == (
        2,
        "Error: a b is no name of a secret: write the name or ARN of an AWS secret\n",
    )
