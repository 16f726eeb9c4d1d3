"""The chart's dashboard: a ConfigMap that holds the JSON of a Grafana dashboard, whose panels query PromQL."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from keyturn_local.kubernetes.chart import CHART, chart_objects
from keyturn_receiver.telemetry.metrics import Metrics
from support.command_line import unknown_words
from support.promql import faults, labels, metric, selectors, series

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
FILE = CHART / "dashboards" / "keyturn.json"
DASHBOARD = json.loads(FILE.read_text())
PANELS = {f"{each['id']} {each['title']}": each for each in DASHBOARD["panels"]}
GRAPHS = {name: each for name, each in PANELS.items() if each["type"] != "row"}
# Grafana replaces these variables itself:
# https://grafana.com/docs/grafana/latest/dashboards/variables/add-template-variables/#global-variables
INTERVALS = {"$__rate_interval": "1m", "$__range": "6h"}


def config_map(**values: Any) -> list[Any]:
    objects = chart_objects("rotations", {"metrics": {"dashboard": values}})
    return [each for each in objects if each["kind"] == "ConfigMap"]


def expressions(panel: Any) -> dict[str, str]:
    """Return a panel's expressions by legend. Intervals are filled in, and the namespace stays a variable."""
    found = {}
    for target in panel["targets"]:
        expression = target["expr"]
        for variable, value in INTERVALS.items():
            expression = expression.replace(variable, value)
        found[target.get("legendFormat", "")] = expression
    return found


def test_dashboard_is_absent_by_default() -> None:
    assert config_map() == []


def test_config_map_has_the_sidecar_labels_and_the_whole_file() -> None:
    (made,) = config_map(enabled=True, labels={"dashboards": "all"}, annotations={"grafana_folder": "Secrets"})
    labels = {"dashboards": "all", "grafana_dashboard": "1", "app.kubernetes.io/instance": "keyturn"}
    assert made["metadata"]["labels"].items() >= labels.items()
    assert made["metadata"]["annotations"] == {"grafana_folder": "Secrets"}
    assert made["metadata"]["namespace"] == "rotations"
    assert made["data"] == {"keyturn.json": FILE.read_text().strip()}


@pytest.mark.parametrize("name", GRAPHS)
def test_panel_queries_existing_series_of_the_chosen_namespace(name: str) -> None:
    for expression in expressions(GRAPHS[name]).values():
        assert faults(expression, "$namespace") == []


@pytest.mark.parametrize("name", GRAPHS)
def test_legend_names_labels_that_distinguish_the_series(name: str) -> None:
    for legend, expression in expressions(GRAPHS[name]).items():
        told = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert told == labels(expression) - {"namespace"}
    assert len(expressions(GRAPHS[name])) == len(GRAPHS[name]["targets"])


def test_dashboard_shows_every_metric_of_the_receiver() -> None:
    shown = {
        metric(selector.name or "")
        for panel in GRAPHS.values()
        for expression in expressions(panel).values()
        for selector in selectors(promql_parser.parse(expression))
    }
    counted = {metric(name) for name in series() if name.startswith("keyturn_")}
    # Deprecated metrics are exposed for one more release. The dashboard shows only the new names.
    deprecated = {
        f"{each.name}_total" for each in Metrics().registry.collect() if each.documentation.startswith("Deprecated:")
    }
    assert counted - deprecated <= shown


def test_panel_queries_the_chosen_data_source() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in GRAPHS.values():
        assert all(each["datasource"] == chosen for each in (panel, *panel["targets"]))
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_link_of_a_panel_leads_to_an_alert_of_the_runbook() -> None:
    base = yaml.safe_load((CHART / "values.yaml").read_text())["metrics"]["prometheusRule"]["runbookUrl"]
    links = [link for panel in PANELS.values() for link in panel.get("links", [])]
    assert len(links) >= 5
    for link in links:
        title, alert = link["title"].split(": ")
        assert (title, link["url"]) == ("Runbook", f"{base}#{alert.lower()}")
        assert f"\n## {alert}\n" in RUNBOOK


def test_row_of_rotations_shows_the_way_of_a_rotation_and_the_commands_that_show_one() -> None:
    (row,) = (each["gridPos"]["y"] for each in PANELS.values() if each["title"] == "Rotation")
    end = min(each["gridPos"]["y"] for each in PANELS.values() if each["type"] == "row" and each["gridPos"]["y"] > row)
    panels = [each for each in GRAPHS.values() if row < each["gridPos"]["y"] < end]
    shown = {
        metric(selector.name or "")
        for panel in panels
        for expression in expressions(panel).values()
        for selector in selectors(promql_parser.parse(expression))
    }
    assert shown == {
        "keyturn_propagation_seconds",
        "keyturn_live_seconds",
        *(name for name in series() if name.startswith("keyturn_rollouts_")),
        "keyturn_rollout_fights_total",
    }
    commands = {each for panel in panels for each in re.findall(r"`(keyturn [^`]+)`", panel["description"])}
    assert {command.split()[1] for command in commands} == {"trace", "explain", "status"}
    assert [unknown_words(command) for command in commands] == [[]] * len(commands)


def test_variable_is_defined_or_built_into_grafana() -> None:
    defined = {f"${each['name']}" for each in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", FILE.read_text())) == {name[1:] for name in defined | INTERVALS.keys()}


def test_panels_differ_in_query_and_place() -> None:
    assert len({panel["id"] for panel in PANELS.values()}) == len(DASHBOARD["panels"])
    for name, panel in PANELS.items():
        place = panel["gridPos"]
        assert place["x"] >= 0, name
        assert place["x"] + place["w"] <= 24, name
    for (one, first), (other, second) in combinations(PANELS.items(), 2):
        assert not overlap(first["gridPos"], second["gridPos"]), (one, other)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in ("xw", "yh"))
