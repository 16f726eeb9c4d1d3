"""Messages about an expression that is wrong. They give the place of the fault, and the line to write instead."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence

from jmespath.exceptions import JMESPathTypeError, ParseError

from keyturn_receiver.core.advised_lines import constant_line, property_line, quoted, reference_line, text_literal
from keyturn_receiver.core.functions import SYNONYMS, EvaluationError, KeyturnFunctions, NothingSelected, arity_fault
from keyturn_receiver.core.json_text import Unusable

# A host name, a URL or a name with spaces. Such a text may also be the name of a property.
_NAME_LIKE = re.compile(r"[\w$.:/@%+~\- ]+")
# A text that is not meant as an expression: it has no bracket, no double quote and no operator.
_BARE_TEXT = re.compile(r"""(?!')(?=.*\w)[^][(){}|"`<>]+(?<!')""")
_OPERATOR = re.compile(r"\s[=!&]|[=&]\s|[=!]=(?!=*\Z)|&&")
# Operators with an operand that is evaluated on only a part of the document.
_INNER = re.compile(r"[*|&]|\[[]?]|\.\s*[\[{]|[\]})]\s*\.")
_PATH = re.compile(r'"?[A-Za-z_][\w.:/ -]*"?')  # a path that its author may have meant as a text
# A bracket, or a quoted text, even without its closing quote. The pattern matches at every quote, so a search takes
# linear time.
_QUOTED = re.compile(r"""(?P<quote>['"`])(?:(?!(?P=quote))[^\\]|\\.)*(?P<end>(?P=quote)?)|[][(){}]""", re.DOTALL)
_PAIRS = {")": "(", "]": "[", "}": "{"}
_MAX_ADVICE = 80  # an advice repeats at most this many characters of an expression
_MAX_LINE = 160  # an advice gives at most this many characters of a line

_TYPES = {
    "string": "a text", "number": "a number", "boolean": "a boolean", "array": "a list", "object": "an object",
    "binary": "binary data", "array-string": "a list of texts", "array-number": "a list of numbers",
    "expref": "an expression with &",
}  # fmt: skip


def constant_advice(expression: str, key: str) -> str:
    """Return how to write the expression as a constant. Return an empty text if its author cannot have meant a
    constant, or if it is too long for a message.

    A constant needs two pairs of quotes: YAML removes the outer pair, and JMESPath needs the inner pair.
    """
    text = expression.strip()
    if len(text) > _MAX_ADVICE or not _PATH.fullmatch(text):
        return ""
    return f", or, for a constant, write {constant_line(key, text.strip(chr(34)))}"


def text_advice(expression: str, key: str, properties: Mapping[str, object]) -> str:
    """Return advice about texts in double quotes that name no property. Return an empty text if the expression has no
    such texts.

    In JMESPath, a text in double quotes is a name.
    """
    first = ""
    corrected, end = "", 0
    for match in _QUOTED.finditer(expression):
        is_text = match["quote"] == '"' and match["end"] and not expression[match.end() :].lstrip().startswith(":")
        if is_text and not expression[: match.start()].rstrip().endswith("."):
            text = json.loads(match[0])
            if properties.get(text) is None:
                first = first or match[0]
                corrected, end = corrected + expression[end : match.start()] + text_literal(text), match.end()
    if not first:
        return ""
    line = f"{key}: {quoted(corrected + expression[end:])}"
    literal = text_literal(json.loads(first))
    advice = f"; if {first:.80} is meant as a text, it needs single quotes, as in {literal:.80}"
    return advice if _INNER.search(expression) or len(line) > _MAX_LINE else f"{advice}: write {line}"


def type_error(error: JMESPathTypeError) -> EvaluationError:
    """Return the error about a function that got a value of a wrong type."""
    value = error.current_value
    takes = " or ".join(_TYPES.get(kind, kind) for kind in error.expected_types)
    if isinstance(value, Unusable):
        return EvaluationError(value.why)
    if value is None:
        return NothingSelected(
            f"{error.function_name}() takes {takes}, and gets a property that is not there, or is null: correct the"
            " expression, or add the property in AWS"
        )
    if isinstance(value, bytes):
        advice = "it is binary: encode it with base64_encode()"
    else:
        advice = "convert it with to_string() or to_number()"
    return EvaluationError(f"{error.function_name}() takes {takes}, and got a value of the wrong type: {advice}")


def call_fault(name: str, arguments: int) -> str | None:
    """Return what is wrong with a call of the function ``name`` with this number of arguments, or None."""
    known = KeyturnFunctions.FUNCTION_TABLE
    if name in known:
        fault = arity_fault(name, arguments)
        return f"the function {fault}" if fault else None
    lower = name.lower()
    near = SYNONYMS.get(lower) or next(iter(difflib.get_close_matches(lower[:64], known, 1, 0.76)), None)
    advice = f"did you mean {near}()?" if near else f"use one of {', '.join(sorted(known))}"
    return f"the function {name!r:.80} is not known: {advice}"


def is_bare_text(text: str) -> bool:
    """Return whether a text that is not a valid expression may be meant as a constant."""
    is_short = len(text) <= _MAX_ADVICE and text.isprintable()
    return is_short and bool(_BARE_TEXT.fullmatch(text)) and not _OPERATOR.search(text)


def syntax_advice(expression: str, key: str, aliases: Sequence[str], error: Exception) -> str:
    """Return the rest of the message about an expression that cannot be parsed: the place of the fault, and what to
    do."""
    text = expression.strip()
    constant = constant_line(key, text)
    if line := reference_line(key, text, aliases) if len(text) <= _MAX_ADVICE else None:
        return f": write {line}" + (f", or, for a constant, write {constant}" if is_bare_text(text) else "")
    if is_bare_text(text):
        advice = [f"a constant needs single quotes, as in {constant}"]
        if _NAME_LIKE.fullmatch(text):
            line = property_line(key, text, aliases)
            advice.append(f"a property with special characters needs double quotes, as in {line}")
        if re.fullmatch(r"[A-Za-z_][\w. -]*", text):
            advice.reverse()
        return ": " + ", and ".join(advice)
    if fault := _bracket_fault(expression):
        return f": {fault}"
    if not isinstance(error, ParseError):
        return ": its brackets are nested too deeply"
    at = min(error.lex_position, len(expression))
    if not expression[at:].strip():
        return ": it ends too early"
    return f" at {expression[at]!r}, character {at + 1}"


def _bracket_fault(expression: str) -> str | None:
    """Return a message about a bracket or quote that has no partner, or None."""
    opened: list[tuple[str, int]] = []
    for match in _QUOTED.finditer(expression):
        token, at = match[0], match.start() + 1
        if token in tuple("([{"):
            opened.append((token, at))
        elif token in _PAIRS:
            if not opened:
                return f"the {token!r} at character {at} closes nothing: remove it, or open it before"
            bracket, opened_at = opened.pop()
            if bracket != _PAIRS[token]:
                return f"the {bracket!r} at character {opened_at} is not closed before the {token!r} at character {at}"
        elif not match["end"]:
            return f"the quote {match['quote']} at character {at} is not closed"
    if opened:
        return f"the {opened[-1][0]!r} at character {opened[-1][1]} is not closed"
    return None
