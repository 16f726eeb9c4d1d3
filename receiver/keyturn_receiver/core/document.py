"""Documents. A document is the value of an AWS secret as expressions see it: JSON, text or bytes."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from keyturn_receiver.core.expression import Extent, extent_of, is_property
from keyturn_receiver.core.json_text import BOM, MalformedJson, UnusableValue, parse, place
from keyturn_receiver.core.like_json import is_like_json

_WHITESPACE = " \t\r\n"  # of JSON
_WHOLE = "@"  # the expression that selects the whole value
_HEAD = 512  # bytes; the beginning of a value shows whether the value was meant to be JSON


class QuotedJson(str):
    """The text of a JSON string that holds a JSON object. ``whole`` is the expression that selects the whole text.

    The function from_json() of expressions returns the object. An expression that looks for a property in the text
    fails with UnusableValue.
    """

    __slots__ = ("whole",)
    whole: str

    def __new__(cls, text: str, whole: str = _WHOLE) -> "QuotedJson":
        """Return the text, with the expression ``whole`` that selects it."""
        quoted = super().__new__(cls, text)
        quoted.whole = whole
        return quoted

    @property
    def fault(self) -> str:
        """What is wrong with the value."""
        return (
            "the value is JSON inside a quoted text: store it in AWS without the outer quotes, or use"
            f" from_json({self.whole})"
        )

    def get(self, name: str) -> NoReturn:
        """Raise UnusableValue, because a text has no properties."""
        part = name if is_property(name) else json.dumps(name)
        raise UnusableValue(f"{self.fault}, as in from_json({self.whole}).{part}")


@dataclass(frozen=True, slots=True)
class Document:
    """The value that expressions select from.

    ``raw`` is the value as AWS returned it. ``content`` is the parsed value if the value is a JSON object or list. It
    is a QuotedJson if the value is a JSON string that holds a JSON object. Otherwise ``content`` is the value as text,
    or as bytes if it is not text. So a password of digits stays a text. ``fault`` says what is wrong with a value that
    was meant to be JSON. It is empty for any other value, and for QuotedJson.
    """

    raw: str | bytes = field(repr=False)
    content: object = field(repr=False)
    fault: str = ""

    @property
    def is_json(self) -> bool:
        """Whether the value is a JSON object or list."""
        return isinstance(self.content, dict | list)

    def content_for(self, whole: str) -> object:
        """Return ``content``. If it is a QuotedJson, its messages advise the expression ``whole`` for the whole
        value."""
        return QuotedJson(self.content, whole) if isinstance(self.content, QuotedJson) else self.content

    def fault_for(self, whole: str) -> str:
        """Return ``fault``. If its advice ends with the expression @ for the whole value, the result ends with the
        expression ``whole`` instead."""
        return self.fault.removesuffix(_WHOLE) + whole if self.fault.endswith(_WHOLE) else self.fault


def read_document(value: str | bytes) -> Document:
    """Parse a value. A byte order mark in front of JSON is ignored."""
    if isinstance(value, bytes):
        if fault := _encoding_fault(value):
            return Document(value, value, fault)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return Document(value, value)
    else:
        text = value
    bare = text.removeprefix(BOM)
    if not bare.lstrip(_WHITESPACE).startswith(("{", "[")):
        if (quoted := _quoted_json(bare)) is not None:
            return Document(value, quoted)
        return Document(value, text, _fault("line 1, column 1: other characters come first") * is_like_json(text))
    try:
        return Document(value, parse(bare))
    except MalformedJson as error:
        return Document(value, text, _fault(str(error)) * is_like_json(text))


def extent(value: str | bytes) -> Extent:
    """Return the extent of the ``content`` of a value, without parsing the value."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return Extent(len(value), 1)
    # If the value is not JSON, then ``content`` is a text, and in the JSON of a text some characters are escaped.
    quoted = len(json.dumps(text, ensure_ascii=False).encode(errors="surrogatepass"))
    return Extent(quoted, extent_of(text).values)


def _fault(cause: str) -> str:
    return (
        f"the value begins like JSON, but is not JSON ({cause}): correct it in AWS, or take it as it is with the"
        f" expression {_WHOLE}"
    )


def _quoted_json(text: str) -> QuotedJson | None:
    """Return the text in the quotes if ``text`` is a JSON string that holds a JSON object. Return None otherwise."""
    if not text.lstrip(_WHITESPACE).startswith('"'):
        return None
    with suppress(MalformedJson):
        inner = parse(text)
        if isinstance(inner, str) and isinstance(parse(inner), dict):
            return QuotedJson(inner)
    return None


def _encoding_fault(value: bytes) -> str:
    """Return what is wrong with bytes that are JSON but are not encoded as UTF-8. Return an empty text for all other
    bytes."""
    encoding = json.detect_encoding(value)
    if not encoding.startswith("utf-8"):
        head = value[:_HEAD].decode(encoding, errors="replace")
        wide = encoding[: len("utf-16")].upper()
        return _fault(f"it is encoded in {wide}, and JSON is UTF-8") * is_like_json(head)
    try:
        value.decode()
    except UnicodeDecodeError as error:
        before = value[: error.start].decode()
        head = before[:_HEAD] if before else value[:_HEAD].decode("latin-1")
        return _fault(f"{place(before, len(before))}: it is not UTF-8 from here on") * is_like_json(head)
    return ""
