"""Generator of those pages in docs/ that consist of tables. The tables come from the code.

``python -m keyturn_local.docs.tables`` writes the pages. A test checks that they are up to date.
"""

import ast
import dataclasses
import inspect
from collections.abc import Sequence

from keyturn_local.aws import template
from keyturn_local.paths import ROOT
from keyturn_notifier import telemetry
from keyturn_notifier.aws_event_types import MEANINGS, UNKNOWN, Meaning
from keyturn_notifier.settings import NotifierSettings
from keyturn_receiver.settings import Settings
from keyturn_receiver.telemetry.metrics import Metrics

DOCS = ROOT / "docs"


def settings_page() -> str:
    """Return docs/settings.md, which lists every setting of the receiver and of the notifier's functions."""
    receiver = []
    for name, field in Settings.model_fields.items():
        value = getattr(field.default, "value", field.default)
        default = "required" if field.is_required() else f"`{value}`" if value not in ("", (), None) else ""
        receiver.append((f"`KEYTURN_{name.upper()}`", default, field.description or ""))
    notifier = [
        (f"`KEYTURN_{field.name.upper()}`", "required" if field.default is dataclasses.MISSING else "", text)
        for field, text in zip(dataclasses.fields(NotifierSettings), _field_docs(NotifierSettings), strict=True)
    ]
    return _page(
        "Settings",
        _section(
            "The receiver",
            "Environment variables, which the receiver reads once at the start. AWS's own variables set its region,\n"
            "credentials and endpoints. The cluster is the pod's own, or the current context of `KUBECONFIG`.\n"
            "`HTTPS_PROXY` and `NO_PROXY` name a proxy for calls to AWS, and with `KUBECONFIG` also for the cluster.\n"
            "`NO_PROXY` may hold names, `.domains`, `*.domains`, addresses and address ranges such as `10.0.0.0/8`.",
            ("variable", "default", "meaning"),
            receiver,
        ),
        _section(
            "The notifier and the signing key's rotation",
            "Environment variables of the two functions. template.yaml sets them from its [parameters](parameters.md).",
            ("variable", "default", "meaning"),
            notifier,
        ),
    )


def metrics_page() -> str:
    """Return docs/metrics.md, which lists every metric of the receiver and of the notifier."""
    receiver = []
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in _labels(family.name))
        receiver.append((f"`{name}`", family.type, labels, family.documentation))
    notifier = [
        (f"`{metric.value}`", unit.value.lower(), meaning) for metric, (unit, meaning) in telemetry.DEFINITIONS.items()
    ]
    return _page(
        "Metrics",
        _section(
            "The receiver",
            "`GET /metrics` on the operations port, in Prometheus' text format. On Linux the process's own metrics\n"
            "(`process_resident_memory_bytes`, `process_cpu_seconds_total` and the like) come with these.",
            ("metric", "type", "labels", "meaning"),
            receiver,
        ),
        _section(
            "The notifier",
            f"In CloudWatch: namespace `{telemetry.NAMESPACE}`; the dimension `service` is the stack's name.",
            ("metric", "unit", "meaning"),
            notifier,
        ),
    )


def events_page() -> str:
    """Return docs/events.md, which lists every event of Secrets Manager and what Keyturn does with it."""
    rows = [(f"`{name}`", kind, _becomes(meaning), meaning.reason) for (kind, name), meaning in MEANINGS.items()]
    rows.append(("any other", "either of CloudTrail's", _becomes(UNKNOWN), UNKNOWN.reason))
    return _page(
        "Events of AWS Secrets Manager",
        _section(
            "Meaning of each event",
            "The notifier ignores some events whatever their name: calls that only read (`readOnly`), calls that\n"
            "failed (`errorCode`), moves of AWSPENDING and AWSPREVIOUS alone, events about the signing key, and, with\n"
            "`NamePrefixes`, events about secrets of other names. The log has each with its reason. An event of\n"
            "another shape goes to the dead-letter queue, with the reason.\n"
            "Heartbeats (`Keyturn Heartbeat`, `Keyturn Member Heartbeat`) are Keyturn's own events.\n\n"
            "The rules of template.yaml carry the native event and, with `LifecycleEvents`, deletions, restorations\n"
            "and failed rotations. The notifier also understands the others; a rule of your own may send them, if the\n"
            "parameter `ExtraRuleArns` names it. Its target is the output `QueueArn`.",
            ("event", "detail-type", "notification", "reason"),
            rows,
        ),
    )


def parameters_page() -> str:
    """Return docs/parameters.md, which lists the parameters and outputs of template.yaml."""
    read = template.read()
    parameters = []
    for name, each in read["Parameters"].items():
        default = "required" if "Default" not in each else f"`{each['Default']}`" if each["Default"] != "" else ""
        parameters.append((f"`{name}`", default, each["Description"]))
    outputs = [(f"`{name}`", each["Description"]) for name, each in read["Outputs"].items()]
    return _page(
        "Parameters of template.yaml",
        _section(
            "Parameters",
            "`sam deploy --parameter-overrides Name=value ...` sets them; `sam deploy --guided` asks for each.",
            ("parameter", "default", "meaning"),
            parameters,
        ),
        _section(
            "Outputs",
            "`sam list stack-outputs --stack-name keyturn-blue` shows them.",
            ("output", "meaning"),
            outputs,
        ),
    )


PAGES = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "events.md": events_page,
    "parameters.md": parameters_page,
}


def _becomes(meaning: Meaning) -> str:
    return f"`{meaning.becomes.value}`" if meaning.becomes else "ignored"


def _labels(name: str) -> tuple[str, ...]:
    metrics = vars(Metrics()).values()
    return next(tuple(m._labelnames) for m in metrics if getattr(m, "_name", None) == name)


def _field_docs(model: type) -> list[str]:
    """Return the docstrings below the fields of a dataclass, in the order of the fields."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - for mypy
    below = zip(definition.body, definition.body[1:], strict=False)
    return [
        str(text.value.value)
        for field, text in below
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    ]


def _section(title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([f"## {title}", "", about, "", *table(head, rows), ""])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [_row(head), "|" + "---|" * len(head), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def _page(title: str, *sections: str) -> str:
    note = "`make docs` makes this page from the code; a test compares the two."
    return "\n".join([f"# {title}\n", f"{note}\n", *sections])


if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page())
