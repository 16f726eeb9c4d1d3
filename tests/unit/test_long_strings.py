"""Long strings in JSON become empty while the JSON arrives, wherever the network cuts it. The rest stays as it is."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.cluster import long_strings
from keyturn_receiver.cluster.long_strings import SHORT_TEXT, LongText, _StringFilter

TEXTS = st.text(st.sampled_from('ab"\\<{}[],:\n\u202eé'), max_size=30)
DOCUMENTS = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXTS, each, max_size=4),
    max_leaves=12,
)


def pieces(content: bytes, cuts: list[int]) -> Iterator[bytes]:
    positions = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    for begin, end in pairwise(positions):
        yield content[begin:end]


def dropped(before: Any, after: Any) -> list[str]:
    """Return the strings of ``before`` that are empty in ``after``. Fail if anything else differs."""
    if isinstance(before, str):
        if before == after:
            return []
        assert after == ""
        return [before]
    assert type(before) is type(after)
    if isinstance(before, list):
        assert len(before) == len(after)
        return [each for pair in zip(before, after, strict=True) for each in dropped(*pair)]
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        return [each for key in before for each in dropped(before[key], after[key])]
    assert before == after
    return []


def filtered(content: bytes, cuts: list[int], limit: int) -> bytes:
    text = _StringFilter(limit)
    for piece in pieces(content, cuts):
        text.feed(piece)
    return text.content()


@given(DOCUMENTS, st.lists(st.integers(0, 500), max_size=20), st.booleans())
def test_text_without_long_strings_stays_as_it_is(document: Any, cuts: list[int], is_ascii: bool) -> None:
    content = json.dumps(document, ensure_ascii=is_ascii).encode()
    assert filtered(content, cuts, 1000) == content


@given(st.lists(TEXTS, max_size=8), st.lists(st.integers(0, 500), max_size=30), st.integers(0, 20))
def test_long_strings_alone_are_dropped(texts: list[str], cuts: list[int], limit: int) -> None:
    content = json.dumps({f"k{n}": text for n, text in enumerate(texts)}, ensure_ascii=False).encode()
    after = filtered(content, cuts, max(4, limit))  # a limit of at least 4 keeps the keys, which have two bytes
    for each in dropped(json.loads(content), json.loads(after)):
        assert len(json.dumps(each, ensure_ascii=False).encode()) - 2 > max(4, limit)


@pytest.mark.parametrize("character", ["<", '"', "\\", "a", "\u202e"])
def test_megabyte_of_any_character_is_dropped_and_its_neighbours_stay(character: str) -> None:
    content = json.dumps({"a": "x", "long": character * 1_300_000, "b": ["y"]})
    if character == "<":
        content = content.replace("<", "\\u003c")  # as Kubernetes writes it
    text = LongText(4096)
    for piece in pieces(content.encode(), list(range(0, len(content), 65_536))):
        text.feed(piece)
    assert json.loads(text.content()) == {"a": "x", "long": "", "b": ["y"]}


def test_short_text_is_never_searched_for_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_strings, "_StringFilter", None)
    content = json.dumps(["x" * (SHORT_TEXT - 10)]).encode()
    text = LongText(10)
    for piece in pieces(content, [100, 1000]):
        text.feed(piece)
    assert text.content() == content
