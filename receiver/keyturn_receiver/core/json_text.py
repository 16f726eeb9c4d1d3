"""JSON text. Parses untrusted JSON and writes it again. Each number keeps its digits.

Python's own parser turns 1.10 into 1.1, and refuses numbers of many digits. If two properties have the same name,
Python's parser returns only the last. Its error messages may quote the text.
"""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

MAX_DEPTH = 100  # levels of objects and lists that are parsed; only deeper parts are unusable
BOM = "\ufeff"

_MAX_DIGITS = 4300  # Python's own limit: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits

# A bracket, or a string, even without its closing quote. The pattern matches at every quote, so a search takes linear
# time.
_TOKEN = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[\]{}]', re.DOTALL)
_CONSTANT = re.compile(r'"(?:[^"\\]+|\\.)*"?|(-?Infinity|NaN)', re.DOTALL)

# The key is the beginning of a message of Python's parser, and the value says the same without quoting the text.
_FAULTS = {
    "Invalid control character": "a string has a line break or another control character in it, which JSON writes as"
    " \\n, \\r, \\t or \\u0000",
    "Unterminated string": "a string has no end",
    "Expecting property name": "a property's name in double quotes is expected",
    "Illegal trailing comma": "a comma has nothing after it",
    "Expecting ','": "a comma or a closing bracket is expected",
    "Expecting ':'": "a colon is expected",
    "Expecting value": "a value is expected, and a text needs double quotes",
    "Extra data": "the JSON has ended, and more text follows",
    "Invalid \\escape": "a backslash escapes nothing: JSON writes a backslash as two",
    "Invalid \\u": "\\u needs four hexadecimal digits",
}


class MalformedJson(ValueError):
    """A text is not JSON. The message says why and where, and quotes nothing."""


class UnusableValue(ValueError):
    """A value, or a result of an expression, cannot be used, although the text is JSON. The message says why. It may
    quote the expression, but never the value."""


class Number(float):
    """A number that Python might write with other digits. ``text`` has its original digits."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "Number":
        """Return the number that is written as ``text`` in JSON. It counts as infinite if it is too large for a
        float."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class Unusable:
    """Placeholder for a part of a value that cannot be used. Any use of the placeholder, except passing it on, raises
    UnusableValue.

    Each such part has its own placeholder. If two lists held the same placeholder, Python would consider the lists
    equal without calling ``__eq__``.
    """

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def get(self, _name: str) -> NoReturn:
        """Raise UnusableValue, as any other use does."""
        raise UnusableValue(self.why)

    def __eq__(self, _other: object) -> NoReturn:
        raise UnusableValue(self.why)

    __hash__ = object.__hash__


_REPEATED = "it is there twice under the same name: keep one of the two in AWS"
_TOO_DEEP = f"it is nested too deeply, in more than {MAX_DEPTH} objects and lists: make it flatter in AWS"


def parse(text: str) -> object:
    """Parse JSON as RFC 8259 defines it. Raises MalformedJson.

    A property whose name occurs twice becomes Unusable. So does an object or list that is nested too deeply. An
    expression that selects another part still works.
    """
    shallow, decoder = text, _DECODER
    cuts: list[tuple[int, int]] = []
    if text.count("[") + text.count("{") > MAX_DEPTH:
        mark = _absent_number(text)
        decoder = _decoder(mark)
        shallow, cuts = _without_the_deep(text, mark)
    try:
        return decoder.decode(shallow)
    except json.JSONDecodeError as error:
        at, fault = error.pos, _fault(error)
    except _ConstantFound:
        at = next(match.start(1) for match in _CONSTANT.finditer(shallow) if match.group(1))
        fault = "NaN and Infinity are not JSON"
    at += sum(length for cut, length in cuts if cut < at)
    raise MalformedJson(f"{place(text, at)}: {fault}")


def parse_literal(text: str) -> object:
    """Parse JSON from an expression. Each number keeps its digits. Raises ValueError."""
    return _LITERAL_DECODER.decode(text)


def write(value: object) -> str:
    """Write compact JSON. Each number keeps its digits. Raises UnusableValue."""
    parts: list[str] = []
    try:
        _write(value, parts.append)
    except RecursionError:
        raise UnusableValue(_TOO_DEEP) from None
    return "".join(parts)


def text_of(value: object) -> str:
    """Return a text as it is, and the compact JSON of any other value. Raises UnusableValue."""
    return value if isinstance(value, str) else write(value)


def place(text: str, position: int) -> str:
    """Return the line and the column of a position in a text, for people."""
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}"


class _ConstantFound(Exception):
    """The parser has met NaN or Infinity, which Python accepts and JSON does not have."""


def _refuse_constant(_name: str) -> NoReturn:
    raise _ConstantFound


def _integer(text: str) -> int | Number:
    return Number(text) if len(text) > _MAX_DIGITS or text == "-0" else int(text)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                made[name] = Unusable(_REPEATED)
            names.add(name)
    return made


def _decoder(mark: str = "") -> json.JSONDecoder:
    """Return a decoder of JSON. It reads the number ``mark`` as an object or list that is nested too deeply."""

    def number(text: str) -> object:
        return Unusable(_TOO_DEEP) if text == mark else Number(text)

    return json.JSONDecoder(
        object_pairs_hook=_object, parse_float=number, parse_int=_integer, parse_constant=_refuse_constant
    )


_DECODER = _decoder()
_LITERAL_DECODER = json.JSONDecoder(parse_float=Number, parse_int=_integer)
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _absent_number(text: str) -> str:
    """Return a number, as text, that does not occur in ``text``. It is short, because only a very long text contains
    all short numbers."""
    mark = "0E+1"
    while mark in text:
        mark = mark.replace("+", "+0")
    return mark


def _without_the_deep(text: str, mark: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the text with ``mark`` in place of each object or list that is nested too deeply. Also return the
    positions in the new text at which the length changed. Each position comes with the number of characters that the
    new text lost there (negative if it gained characters)."""
    shallow = ""
    cuts: list[tuple[int, int]] = []
    depth = begin = kept = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                begin = token.start()
        elif token[0] in "]}":
            if depth == MAX_DEPTH + 1:
                shallow += text[kept:begin]
                kept = token.end()
                # Blanks separate the number from digits beside it. Such digits are a fault in the text, and the parser
                # must still find this fault.
                cuts += [(len(shallow), -1), (len(shallow) + 1, kept - begin - len(mark) - 1)]
                shallow += f" {mark} "
            depth -= 1
    if depth > MAX_DEPTH:
        raise MalformedJson(f"{place(text, len(text))}: {depth} brackets are not closed")
    return shallow + text[kept:], cuts


def _fault(error: json.JSONDecodeError) -> str:
    before = error.doc[: error.pos].rstrip(" \t\r\n")
    if before.endswith(",") and error.doc[error.pos : error.pos + 1] in ("}", "]"):
        return _FAULTS["Illegal trailing comma"]
    return next((fault for beginning, fault in _FAULTS.items() if error.msg.startswith(beginning)), "it is not JSON")


def _number_text(value: int | float) -> str:
    """Return the text of a Python number. Raises UnusableValue if the number is not finite, or has too many digits."""
    with suppress(ValueError):  # an integer has too many digits (sys.set_int_max_str_digits)
        if isinstance(value, int) or math.isfinite(value):
            return repr(value)
    raise UnusableValue("a calculation has a result that is too large for a number")


def _write(value: object, out: Callable[[str], object]) -> None:
    if isinstance(value, str):
        out(_ENCODER.encode(value))
    elif value is None:
        out("null")
    elif isinstance(value, bool):
        out("true" if value else "false")
    elif isinstance(value, Number):
        out(value.text)
    elif isinstance(value, int | float):
        out(_number_text(value))
    elif isinstance(value, dict):
        separator = "{"
        for name, part in value.items():
            out(f"{separator}{_ENCODER.encode(name)}:")
            _write(part, out)
            separator = ","
        out("}" if value else "{}")
    elif isinstance(value, list):
        separator = "["
        for part in value:
            out(separator)
            _write(part, out)
            separator = ","
        out("]" if value else "[]")
    elif isinstance(value, bytes):
        raise UnusableValue("binary data cannot be a part of JSON: use base64_encode()")
    else:
        raise UnusableValue(value.why if isinstance(value, Unusable) else "it is an expression, and not a value")
