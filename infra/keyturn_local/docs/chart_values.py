"""Generator of the documentation of the chart's values, from the comments in values.yaml.

A comment that begins with ``# --``, as in helm-docs, becomes a row of the table in the chart's README, and a
description in values.schema.json. ``python -m keyturn_local.docs.chart_values`` writes both files. A test checks that
they are up to date.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from keyturn_local.docs.tables import table
from keyturn_local.kubernetes.chart import CHART

VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
HEADING = "## Values\n"
MARK = "# -- "


@dataclass(frozen=True)
class Value:
    """One value: its dotted ``path``, its default, and the text of its comment."""

    path: str
    default: Any
    meaning: str


def values() -> list[Value]:
    """Return the values in the order of the file. A map that has a comment of its own is one value."""
    text = VALUES.read_text()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)  # noqa: S101 - for mypy
    return list(_within(root, "", text.splitlines()))


def table_of_values() -> str:
    """Return the table for the README."""
    rows = [(f"`{each.path}`", f"`{json.dumps(each.default)}`", each.meaning) for each in values()]
    return "\n".join(table(("value", "default", "meaning"), rows)) + "\n"


def readme() -> str:
    """Return the README with an up-to-date table."""
    text, heading, _ = README.read_text().partition(HEADING)
    note = "`make chart-docs` makes this table from values.yaml; a test compares the two."
    return f"{text}{heading}\n{note}\n\n{table_of_values()}"


def schema() -> str:
    """Return the schema with up-to-date descriptions."""
    root = json.loads(SCHEMA.read_text())
    for each in values():
        node = root
        for name in each.path.split("."):
            node = node["properties"].setdefault(name, {})
        node["description"] = each.meaning
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def _within(node: yaml.MappingNode, path: str, lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        name = f"{path}{key.value}"
        meaning = _comment_above(key.start_mark.line, lines)
        if meaning:
            yield Value(name, yaml.safe_load(yaml.serialize(value)), meaning)
        elif isinstance(value, yaml.MappingNode):
            yield from _within(value, f"{name}.", lines)
        else:
            raise ValueError(f"{VALUES.name}: {name} lacks a comment that begins with `{MARK.strip()}`")


def _comment_above(line: int, lines: list[str]) -> str:
    comment: list[str] = []
    for above in reversed(lines[:line]):
        text = above.strip()
        if not text.startswith("#"):
            return ""
        if text.startswith(MARK):
            return " ".join([text.removeprefix(MARK), *comment])
        comment.insert(0, text.removeprefix("#").strip())
    return ""


if __name__ == "__main__":
    README.write_text(readme())
    SCHEMA.write_text(schema())
