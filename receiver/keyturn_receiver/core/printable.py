"""Printable text. Tenants write some of the texts that the receiver repeats, and people read these texts in
terminals."""


def printable(text: str) -> str:
    """Return ``text`` with an escape sequence, such as ``\\x1b``, for each character that could change what a terminal
    shows.

    Such characters are control characters, line breaks, invisible characters, and those that reverse the direction of
    text.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
