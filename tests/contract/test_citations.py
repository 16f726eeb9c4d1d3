"""Citations: the links, anchors, paths and decision records that any file cites exist in the tree."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = ("cfg", "go", "json", "md", "py", "sh", "svg", "toml", "tpl", "txt", "yaml", "yml")
FILE = rf"(?:[\w.*-]+/)+[\w.*-]+\.(?:{'|'.join(SUFFIXES)})\b"
CITED = re.compile(rf"(?<![\w/:.$}}<>\"'-]){FILE}")

MADE = ("build/",)  # folders that builds create
FOREIGN = {"CHANGELOG/CHANGELOG-1.35.md"}  # files of other projects

# Documents that are not in the tree, so no file may cite them.
ELSEWHERE = re.compile(r"\bDESIGN\b|\b(?:FAULTS|HOUSE|FIELD|STYLE|PEERS)\.md|\bSTYLE \d")


@cache
def paths() -> tuple[str, ...]:
    """Return the paths of all files in the tree, relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(path for path in listed.splitlines() if (ROOT / path).is_file())


@cache
def texts() -> dict[str, str]:
    """Return the text of every file. Files of past releases are left out, because they cite their own tree."""
    return {
        path: (ROOT / path).read_text(errors="replace") for path in paths() if not path.startswith("tests/released/")
    }


PAGES = [path for path in texts() if path.endswith(".md")]


def anchors(page: str) -> set[str]:
    """Return the anchors of a page. GitHub derives them from the page's headings."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", each)).replace(" ", "-").lower() for each in headings}


def in_the_tree(cited: str) -> bool:
    """Return whether a path exists relative to the root or to any other folder. ``*`` matches any text without a
    slash."""
    pattern = re.escape(re.sub(r"^(\.{1,2}/)+", "", cited).strip("/")).replace(re.escape("*"), "[^/]*")
    return any(re.search(rf"(?:^|/){pattern}(?:/|$)", path) for path in paths())


@pytest.mark.parametrize("page", PAGES)
def test_link_of_a_page_leads_to_a_file_and_a_heading(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", texts()[page]):
        file, _, anchor = target.partition("#")
        if not target.startswith("https://"):
            to = (ROOT / page).parent / file if file else ROOT / page
            assert to.exists(), target
            assert not anchor or anchor in anchors(to.read_text()), target


def test_path_in_backticks_on_a_page_exists() -> None:
    tops = {path.partition("/")[0] for path in paths() if "/" in path}
    named = [(page, path) for page in PAGES for path in re.findall(r"`([\w./*-]+/[\w./*-]*)`", texts()[page])]
    ours = [(page, path) for page, path in named if path.partition("/")[0] in tops or re.fullmatch(FILE, path)]
    assert [(page, path) for page, path in ours if not in_the_tree(path)] == []


def test_path_in_any_file_exists() -> None:
    cited = {(file, path) for file, text in texts().items() for path in CITED.findall(text) if path not in FOREIGN}
    assert sorted((file, path) for file, path in cited if not path.startswith(MADE) and not in_the_tree(path)) == []


def test_anchor_in_any_file_is_a_heading() -> None:
    for file, text in texts().items():
        for page, anchor in re.findall(r"\b(docs/[\w/-]+\.md)#([\w-]+)", text):
            assert anchor in anchors(texts()[page]), f"{file}: {page}#{anchor}"


def test_decision_record_cited_by_number_exists() -> None:
    there = {int(path.removeprefix("docs/adr/")[:3]) for path in paths() if path.startswith("docs/adr/")}
    assert {int(number) for text in texts().values() for number in re.findall(r"\bADR (\d+)", text)} <= there


def test_no_file_cites_a_document_outside_the_tree() -> None:
    own = "tests/contract/test_citations.py"
    assert [file for file, text in texts().items() if file != own and ELSEWHERE.search(text)] == []


def test_anchors_come_from_headings_and_not_from_code() -> None:
    page = "# The way, in [one](two.md)\n\n```\n# no heading\n```\n\n## `kill -9`\n"
    assert anchors(page) == {"the-way-in-one", "kill--9"}
