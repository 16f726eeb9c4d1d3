"""Printable text: whatever a tenant wrote, a terminal obeys none of what the receiver writes."""

import pytest

from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.revision import MAX_STATUS, status_of

HOSTILE = "\x1b[2J\x07\u202e\u200b\r\n\x00\u2028\ud800\x9b31m"


@pytest.mark.parametrize("text", ["", "AWS secret prod/db", "Größe 漢字 é"])
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_each_other_character_becomes_an_escape_sequence() -> None:
    assert printable(HOSTILE) == r"\x1b[2J\x07\u202e\u200b\r\n\x00\u2028\ud800\x9b31m"


def test_status_is_printable_and_one_line_of_limited_length() -> None:
    status = status_of("SourceRefused", f"no version with the label {HOSTILE} " + "word " * 1000)
    assert status.isprintable()
    assert r"\x1b[2J" in status
    assert len(status) == MAX_STATUS
    assert status.endswith("...")
