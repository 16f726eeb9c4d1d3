"""Blank values. Some tools write a blank value if they have no value to store."""

from keyturn_receiver.core.json_text import BOM

_BOM = BOM.encode()
_VOID = frozenset({b"", b"null", b'""', b"[]"})  # `jsonencode(null)` of Terraform is the text `null`
_MAX_VOID = 64  # bytes; longer JSON, such as `[]` with many blanks inside, is not recognized


def is_blank(value: bytes) -> bool:
    """Return whether a value is empty, or holds only blanks, line breaks and a byte order mark."""
    return not value.removeprefix(_BOM).strip()


def is_void(value: bytes) -> bool:
    """Return whether a value is blank, or is JSON that holds nothing: null, an empty text or an empty list."""
    bare = value.removeprefix(_BOM).strip()
    return not bare or (len(bare) <= _MAX_VOID and b"".join(bare.split()) in _VOID)
