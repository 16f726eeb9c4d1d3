"""The rows of a benchmark's table, each with a value, a unit and an aim. They are written as JSON and as Markdown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``aim`` is an upper limit for ``value``. If ``at_least`` is true, it is a lower limit.

    If nothing could be measured, ``value`` is None, and ``missing`` is the reason.
    """

    name: str
    value: float | None
    unit: str
    aim: float | None = None
    at_least: bool = False
    missing: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the value meets the aim. It is None if the row has no aim or no value."""
        if self.aim is None or self.value is None:
            return None
        return self.value >= self.aim if self.at_least else self.value <= self.aim


def write(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as JSON: ``{name: {value, unit, aim, held}}``."""
    fields = {
        row.name: {
            "value": None if row.value is None else round(row.value, 3),
            "unit": row.unit,
            "aim": row.aim,
            "held": row.held,
        }
        for row in rows
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(fields, indent=2) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | value | aim |", "|---|---|---|"]
    for row in rows:
        sign = ">=" if row.at_least else "<="
        aim = "" if row.held is None else f"{sign} {row.aim:g}: {'held' if row.held else 'MISSED'}"
        value = f"not measured: {row.missing}" if row.value is None else f"{_number(row.value)} {row.unit}"
        lines.append(f"| {row.name} | {value} | {aim} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
