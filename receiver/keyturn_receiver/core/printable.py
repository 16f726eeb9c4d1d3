"""Printable text. Tenants write some of what the receiver repeats, and people read it in terminals."""


def printable(text: str) -> str:
    """Return ``text`` with an escape sequence, such as ``\\x1b``, for each character that a terminal might obey.

    Such characters are control characters, line breaks, invisible characters, and those that reverse the direction of
    text.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
