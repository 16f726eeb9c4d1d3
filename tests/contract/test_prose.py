"""The prose of the documentation pages: no page contains an idiom that a reader would have to read twice."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IDIOMS = "anew|for ever|under way|all the same|tells? of|(?<!there )is none|for want of|should it be|whoever"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/*.md")]
MADE = "benchmark.md"  # a run of the benchmark writes this page


def prose(page: str) -> str:
    """Return the text of a page without its code blocks and inline code."""
    without_blocks = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", without_blocks)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != MADE], ids=lambda page: page.name)
def test_page_has_no_idiom_that_must_be_read_twice(page: Path) -> None:
    assert re.findall(rf"[^\n]*\b(?:{IDIOMS})\b[^\n]*", prose(page.read_text()), re.IGNORECASE) == []


def test_prose_leaves_out_code() -> None:
    assert prose("a `under way` b\n```\nanew\n```\nc") == "a  b\n\nc"
