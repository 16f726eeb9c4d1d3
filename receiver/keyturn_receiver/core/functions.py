"""The functions that an expression can call. They are JMESPath's own functions and some others that credentials need.

The names and the meanings of `lower`, `replace`, `split`, `trim` and `upper` are those of JMESPath Community
(https://jmespath.site/main/). ADR 22 has the reasons for the names of the other functions.
"""

import base64
import binascii
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from jmespath.functions import REVERSE_TYPES_MAP, TYPES_MAP, Functions, signature

from keyturn_receiver.core.json_text import (
    BOM,
    MalformedJson,
    Unusable,
    UnusableValue,
    parse,
    text_of,
    write,
)

# The library compares the names of Python's types, so it needs the names of the types Number and QuotedJson, too.
# "binary" is a type that only Keyturn has: the type of a SecretBinary, and of bytes from base64_decode().
_PYTHON_TYPES: Mapping[str, tuple[str, ...]] = {
    **REVERSE_TYPES_MAP,
    "number": (*REVERSE_TYPES_MAP["number"], "Number"),
    "string": (*REVERSE_TYPES_MAP["string"], "QuotedJson"),
    "binary": ("bytes",),
}
_TYPE_NAMES: Mapping[str, str] = {**TYPES_MAP, "Number": "number", "QuotedJson": "string", "bytes": "binary"}

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_URL_SAFE = str.maketrans("-_", "+/")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

_TEXT: Any = {"types": ["string", "number", "boolean"]}  # a number counts as its digits
_BYTES: Any = {"types": ["string", "number", "boolean", "binary"]}
_STRING: Any = {"types": ["string"]}

# Names that other tools give to these functions, in lower case. A message about a function that does not exist advises
# Keyturn's name.
SYNONYMS = {
    "b64enc": "base64_encode", "base64": "base64_encode", "b64encode": "base64_encode", "base64encode": "base64_encode",
    "b64dec": "base64_decode", "b64decode": "base64_decode", "base64decode": "base64_decode",
    "urlquery": "url_encode", "urlencode": "url_encode", "uri_encode": "url_encode", "encodeuricomponent": "url_encode",
    "urldecode": "url_decode", "unquote": "url_decode",
    "fromjson": "from_json", "parse_json": "from_json", "json_decode": "from_json", "tojson": "to_json",
    "json_encode": "to_json", "quote": "to_json", "tostring": "to_string", "concat": "join", "printf": "join",
    "tolower": "lower", "toupper": "upper", "strip": "trim", "default": "not_null", "coalesce": "not_null",
}  # fmt: skip


class EvaluationError(Exception):
    """An expression has no usable result. The text says why, and quotes no value."""


class NothingSelected(EvaluationError):
    """An expression selects nothing: the property that it names is missing or null."""

    def __init__(
        self,
        why: str = "there is no such property, or it is null: correct the expression, or add the property in AWS",
    ) -> None:
        super().__init__(why)


class KeyturnFunctions(Functions):
    """The functions that an expression can call."""

    def _get_allowed_pytypes(self, types: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
        pairs = [kind.partition("-")[::2] for kind in types]
        allowed = [name for kind, _ in pairs for name in _PYTHON_TYPES[kind]]
        return allowed, [_PYTHON_TYPES[inner] for _, inner in pairs if inner]

    def _convert_to_jmespath_type(self, python_type: str) -> str:
        return _TYPE_NAMES.get(python_type, "unknown")

    @signature({"types": []})
    def _func_type(self, value: object) -> str:
        _check(value)
        return self._convert_to_jmespath_type(type(value).__name__)

    @signature({"types": []})
    def _func_to_string(self, value: object) -> str:
        return text_of(value)

    @signature({"types": []})
    def _func_to_json(self, value: object) -> str:
        return write(value)

    @signature({"types": ["expref"]}, {"types": ["array"]})
    def _func_map(self, expref: Any, elements: list[object]) -> list[object]:
        return [expref.interpreter.visit_part(expref.expression, element) for element in elements]

    @signature({"types": []})
    def _func_to_number(self, value: object) -> object:
        _check(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        if not isinstance(value, str):
            return value
        if _NUMBER.fullmatch(value):
            return parse(value)  # keeps the digits
        for number in (int, float):  # as in the library, which accepts more texts as numbers than JSON does
            with suppress(ValueError):
                return number(value)
        return None

    @signature(_STRING)
    def _func_from_json(self, text: str) -> object:
        try:
            return parse(text.removeprefix(BOM))
        except MalformedJson as error:
            raise EvaluationError(f"from_json() gets a text that is not JSON ({error}): correct it in AWS") from None

    @signature(_BYTES)
    def _func_url_encode(self, value: str | float | bool | bytes) -> str:
        return urllib.parse.quote(to_bytes(value), safe="")

    @signature(_STRING)
    def _func_url_decode(self, text: str) -> str | bytes:
        if fault := _PERCENT.search(text):
            raise EvaluationError(
                f"url_decode() gets a text whose character number {fault.start() + 1} is a % without two hexadecimal"
                " digits: correct it in AWS"
            )
        return _from_bytes(urllib.parse.unquote_to_bytes(to_bytes(text)))

    @signature(_BYTES)
    def _func_base64_encode(self, value: str | float | bool | bytes) -> str:
        return base64.b64encode(to_bytes(value)).decode()

    @signature(_STRING)
    def _func_base64_decode(self, text: str) -> str | bytes:
        """Decode either alphabet of RFC 4648, with or without padding, and with or without line breaks."""
        digits = "".join(text.split()).translate(_URL_SAFE)
        bare = digits.rstrip("=")
        padding = len(digits) - len(bare)
        fault = _NOT_BASE64.search(bare)
        if fault or len(bare) % 4 == 1 or (padding and (len(digits) % 4 or padding > 2)):
            where = f"its character number {fault.start() + 1}, without blanks, is none" if fault else "its end is cut"
            raise EvaluationError(f"base64_decode() gets a text that is not base64 ({where}): correct it in AWS")
        return _from_bytes(binascii.a2b_base64(bare + "=" * (-len(bare) % 4)))

    @signature(_TEXT)
    def _func_lower(self, value: str | float | bool) -> str:
        return text_of(value).lower()

    @signature(_TEXT)
    def _func_upper(self, value: str | float | bool) -> str:
        return text_of(value).upper()

    @signature(_TEXT)
    def _func_trim(self, value: str | float | bool) -> str:
        return text_of(value).strip()

    @signature(_STRING, _STRING, _STRING)
    def _func_replace(self, text: str, old: str, new: str) -> str:
        return text.replace(_not_empty("replace", old), new)

    @signature(_STRING, _STRING)
    def _func_split(self, text: str, separator: str) -> list[str]:
        return text.split(_not_empty("split", separator))


def arity_fault(name: str, arguments: int) -> str | None:
    """Return what is wrong with a call of the function ``name`` with this number of arguments, or None."""
    takes = KeyturnFunctions.FUNCTION_TABLE[name]["signature"]
    variadic = bool(takes) and takes[-1].get("variadic", False)
    if arguments == len(takes) or (variadic and arguments > len(takes)):
        return None
    least = "at least " if variadic else ""
    return f"{name}() takes {least}{len(takes)} argument{'s' * (len(takes) != 1)}, and gets {arguments}"


def _check(value: object) -> None:
    if isinstance(value, Unusable):
        raise UnusableValue(value.why)


def to_bytes(value: object) -> bytes:
    """Return bytes unchanged, a text as UTF-8, and any other value as compact JSON.

    Raises EvaluationError if the text cannot be encoded as UTF-8. Raises the errors of ``write``, too.
    """
    try:
        return value if isinstance(value, bytes) else text_of(value).encode()
    except UnicodeEncodeError:
        raise EvaluationError("it holds half a surrogate pair, which is not text: correct the value in AWS") from None


def _from_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _not_empty(function: str, text: str) -> str:
    if not text:
        raise EvaluationError(f"{function}() looks for an empty text: give it the text to look for")
    return text
