"""docs/recipes.md, compared with the chart's examples: the page shows each file as it is, and names the chart's values.

integration/test_chart_recipes.py renders the files and lets a real API server judge them.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from keyturn_local.docs import chart_values
from keyturn_local.kubernetes.chart import CHART
from support.recipes import FILES, documents

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
VALUES = {each.path for each in chart_values.values()}


def example_of(section: str) -> list[str]:
    """Return the names of the examples that a section links to."""
    return re.findall(r"\]\(\.\./charts/keyturn/examples/([\w-]+)\.yaml\)", section)


def test_every_example_has_one_section() -> None:
    assert sorted(name for section in SECTIONS.values() for name in example_of(section)) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_page_shows_the_example_as_it_is(name: str) -> None:
    (section,) = (section for section in SECTIONS.values() if name in example_of(section))
    shown = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert FILES[name].read_text() in shown


def test_page_names_values_that_the_chart_has() -> None:
    named = set(re.findall(r"`([a-z]\w+(?:\.[a-z]\w+)+)(?::\s[^`]+)?`", PAGE)) - {"values.yaml"}
    groups = {path.rsplit(".", depth)[0] for path in VALUES for depth in (1, 2, 3)}
    assert {name for name in named if name.split(".")[0] in {path.split(".")[0] for path in VALUES}} <= VALUES | groups
    assert "poller.intervalSeconds" in named


@pytest.mark.parametrize(
    ("name", "field"), [("argo-cd", ("source", "targetRevision")), ("flux", ("ref", "tag"))], ids=["argo-cd", "flux"]
)
def test_example_of_a_gitops_tool_installs_this_version(name: str, field: tuple[str, str]) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    node: Any = documents(FILES[name])[0]["spec"]
    for each in field:
        node = node[each]
    assert node == version
