"""The report: the findings as lines for people, or as data for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from keyturn_cli.doctor.examination import count
from keyturn_cli.doctor.finding import Finding, Level, Section
from keyturn_cli.output import Output
from keyturn_cli.words import counted

SIGNS: Mapping[Level, str] = {Level.OK: "✔", Level.SKIPPED: "-", Level.WARNING: "!", Level.ERROR: "✗"}
STYLES: Mapping[Level, str] = {Level.OK: "green", Level.SKIPPED: "dim", Level.WARNING: "yellow", Level.ERROR: "red"}


def write(out: Output, sections: Sequence[Section]) -> None:
    """Write the report."""
    if out.is_data:
        out.data({"findings": [_fields(section.name, each) for section in sections for each in section.findings]})
        return
    for section in sections:
        out.line(f"► {section.name}", "bold")
        for finding in section.findings:
            write_finding(out, finding)
    errors, warnings = (count(sections, level) for level in (Level.ERROR, Level.WARNING))
    out.line(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")


def write_finding(out: Output, finding: Finding) -> None:
    """Write one finding as a line."""
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    out.line(f"  {SIGNS[finding.level]} {finding.text}{remedy}", STYLES[finding.level])


def _fields(section: str, finding: Finding) -> dict[str, Any]:
    return {"section": section, "level": finding.level.value, "text": finding.text, "remedy": finding.remedy}
