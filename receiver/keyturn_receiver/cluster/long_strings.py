"""Filter that drops long strings from JSON text. The text arrives piece by piece.

A tenant's object may contain a string of more than a megabyte. In JSON, each character of the string may take six
bytes. The receiver does not need such a string, and parsing the string would block the event loop for a tenth of a
second.
"""

import math
import re

# The possessive quantifiers keep the time linear: a millisecond for 64 KiB of escapes.
_INSIDE = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_CONTENT = re.compile(_INSIDE, re.DOTALL)  # the rest of a string, without its closing quote
_COMPLETE = re.compile(rb'[^"]*+(?:"' + _INSIDE + rb'"[^"]*+)*+', re.DOTALL)  # text up to a string that is not complete
SHORT_TEXT = 64 * 1024  # bytes; a shorter text is kept unchanged, which is the usual case


class LongText:
    """JSON text that arrives in pieces. Strings of more than ``max_string`` bytes are replaced by empty ones, with two
    exceptions.

    A text of at most SHORT_TEXT bytes is kept unchanged. A string that lies within one piece is kept, too.
    """

    def __init__(self, max_string: float) -> None:
        self._text = bytearray()
        self._filter: _StringFilter | None = None
        self._max_string = max_string

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the text."""
        if self._filter:
            self._filter.feed(piece)
            return
        self._text += piece
        if len(self._text) > SHORT_TEXT and self._max_string < math.inf:
            self._filter = _StringFilter(self._max_string)
            self._filter.feed(bytes(self._text))
            self._text.clear()

    def content(self) -> bytes:
        """Return the text without its long strings."""
        return bytes(self._text) if self._filter is None else self._filter.content()


class _StringFilter:
    """Streaming filter. It replaces strings that are too long by empty strings.

    ``limit`` is in bytes of the text. It applies only to strings that span several pieces.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._start: int | None = None  # where the present string begins in ``_kept``; None outside of strings
        self._dropping = False
        self._escaped = False  # whether the last piece ended with a backslash that escapes the next character

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the text."""
        position = 0
        if self._start is not None:
            position = self._feed_string(piece)
            if position > len(piece):
                return
        end = _end(_COMPLETE, piece, position)
        self._kept += piece[position:end]
        if end < len(piece):  # a string begins here
            self._kept += b'"'
            self._start = len(self._kept)
            self._feed_string(piece[end + 1 :])

    def content(self) -> bytes:
        """Return the text without its long strings."""
        return bytes(self._kept)

    def _feed_string(self, piece: bytes) -> int:
        """Take the part of the present string that is in ``piece``. Return the position after the closing quote. If the
        string does not end in this piece, return a number greater than the length of the piece."""
        begin = 1 if self._escaped and piece else 0
        self._escaped = self._escaped and not piece
        if piece.find(b'"', begin) < 0:
            end = len(piece)
            backslashes = end - begin - len(piece[begin:].rstrip(b"\\"))
            self._escaped = self._escaped or backslashes % 2 == 1
        else:
            end = _end(_CONTENT, piece, begin)
            # The piece ends with a backslash, which escapes the first character of the next piece.
            if piece[end : end + 1] == b"\\":
                end, self._escaped = len(piece), True
        if not self._dropping:
            self._kept += piece[:end]
            if len(self._kept) - (self._start or 0) > self._limit:
                del self._kept[self._start :]
                self._dropping = True
        if end < len(piece):
            self._kept += b'"'
            self._start, self._dropping = None, False
        return end + 1


def _end(pattern: re.Pattern[bytes], piece: bytes, position: int) -> int:
    match = pattern.match(piece, position)
    return match.end() if match else position
