"""Blank values. A tool that has nothing to store writes one of them in place of a value."""

from keyturn_receiver.core.json_text import BOM

_BOM = BOM.encode()
_VOID = frozenset({b"", b"null", b'""', b"[]"})  # `jsonencode(null)` of Terraform is the text `null`
_MAX_VOID = 64  # bytes; a value that is longer, because of blanks inside it, is not recognized


def is_blank(value: bytes) -> bool:
    """Return whether a value holds nothing but blanks, line breaks and a byte order mark."""
    return not value.removeprefix(_BOM).strip()


def is_void(value: bytes) -> bool:
    """Return whether a value is blank, or is JSON that holds nothing: null, an empty text or an empty list."""
    bare = value.removeprefix(_BOM).strip()
    return not bare or (len(bare) <= _MAX_VOID and b"".join(bare.split()) in _VOID)
