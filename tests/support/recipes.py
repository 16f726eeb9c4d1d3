"""The files in charts/keyturn/examples: values for the chart, alone or inside the objects of a GitOps tool."""

from pathlib import Path
from typing import Any

import yaml

from keyturn_local.kubernetes.chart import CHART

FILES = {file.stem: file for file in sorted((CHART / "examples").glob("*.yaml"))}


def documents(file: Path) -> list[Any]:
    """Return the documents of a file."""
    return list(yaml.safe_load_all(file.read_text()))


def values_of(file: Path) -> dict[str, Any]:
    """Return the values for the chart that a file holds."""
    first, *others = documents(file)
    if "kind" not in first:
        assert not others, "a values file has one document"
        return dict(first)
    (values,) = [
        each["spec"]["values"] if each["kind"] == "HelmRelease" else each["spec"]["source"]["helm"]["valuesObject"]
        for each in (first, *others)
        if each["kind"] == "HelmRelease" or each["spec"].get("source", {}).get("chart") == "keyturn"
    ]
    return dict(values)
