"""The doctor's report: for the facts of the sample in docs/cli.md, it prints that sample."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from keyturn_cli.doctor.aws_facts import Rule
from keyturn_cli.doctor.cluster_facts import Bindings, BoundSecret, LeaseState
from keyturn_cli.doctor.examination import Facts, examine
from keyturn_cli.doctor.report import write
from keyturn_cli.output import Format, Output
from keyturn_local.docs import cli_help
from unit.test_doctor_checks import AWS, HEALTHY, NOW

assert isinstance(AWS.rule, Rule)
BOUND = tuple(BoundSecret("shop", f"db-{number}", "true", "ok") for number in range(10))
SAMPLE = Facts(
    replace(
        HEALTHY,
        poller=LeaseState("keyturn-poller", "keyturn-7c9-x2", NOW - timedelta(seconds=1)),
        event_path=LeaseState("keyturn-event-path", "keyturn-7c9-x2", NOW - timedelta(minutes=12)),
        bindings=Bindings(
            (
                *BOUND,
                BoundSecret("shop", "wrong", "true", "InvalidValue: no such property"),
                BoundSecret("pay", "card", "true", "NotAllowed: namespace pay may read nothing"),
            ),
            {"shop": "shop/*", "pay": None},
        ),
    ),
    aws=replace(AWS, rule=replace(AWS.rule, name="keyturn-LabelUpdatedRule-1X", enabled=False), dead_letters=2),
    skews={"this machine - Kubernetes API": 0.1, "this machine - AWS": -0.2},
)


def test_sample_of_the_page_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    write(Output(), examine(SAMPLE, "0.2.0"))
    sample = cli_help.blocks(cli_help.PAGE.read_text(), "sample")["doctor"]
    assert f"$ keyturn doctor --aws\n{capsys.readouterr().out}" == sample


def test_data_has_each_finding_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    write(Output(Format.JSON), examine(SAMPLE, "0.2.0"))
    found = json.loads(capsys.readouterr().out)["findings"]
    bad = [each for each in found if each["level"] in ("warning", "error")]
    assert len(bad) == 5
    assert all(set(each) == {"section", "level", "text", "remedy"} for each in found)
    assert {each["remedy"] for each in found if each["level"] == "ok"} == {""}
