"""Waiting for receipts in a log group. Only the client of CloudWatch Logs is a fake."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from keyturn_cli.aws import AwsError
from keyturn_cli.errors import CliError, ExitCode, RolloutFailed, TimedOut, UsageError
from keyturn_cli.output import Format, Output
from keyturn_cli.receipts import APPLIED, LIVE, LOOK_BACK, POLL_SECONDS, Arrival, await_version, wait_for_receipts

NAME = "shop/db"
ARN = f"arn:aws:secretsmanager:eu-west-1:111122223333:secret:{NAME}-AbCdEf"
VERSION = "d0cf8060-5f6c-4f0c-8b51-3a0b7c9d2e11"
REGION = "eu-west-1"


def event(kind: str, detail: dict[str, Any], **fields: Any) -> str:
    whole = {"source": "dev.keyturn", "region": REGION, "account": "1", "detail-type": kind}
    return json.dumps({**whole, "detail": {"versionId": VERSION, "name": NAME, "secretArn": ARN, **detail}, **fields})


def applied(healthy: bool = True, complete: bool = True, reasons: Any = (), **outcomes: str) -> str:
    """Return a receipt with the outcome of each host. ``reasons`` maps hosts to reasons."""
    why = dict(reasons)
    receivers = [
        {"host": host, "outcome": outcome, **({"reason": why[host]} if host in why else {})}
        for host, outcome in outcomes.items()
    ]
    return event("Keyturn Secret Applied", {"complete": complete, "healthy": healthy, "receivers": receivers})


def live(host: str, **fields: Any) -> str:
    return event("Keyturn Secret Live", {"host": host}, **fields)


def stuck(host: str) -> str:
    return event("Keyturn Rollout Stuck", {"host": host, "consumers": ["Deployment/shop/web"]})


class Logs:
    """CloudWatch Logs, as far as FilterLogEvents goes. ``lines`` has the seconds after which each line shows, and its
    text."""

    def __init__(self, *lines: tuple[float, str], error: str = "") -> None:
        self.lines, self.error, self.now = lines, error, 1_800_000_000.0
        self.started = self.now
        self.asked: list[dict[str, Any]] = []
        self.meta = type("Meta", (), {"region_name": REGION})

    def get_paginator(self, name: str) -> Any:
        assert name == "filter_log_events"
        return self

    def paginate(self, **request: Any) -> Any:
        self.asked.append(request)
        if self.error:
            raise ClientError({"Error": {"Code": self.error, "Message": "hush"}}, "FilterLogEvents")
        shown = [text for at, text in self.lines if self.now - self.started >= at]
        half = len(shown) // 2
        return [{"events": [{"message": each} for each in part]} for part in (shown[:half], shown[half:])]

    def wait(self, goal: str, *hosts: str, seconds: float = 60, secret_id: str = NAME) -> Arrival:
        return wait_for_receipts(
            self, secret_id, VERSION, goal, seconds, hosts, clock=lambda: self.now, sleep=self.sleep
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def waited(self) -> float:
        return self.now - self.started


def test_applied_is_waited_for() -> None:
    logs = Logs((10, applied(blue="applied")))
    assert logs.wait(APPLIED).applied
    assert 10 <= logs.waited <= 10 + POLL_SECONDS
    request = logs.asked[0]
    assert request["filterPattern"] == f'{{ $.detail.versionId = "{VERSION}" }}'
    assert request["startTime"] == int((logs.started - LOOK_BACK) * 1000)


def test_live_is_waited_for_in_each_cluster_that_has_something_bound() -> None:
    logs = Logs((0, applied(blue="applied", green="applied", red="ignored")), (5, live("blue")), (20, live("green")))
    assert logs.wait(LIVE).live == {"blue", "green"}
    assert logs.waited >= 20


def test_live_of_named_clusters_needs_no_other() -> None:
    logs = Logs((0, live("blue")))
    logs.wait(LIVE, "blue")
    with pytest.raises(TimedOut):
        Logs((0, live("blue"))).wait(LIVE, "blue", "green")
    with pytest.raises(TimedOut):  # neither an argument nor an Applied receipt names the clusters
        Logs((0, live("blue"))).wait(LIVE)


def test_stuck_rollout_ends_the_wait_unless_it_goes_on() -> None:
    with pytest.raises(
        RolloutFailed, match="blue: Deployment/shop/web: see keyturn trace shop/db with the --context"
    ) as caught:
        Logs((0, applied(blue="applied")), (5, stuck("blue"))).wait(LIVE)
    assert caught.value.exit_code is ExitCode.ROLLOUT_FAILED
    for lines in ([stuck("blue"), live("blue")], [live("blue"), stuck("blue")]):
        Logs((0, applied(blue="applied")), *((5, line) for line in lines)).wait(LIVE)


def test_timeout_names_the_clusters_that_are_missing() -> None:
    logs = Logs((0, applied(blue="applied", green="applied")), (0, live("green")))
    with pytest.raises(TimedOut, match=r"applied, but after 60 s not live in blue: see keyturn trace shop/db --aws"):
        logs.wait(LIVE)
    assert 60 <= logs.waited < 61
    with pytest.raises(TimedOut, match="no receipt that says"):
        Logs().wait(APPLIED)


def test_applied_receipt_that_is_not_complete_does_not_hold_up_live() -> None:
    logs = Logs((0, applied(healthy=False, complete=False, blue="applied", green="retrying")), (5, live("blue")))
    with pytest.raises(TimedOut, match=f"version {VERSION} is after 60 s not live in green"):
        logs.wait(LIVE)
    logs.lines += ((70, live("green")),)
    assert logs.wait(LIVE).live == {"blue", "green"}
    with pytest.raises(TimedOut, match="no receipt that says"):
        logs.wait(APPLIED)


REFUSED = "shop/other: InvalidValue: there is no such property"


@pytest.mark.parametrize("goal", [APPLIED, LIVE])
def test_refusal_is_a_problem_of_its_own_host_alone(goal: str) -> None:
    reasons = {"blue": REFUSED, "red": "no Secret is bound to it"}
    line = applied(healthy=False, reasons=reasons, blue="applied", green="applied", red="ignored")
    arrival = Logs((0, line), (0, live("blue")), (0, live("green"))).wait(goal)
    assert (arrival.problems, arrival.hosts) == ({"blue": REFUSED}, {"blue", "green"})


def test_refusal_without_reasons_is_of_no_host_unless_there_is_only_one() -> None:
    assert Logs((0, applied(healthy=False, blue="applied"))).wait(APPLIED).problems == {"blue": ""}
    assert Logs((0, applied(healthy=False, blue="applied", green="applied"))).wait(APPLIED).problems == {"": ""}


@pytest.mark.parametrize("goal", [APPLIED, LIVE])
@pytest.mark.parametrize(
    ("line", "told"),
    [
        (applied(blue="ignored", green="ignored"), "no Secret is bound to it: bind a Secret"),
        (applied(healthy=False, reasons={"blue": REFUSED}, blue="ignored"), f"blue: {REFUSED}: see keyturn status"),
    ],
)
def test_version_that_no_cluster_uses_ends_the_wait(goal: str, line: str, told: str) -> None:
    logs = Logs((0, line))
    with pytest.raises(CliError, match=f"no cluster uses version {VERSION}: {told}") as caught:
        logs.wait(goal)
    assert (caught.value.exit_code, logs.waited) == (ExitCode.FINDING, 0)


@pytest.mark.parametrize(
    ("secret_id", "is_same"),
    [
        (NAME, True),
        (ARN, True),
        (ARN.removesuffix("-AbCdEf"), True),
        ("shop/other", False),
        (ARN.replace("111122223333", "999900009999"), False),
    ],
)
def test_receipt_counts_for_its_own_secret_alone(secret_id: str, is_same: bool) -> None:
    logs = Logs((0, applied(blue="applied")), (0, live("blue")))
    if is_same:
        assert logs.wait(LIVE, secret_id=secret_id).live == {"blue"}
    else:
        with pytest.raises(TimedOut):
            logs.wait(LIVE, secret_id=secret_id)


@pytest.mark.parametrize(
    "forged",
    [
        live("blue", source="com.example"),
        live("blue", region="us-east-1"),
        live("blue", **{"replay-name": "again"}),
        event("Keyturn Secret Live", {"host": "blue", "versionId": "another"}),
        event("Keyturn Secret Live", {}),
        event("Keyturn Secret Live", {"host": "blue", "name": "shop/other", "secretArn": None}),
        event("Keyturn Secret Applied", {"complete": True, "receivers": [{}]}),
        "no JSON",
        "[]",
        "7",
        "{}",
        '{"source": "dev.keyturn", "region": "eu-west-1", "detail": 7, "detail-type": "Keyturn Secret Live"}',
    ],
)
def test_line_that_is_no_receipt_is_not_believed(forged: str) -> None:
    with pytest.raises(TimedOut):
        Logs((0, applied(blue="applied")), (0, forged)).wait(LIVE)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", "ask for the right to logs:FilterLogEvents"),
        ("ResourceNotFoundException", "deploy infra/aws/receipts.yaml"),
        ("ThrottlingException", "ThrottlingException"),
    ],
)
def test_group_that_cannot_be_read_is_told_with_what_to_do(code: str, words: str) -> None:
    with pytest.raises(AwsError, match=words) as caught:
        Logs(error=code).wait(APPLIED)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "healthy", "code", "told"),
    [
        (Format.TABLE, True, ExitCode.FINE, "version d0cf8060 is applied in blue\n"),
        (Format.TABLE, False, ExitCode.FINDING, "except in blue: see keyturn status there\n"),
        (Format.JSON, False, ExitCode.FINDING, '"problems": [\n    {\n      "host": "blue"'),
    ],
)
def test_end_of_the_wait_is_told(
    form: Format, healthy: bool, code: ExitCode, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = Logs((0, applied(healthy=healthy, blue="applied")))
    assert await_version(Output(form), logs, NAME, VERSION, APPLIED, 5) is code
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["", "v1", '" || $.x = "', "d0cf8060*", "x" * 65])
def test_version_that_is_none_is_refused_before_aws_is_asked(bad: str) -> None:
    logs = Logs()
    with pytest.raises(UsageError, match="no version id"):
        wait_for_receipts(logs, NAME, bad, APPLIED, 1)
    assert logs.asked == []
