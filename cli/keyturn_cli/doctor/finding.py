"""Findings: what a check has to say, how serious it is, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

_SHOWN = 3  # names in one text


class Level(StrEnum):
    """How serious a finding is. SKIPPED means that a fact could not be read, so nothing is known."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``remedy`` says what to do, and is empty if nothing is to be done."""

    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be read. ``why`` says why, and ``remedy`` what would let it be read.

    ``is_fault`` is true if that is a fault of the installation, such as an object that is gone.
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
    """Return the finding that something is as it should be."""
    return Finding(Level.OK, text)


def skipped(subject: str, unknown: Unknown) -> Finding:
    """Return the finding that ``subject`` was not checked, or that it is broken if that is why it cannot be read."""
    if unknown.is_fault:
        return Finding(Level.ERROR, f"{subject}: {unknown.why}", unknown.remedy)
    return Finding(Level.SKIPPED, f"{subject}: not checked, because {unknown.why}", unknown.remedy)


def warning(text: str, remedy: str) -> Finding:
    """Return a finding that needs attention, though rotations arrive."""
    return Finding(Level.WARNING, text, remedy)


def error(text: str, remedy: str) -> Finding:
    """Return a finding that keeps rotations from arriving somewhere."""
    return Finding(Level.ERROR, text, remedy)


def some(names: Iterable[str]) -> str:
    """Join names for a text. Only the first few are named, and the others are counted."""
    names = sorted(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 Secret" or "2 Secrets"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def length(duration: timedelta) -> str:
    """Return a duration for people, in the largest unit that does not make it less than two: "90 s", "12 min", "3 h",
    "61 days"."""
    seconds = duration.total_seconds()
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
