"""The lines of a benchmark's table, and where they are written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line; ``aim`` is the most that ``value`` should be, or the least with ``at_least``, where there is one."""

    name: str
    value: float
    unit: str
    aim: float | None = None
    at_least: bool = False

    @property
    def held(self) -> bool | None:
        """Whether the aim is met; None where there is none."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.at_least else self.value <= self.aim


def write(rows: Sequence[Row], file: Path) -> None:
    """Write them as JSON: ``{name: {value, unit, aim, held}}``."""
    fields = {
        row.name: {"value": round(row.value, 3), "unit": row.unit, "aim": row.aim, "held": row.held} for row in rows
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(fields, indent=2) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Write them as a table in Markdown."""
    lines = ["| what | value | aim |", "|---|---|---|"]
    for row in rows:
        sign = ">=" if row.at_least else "<="
        aim = "" if row.aim is None else f"{sign} {row.aim:g}: {'held' if row.held else 'MISSED'}"
        lines.append(f"| {row.name} | {_number(row.value)} {row.unit} | {aim} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
