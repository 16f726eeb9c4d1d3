"""Advice about YAML, for a line of the annotation `data` that YAML does not read as its author meant. The advice is the
line to write instead."""

import re
from collections.abc import Sequence

from keyturn_receiver.core.advised_lines import constant_line, property_line, quoted, reference_line
from keyturn_receiver.core.aliases import Scope, scope_of
from keyturn_receiver.core.expression import is_property, validate_expression
from keyturn_receiver.core.expression_advice import is_bare_text

_ASSIGNMENT = re.compile(r"\s*(?P<key>[-._A-Za-z0-9]{1,253})\s*=\s*(?P<expression>\S.*?)\s*")
_LINE = re.compile(r"(?P<key>[-._A-Za-z0-9]{1,253})\s*:\s+(?P<expression>\S.*)")  # a line without outer blanks
_SCALAR = re.compile(r"""'(?:[^']|'')*+'|"(?:[^"\\]|\\.)*+\"""")  # in quotes
_COMMENT = re.compile(r"\s+(?=#)")
_PATTERN = re.compile(r"[*&][\w.*/:-]*[\w/]")  # `*.example.com` is an expression, but seldom meant as one
MAX_LINE = 160  # characters; a longer line is not repeated in a message


def advice_for_line(text: str, line: int, aliases: Sequence[str] = ()) -> str:
    """Return advice on what to write instead of line ``line`` (counted from 0) of ``text``. The advice completes a
    sentence such as 'write the line ...'. It is empty if there is no advice.

    If a quote on an earlier line has no end, the advice is for that line.
    """
    lines = text.splitlines()[: line + 1]
    opened = next((each for each in lines if (match := _match(each)) and _opens_a_quote(match["expression"])), None)
    match = _match(opened or (lines[line] if line < len(lines) else ""))
    if match is None:
        return ""
    expression, comment = _without_comment(match["expression"])
    if expression[0] in "|>" or _SCALAR.fullmatch(expression):
        return ""  # a text of several lines, or quoted already
    return _advice(match["key"], expression, comment, aliases)


def line_of_assignment(text: str) -> str | None:
    """Return the first line of ``text`` as a line of YAML if it has the form `KEY=expression`. Return None
    otherwise."""
    lines = text.splitlines()
    match = _ASSIGNMENT.fullmatch(lines[0]) if lines and len(lines[0]) <= MAX_LINE else None
    return f"{match['key']}: {match['expression']}" if match else None


def _match(line: str) -> re.Match[str] | None:
    return _LINE.fullmatch(line.strip()) if len(line) <= MAX_LINE else None


def _opens_a_quote(expression: str) -> bool:
    return expression[0] in "'\"" and expression.count(expression[0]) == 1


def _without_comment(expression: str) -> tuple[str, str]:
    """Split a text into the expression and the comment after it. The comment keeps the blanks in front of it."""
    for match in _COMMENT.finditer(expression):
        before = expression[: match.start()]
        if before and all(before.count(quote) % 2 == 0 for quote in "'\"`"):
            return before, expression[match.start() :]
    return expression, ""


def _advice(key: str, expression: str, comment: str, aliases: Sequence[str]) -> str:
    if reference := reference_line(key, expression, aliases):
        return f"as in {reference}{comment}"
    if expression == "@" and aliases:  # the expression is not valid if there are several AWS secrets
        return f"as in {key}: {aliases[0]}{comment}"
    if _opens_a_quote(expression):
        return _closed(key, expression[0], expression[1:].strip(), aliases) + comment
    if not validate_expression(expression, key, aliases):
        if not _is_within(expression, aliases):
            return "with the expression in quotes"
        constant = (
            f", or, for a constant, as in {constant_line(key, expression)}" if _PATTERN.fullmatch(expression) else ""
        )
        return f"with the expression in quotes, as in {key}: {quoted(expression)}{comment}{constant}"
    if is_bare_text(expression):
        return f"with two pairs of quotes around a constant, as in {constant_line(key, expression)}{comment}"
    return ""


def _closed(key: str, quote: str, inner: str, aliases: Sequence[str]) -> str:
    """Return the advice about an expression whose opening quote has no closing quote."""
    if inner and not validate_expression(inner, key, aliases) and _is_within(inner, aliases):
        line = f"{key}: {quoted(inner)}"
    elif not is_bare_text(inner) and not is_property(inner):
        return "with each quote closed"
    else:
        line = property_line(key, inner, aliases) if quote == '"' else constant_line(key, inner)
    return f"with each quote closed, as in {line}"


def _is_within(expression: str, aliases: Sequence[str]) -> bool:
    """Return whether a valid expression names only ``aliases``. Without aliases, every expression is allowed."""
    scope = scope_of(expression) if aliases else Scope(frozenset())
    return not scope.whole and scope.names <= set(aliases)
