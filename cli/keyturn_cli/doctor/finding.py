"""Findings: the results of checks, each with a level and a remedy."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

_SHOWN = 3  # at most this many names in one text


class Level(StrEnum):
    """The severity of a finding. SKIPPED means that the check was not made, because a fact could not be read."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``remedy`` says what to do. It is empty if there is nothing to do."""

    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be read. ``why`` is the reason. ``remedy`` says what to do so that the fact can be read.

    ``is_fault`` is true if the reason is a fault of the installation, such as an object that is missing.
    """

    why: str
    remedy: str = ""
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """The findings about one part of Keyturn, such as the event path."""

    name: str
    findings: tuple[Finding, ...]


def ok(text: str) -> Finding:
    """Return a finding without a fault."""
    return Finding(Level.OK, text)


def skipped(subject: str, unknown: Unknown) -> Finding:
    """Return the finding that ``subject`` was not checked. But if ``unknown`` is a fault, return the finding that
    ``subject`` is broken."""
    if unknown.is_fault:
        return Finding(Level.ERROR, f"{subject}: {unknown.why}", unknown.remedy)
    return Finding(Level.SKIPPED, f"{subject}: not checked, because {unknown.why}", unknown.remedy)


def warning(text: str, remedy: str) -> Finding:
    """Return a finding that needs attention. Rotations still arrive."""
    return Finding(Level.WARNING, text, remedy)


def error(text: str, remedy: str) -> Finding:
    """Return a finding about a fault that keeps rotations from arriving."""
    return Finding(Level.ERROR, text, remedy)


def some(names: Iterable[str]) -> str:
    """Join names for a text. The text has the first _SHOWN names, and the number of the remaining names."""
    names = sorted(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def length(duration: timedelta) -> str:
    """Return a duration for people. The unit is the largest unit in which the number is at least two, or else seconds:
    "90 s", "12 min", "3 h", "61 days"."""
    seconds = duration.total_seconds()
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
