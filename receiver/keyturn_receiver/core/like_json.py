"""Pattern of texts that were meant to be JSON, but are not JSON.

Such a text is an error, because a Secret with the whole text under one key would be of no use. A password that begins
with a bracket must not be taken for such a text, so a bracket at the beginning is not enough for a match. A test checks
that the pattern matches fewer than ten of 200,000 random passwords of 32 printable characters.
"""

import re

# Invisible characters that may be in front of pasted text, and a byte order mark that was decoded as Latin-1.
_INVISIBLE = " \t\r\n\0\v\f\x85\xa0\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff\u00ef\u00bb\u00bf"

_BLANK = r"(?:\s|\\[nrt])*+"  # a line break may have become a backslash and a letter
_CURLY = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\xab\xbb\u2039\u203a"  # double, single, and guillemets
_AFTER = r"(?:\s|\\[nrt]|[:,\]}=]|\Z)"
# A text in quotes of any kind. After it comes a character that may follow a text in JSON, or the value is cut off
# within the text.
_QUOTED = rf"""
    (?: "(?:[^"\\]|\\.)*+"{_AFTER} | '(?:[^'\\]|\\.)*+'{_AFTER}
      | \\["'][^"'\\]*+(?:\\["']{_AFTER}|\Z)
      | [{_CURLY}][^{_CURLY}"'\n]*+(?:[{_CURLY}"']{_AFTER}|\Z)
      | ["'][\w $./@:+-]*+\Z )"""
# After the `]` of a faulty list, there may be blanks, commas and more `]`. Then comes a quote, an opening bracket or
# brace, a NUL character or the end of the value.
_END = r"""[\s,\]]*+(?:["'`\[{\0]|\Z)"""
# `{SSHA}x`, `{{ x }}` and `{broken` are not objects.
_OBJECT = rf"""
    \{{{_BLANK}
    (?: {_QUOTED} | // | /\* | ,\s*["'}}] | \}}(?:[\s"'`,;\[{{\0]|//|\Z) | \Z
      | [A-Za-z_$][\w$-]*+\s*(?: :(?:[\s"'\[{{{_CURLY}]|\Z|(?=.*[\]}}]\s*+["']?\s*+\Z)) | =\s*["'{_CURLY}] ) )"""
# `[client]`, `[[servers]]` and `[::1]:80` are not lists.
_LIST = rf"""
    \[(?:{_BLANK}\[)*+{_BLANK}
    (?: {_OBJECT} | {_QUOTED} | \]{_END} | \Z
      | (?:-?\d[\d.eE+-]*+|true|false|null|undefined|NaN|-?Infinity|None|True|False)\s*
        (?: ,\s*(?:["'\[{{\],\d-]|[tfnuNTFI]|\Z) | \]{_END} | \Z ) )"""
# Quotes that a shell left over, or the fence of a block of code, may come first.
_LIKE_JSON = re.compile(rf"(?:`{{3,}}\w*\s*)?(?:[\"'{_CURLY}]?{_OBJECT}|{_LIST})", re.VERBOSE | re.DOTALL)


def is_like_json(text: str) -> bool:
    """Return whether a text that is not JSON was meant to be a JSON object or list. The check takes a time that is
    linear in the length of the text."""
    return _LIKE_JSON.match(text.lstrip(_INVISIBLE)) is not None
