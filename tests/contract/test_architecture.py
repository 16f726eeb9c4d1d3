"""docs/architecture.md, held to the tree: the files that it names, and a row for each change that is looked for."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECEIVER = ROOT / "receiver" / "keyturn_receiver"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
DIAGRAM = PAGE.partition("```mermaid\n")[2].partition("```")[0]
CHANGES = {
    change: re.findall(r"`([\w./-]+\.\w+|[\w-]+(?:/[\w-]+)*)`", files)
    for change, files in re.findall(r"^\| (\w.*?) \| (`.*) \|$", PAGE.partition("## To change X")[2], re.MULTILINE)
}
# A path is written from here.
ROOTS = (RECEIVER, ROOT)


@pytest.mark.parametrize("change", CHANGES)
def test_every_file_of_a_change_is_in_the_tree(change: str) -> None:
    paths = [path for path in CHANGES[change] if "/" in path or "." in path]
    assert paths
    for path in paths:
        assert sum((root / path).exists() for root in ROOTS) == 1, path


def test_every_change_has_one_row() -> None:
    rows = re.findall(r"^\| (\w.*?) \| `", PAGE.partition("## To change X")[2], re.MULTILINE)
    assert len(rows) == len(set(rows)) == len(CHANGES) >= 50


@pytest.mark.parametrize(
    "word",
    [
        "workload kinds", "back-off", "liveness", "deliveries are served at once", "JMESPath", "Prometheus metric",
        "stale read", "poller", "event of AWS", "status code", "TLS", "in memory of Secrets", "threads", "binding",
        "text of a Kubernetes Event", "restarted together",
    ],
)  # fmt: skip
def test_a_change_is_found_by_its_word(word: str) -> None:
    assert [change for change in CHANGES if word in change]


def test_every_file_of_the_diagram_is_in_the_tree() -> None:
    files = re.findall(r"[\w/]+\.py", DIAGRAM)
    assert len(files) > 10
    for file in files:
        folders = (ROOT / "lambda", ROOT / "receiver")
        assert [path for folder in folders for path in folder.rglob(Path(file).name) if str(path).endswith(f"/{file}")]


def test_every_folder_of_the_receiver_and_of_the_tree_is_on_the_page() -> None:
    folders = set(
        re.findall(r"^\| `([\w./]+)` \|", PAGE.partition("## Folders")[2].partition("\n## ")[0], re.MULTILINE)
    )
    packages = {folder.parent.relative_to(ROOT).as_posix() for folder in RECEIVER.glob("*/__init__.py")}
    assert folders >= packages
    assert all((ROOT / folder).exists() for folder in folders)
