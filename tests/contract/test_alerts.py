"""The chart's alerts: their PromQL, their texts, and their sections in docs/runbook.md."""

import re
import shlex
from http import HTTPStatus
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from keyturn_local.kubernetes.chart import CHART, SOME_KEY, chart_objects, rendered_chart
from keyturn_receiver import errors
from keyturn_receiver.cluster.event_path import EventPathMonitor
from keyturn_receiver.poller.poller import MAX_INTERVAL_WITHOUT_EVENTS
from keyturn_receiver.settings import PollMode, Settings
from support.command_line import unknown_words
from support.promql import faults, labels, selectors

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SOURCES = "\n".join(file.read_text() for file in sorted((ROOT / "receiver").rglob("*.py")))
NAMESPACE = "rotations"
OPTION = f" --release {NAMESPACE}/keyturn"
WIKI = "https://wiki.example.com/keyturn"


POLLER_ALONE = {"deliveries": {"enabled": False}, "signingKey": {}}


def rule(others: dict[str, Any] | None = None, **values: Any) -> list[Any]:
    objects = chart_objects(NAMESPACE, {"metrics": {"prometheusRule": values}, **(others or {})})
    return [each for each in objects if each["kind"] == "PrometheusRule"]


def alerts(others: dict[str, Any] | None = None) -> dict[str, Any]:
    (made,) = rule(others, enabled=True, runbookUrl=WIKI)
    (group,) = made["spec"]["groups"]
    return {each["alert"]: each for each in group["rules"]}


ALERTS = alerts()
ALERTS_OF_THE_POLLER = alerts(POLLER_ALONE)
# Only deliveries give these series a value. Without deliveries, an alert on such a series would be a false alarm, or
# would never fire.
OF_DELIVERIES = {
    "keyturn_event_path_up",
    "keyturn_signing_keys",
    "keyturn_deliveries_total",
    "keyturn_recovered_by_poll_total",  # without events, the poller finds every change
    "keyturn_propagation_seconds_bucket",
}


def test_alerts_are_absent_by_default() -> None:
    assert rule() == []


def test_rules_have_the_labels_that_prometheus_selects_by() -> None:
    (made,) = rule(enabled=True, labels={"release": "prometheus"})
    assert (
        made["metadata"]["labels"].items() >= {"release": "prometheus", "app.kubernetes.io/instance": "keyturn"}.items()
    )
    assert made["metadata"]["namespace"] == NAMESPACE


def test_alert_names_are_unique() -> None:
    (made,) = rule(enabled=True)
    assert len(made["spec"]["groups"][0]["rules"]) == len(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_queries_existing_series_of_its_own_release(alert: str) -> None:
    assert faults(ALERTS[alert]["expr"], NAMESPACE) == []


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_selects_label_values_that_the_code_writes(alert: str) -> None:
    """An alert that selects a value which the code never writes can never fire."""
    for selector in selectors(promql_parser.parse(ALERTS[alert]["expr"])):
        for matcher in selector.matchers.matchers:
            if matcher.name != "namespace":
                written = values(selector.name or "", matcher.name)
                for wanted in matcher.value.split("|"):
                    assert any(re.fullmatch(wanted, each) for each in written), (str(matcher), written)


def values(series: str, label: str) -> set[str]:
    """Return the values that the code may write to a label."""
    if label == "code":
        return {"0", *(str(status.value) for status in HTTPStatus)}
    if series == "keyturn_aws_requests_total":
        return {"ok", *(each.reason for each in family(errors.KeyturnError))}
    assert (series, label) == ("keyturn_sweeps_total", "outcome")
    return set(re.findall(r"\bsweeps\(\"(\w+)\"\)\.inc", SOURCES))


def family(error: type[errors.KeyturnError]) -> set[type[errors.KeyturnError]]:
    return {error}.union(*(family(each) for each in error.__subclasses__()))


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_severity_description_and_runbook_link(alert: str) -> None:
    made = ALERTS[alert]
    assert made["labels"]["severity"] in ("critical", "warning")
    # The expressions drop the label `namespace`. Alertmanager may need that label to route an alert, so each alert sets
    # it.
    assert made["labels"]["namespace"] == NAMESPACE
    # The alert waits for at least four scrapes at the chart's default interval of 30 s.
    assert promql_parser.parse_duration(made["for"]).total_seconds() >= 120
    told = made["annotations"]
    assert told.keys() == {"summary", "description", "runbook_url", "command"}
    assert told["summary"].endswith(".")
    assert told["description"].endswith(".")
    assert told["runbook_url"] == f"{WIKI}#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_text_names_labels_that_its_series_have(alert: str) -> None:
    told = set(re.findall(r"\$labels\.(\w+)", ALERTS[alert]["annotations"]["description"]))
    assert told <= labels(ALERTS[alert]["expr"])
    # Each template that is left in the rendered description must be a Prometheus template, and not one of Helm's.
    for expression in re.findall(r"\{\{(.*?)\}\}", ALERTS[alert]["annotations"]["description"]):
        assert re.fullmatch(r" \$(value( \| humanize\w*)?|labels\.\w+) ", expression)


def series(alert: Any) -> set[str]:
    return {str(selector.name) for selector in selectors(promql_parser.parse(alert["expr"]))}


def test_poller_alone_has_the_alerts_that_need_no_deliveries() -> None:
    of_deliveries = {name for name, alert in ALERTS.items() if series(alert) & OF_DELIVERIES}
    assert len(of_deliveries) == 7
    assert ALERTS_OF_THE_POLLER.keys() == ALERTS.keys() - of_deliveries | {"KeyturnCutOff"}


@pytest.mark.parametrize("alert", ALERTS_OF_THE_POLLER)
def test_alert_of_the_poller_alone_needs_no_deliveries(alert: str) -> None:
    made = ALERTS_OF_THE_POLLER[alert]
    assert faults(made["expr"], NAMESPACE) == []
    assert not series(made) & OF_DELIVERIES
    told = " ".join([made["annotations"]["summary"], made["annotations"]["description"]])
    assert not re.search(r"event|heartbeat|deliver|queue", told, re.IGNORECASE), told
    if "sweep_age" in made["expr"] or "leader" in made["expr"]:
        assert made["labels"]["severity"] == "critical"  # without deliveries, only the poller finds changes


WITHOUT_HEARTBEATS = {"heartbeats": {"silenceSeconds": 0}}


def cut_off(others: dict[str, Any] | None = None) -> tuple[dict[str, Any], float]:
    """Return the alert KeyturnCutOff, and the seconds without a good sweep after which its expression holds.

    ``min_over_time`` over a window is above a limit if and only if the age was above the limit in the whole window. So
    these seconds are the sum of the window and the limit.
    """
    alert = alerts(others)["KeyturnCutOff"]
    assert faults(alert["expr"], NAMESPACE) == []
    age = re.escape(f'keyturn_sweep_age_seconds{{namespace="{NAMESPACE}"}}')
    (found,) = re.findall(rf"min\(min_over_time\({age}\[(\d+)s\]\)\) > (\d+)", alert["expr"])
    window, limit = map(int, found)
    # After an installation, and after the upgrade from a version without this series, there is as much time.
    assert f'max(keyturn_sweep_age_seconds{{namespace="{NAMESPACE}"}} offset {window}s) >= 0' in alert["expr"]
    # Each scrape interval up to 5 min sees the low age after a sweep. Prometheus itself forgets a series after 5 min.
    assert limit == 300
    assert window >= 600
    return alert, window + limit


@pytest.mark.parametrize("others", [POLLER_ALONE, WITHOUT_HEARTBEATS], ids=["poller alone", "no heartbeats"])
@pytest.mark.parametrize("mode", PollMode)
@pytest.mark.parametrize("interval", [0, 1, 300, 600, 1800, 86400])
def test_poller_may_take_its_interval_before_it_counts_as_broken(
    others: dict[str, Any], mode: PollMode, interval: int
) -> None:
    """Until now the alert waited for 15 minutes, and with a longer interval it fired although all was well."""
    settings = Settings(
        deliveries=others is not POLLER_ALONE,
        signing_key_secret_id="" if others is POLLER_ALONE else "key",
        poll_mode=mode,
        poll_interval_seconds=interval,
    )
    _, seconds = cut_off({**others, "poller": {"intervalSeconds": interval, "mode": str(mode)}})
    assert seconds == 900 + 2 * settings.poll_interval


@pytest.mark.parametrize("mode", PollMode)
@pytest.mark.parametrize("interval", [0, 1, 29, 300, 86400])
def test_poller_has_a_short_interval_while_the_event_path_is_down(mode: PollMode, interval: int) -> None:
    """The interval counts that the poller has while the rest of the alert's condition holds."""
    _, seconds = cut_off({"poller": {"intervalSeconds": interval, "mode": str(mode)}})
    assert seconds == 900 + 2 * min(interval or MAX_INTERVAL_WITHOUT_EVENTS, MAX_INTERVAL_WITHOUT_EVENTS)


def test_cut_off_asks_the_event_path_only_if_it_can_count_as_down() -> None:
    """Without heartbeats, the event path never counts as down. With that condition, the alert could never fire."""
    assert EventPathMonitor(None, "replica", 0.0).healthy()  # type: ignore[arg-type]
    condition = f'max(keyturn_event_path_up{{namespace="{NAMESPACE}"}}) == 0 and '
    assert ALERTS["KeyturnCutOff"]["expr"].startswith(condition)
    without, _ = cut_off(WITHOUT_HEARTBEATS)
    assert not series(without) & OF_DELIVERIES
    assert "nobody knows whether events arrive" in without["annotations"]["description"]


def test_sweeps_of_other_stores_do_not_hide_failing_sweeps_of_the_own_one() -> None:
    assert labels(ALERTS["KeyturnSweepsFailing"]["expr"]) == {"store"}


def test_runbook_has_a_heading_for_each_alert_and_no_other() -> None:
    assert re.findall("^##+ (.+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_names_the_command_with_which_its_section_of_the_runbook_begins(alert: str) -> None:
    command = ALERTS[alert]["annotations"]["command"]
    first = re.findall("^```\n(.+)$", RUNBOOK.partition(f"\n## {alert}\n")[2].partition("\n## ")[0], re.MULTILINE)[0]
    assert first.partition(" # ")[0].strip() == command.removesuffix(OPTION)
    assert unknown_words(command) == []


@pytest.mark.parametrize("alert", ALERTS)
def test_command_of_an_alert_names_the_release_and_the_stack_where_it_asks_them(alert: str) -> None:
    command = ALERTS[alert]["annotations"]["command"]
    if command.split()[1] in ("doctor", "explain", "trace"):
        assert command.endswith(OPTION)
    assert ("--stack <stack>" in command) is ("--aws" in command)


def test_commands_of_the_release_that_the_command_line_assumes_do_not_name_it() -> None:
    made = rendered_chart("keyturn", values={**SOME_KEY, "metrics": {"prometheusRule": {"enabled": True}}})
    text = made["keyturn/templates/prometheusrule.yaml"]
    assert "command: keyturn doctor\n" in text
    assert "--release" not in text


def test_link_within_the_runbook_leads_to_a_heading() -> None:
    for shown, anchor in re.findall(r"\[(\w+)\]\(#([^)]+)\)", RUNBOOK):
        assert anchor == shown.lower()
        assert shown in ALERTS


def test_runbook_greps_for_messages_that_the_receiver_logs() -> None:
    searches = re.findall(r"logs \| (grep [^\n`]+)", RUNBOOK)
    assert len(searches) >= 10
    for search in searches:
        for command in search.split(" | "):
            words = shlex.split(command)
            if words[0] == "grep" and not {"-o", "-v"} & set(words):
                for pattern in words[1:]:
                    assert pattern == "-e" or pattern.strip('"') in SOURCES, pattern
            for field in re.findall(r'"\w+"(?=: )', command):
                assert field in SOURCES, field


def test_runbook_names_values_that_the_chart_has() -> None:
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    named = re.findall(r"`([a-z]\w+(?:\.[a-z]\w+)+)(?::\s\w+)?`", RUNBOOK)
    assert "poller.mode" in named
    for name in named:
        node = known
        for part in name.split("."):
            assert part in node, name
            node = node[part]
