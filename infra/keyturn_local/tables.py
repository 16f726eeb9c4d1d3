"""The tables in docs/ that are made from the code: ``python -m keyturn_local.tables`` writes them, a test compares."""

from pathlib import Path

from keyturn_receiver.settings import Settings
from keyturn_receiver.telemetry import Metrics

DOCS = Path(__file__).parents[2] / "docs"


def settings_page() -> str:
    """docs/settings.md: every setting of the receiver, with its default."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else f"`{getattr(field.default, 'value', field.default)}`"
            if field.default not in ("", ())
            else ""
        )
        description = " ".join((field.description or "").split())
        rows.append(f"| `KEYTURN_{name.upper()}` | {default} | {description} |")
    return _page(
        "Settings of the receiver",
        "Environment variables, read once at the start. Region, credentials and end points of AWS are AWS's own\n"
        "variables; the cluster is the pod's own, or `KUBECONFIG`'s current context.",
        "| variable | default | meaning |\n|---|---|---|",
        rows,
    )


def metrics_page() -> str:
    """docs/metrics.md: every metric of the receiver, with its labels."""
    rows = []
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in _labels(family.name))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return _page(
        "Metrics of the receiver",
        "`GET /metrics` on the operations port, in Prometheus' text format.",
        "| metric | type | labels | meaning |\n|---|---|---|---|",
        rows,
    )


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}


def _labels(name: str) -> tuple[str, ...]:
    metrics = vars(Metrics()).values()
    return next(tuple(m._labelnames) for m in metrics if getattr(m, "_name", None) == name)


def _page(title: str, about: str, head: str, rows: list[str]) -> str:
    made = "Made from the code by `make docs`; a test holds the two together."
    return "\n".join([f"# {title}", "", about, made, "", head, *rows, ""])


if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page())
