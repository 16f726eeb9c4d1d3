"""Advice about YAML: a line of the annotation `data`, with its expression quoted so that YAML reads all of it."""

import re

_ASSIGNMENT = re.compile(r"\s*(?P<key>[-._A-Za-z0-9]{1,253})\s*=\s*(?P<expression>\S.*?)\s*")
_LINE = re.compile(r"\s*(?P<key>[-._A-Za-z0-9]{1,253})\s*:\s+(?P<expression>\S.*?)\s*")
MAX_LINE = 160  # characters; a longer line is not repeated in a message


def quoted_line(text: str, line: int) -> str | None:
    """Return line number ``line`` (from 0) of ``text`` with its expression in quotes, or None if that is no advice for
    this line."""
    lines = text.splitlines()
    match = _LINE.fullmatch(lines[line]) if line < len(lines) else None
    if match is None or len(lines[line]) > MAX_LINE:
        return None
    first, last = match["expression"][0], match["expression"][-1]
    if first in "|>" or (first in "'\"" and first == last):
        return None  # it is quoted already, or a text of several lines
    return f"{match['key']}: {quoted(match['expression'])}"


def line_of_assignment(text: str) -> str | None:
    """Return the first line of ``text`` as YAML if it is `KEY=expression`, or otherwise None."""
    lines = text.splitlines()
    match = _ASSIGNMENT.fullmatch(lines[0]) if lines and len(lines[0]) <= MAX_LINE else None
    return f"{match['key']}: {match['expression']}" if match else None


def quoted(expression: str) -> str:
    """Return an expression as a YAML scalar in quotes."""
    if '"' in expression or "\\" in expression:
        return "'" + expression.replace("'", "''") + "'"
    return f'"{expression}"'
