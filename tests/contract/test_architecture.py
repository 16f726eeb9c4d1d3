"""docs/architecture.md, checked against the tree: its paths exist, and every module appears in a row of its tables."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECEIVER = ROOT / "receiver" / "keyturn_receiver"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
DIAGRAM = PAGE.partition("```mermaid\n")[2].partition("```")[0]
FOLDERS = PAGE.partition("\n## Folders\n")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| ([\w`].*?) \| (`.*) \|$", PAGE.partition("\n## To change X")[2], re.MULTILINE)
ROOTS = (RECEIVER, ROOT)  # the page writes paths relative to these folders


def paths(files: str) -> list[str]:
    """Return the paths in a row. Other names in backticks are left out."""
    return [path for path in re.findall(r"`([\w./-]+)`", files) if "/" in path or "." in path]


@pytest.mark.parametrize(("change", "files"), ROWS, ids=[change for change, _ in ROWS])
def test_files_of_a_change_exist(change: str, files: str) -> None:
    assert paths(files)
    for path in paths(files):
        assert sum((root / path).exists() for root in ROOTS) == 1, path


def test_no_change_has_two_rows() -> None:
    changes = [change for change, _ in ROWS]
    assert len(set(changes)) == len(changes) >= 70


@pytest.mark.parametrize(
    "words",
    [
        "workload kinds",
        "back-off of a failed reconcile",
        "liveness rule",
        "deliveries are served at once",
        "limits of JMESPath",
        "Prometheus metric",
        "stale read",
        "what the poller asks",
        "event of AWS",
        "status code of a reply",
        "TLS and new certificates",
        "kept in memory of Secrets",
        "threads that call AWS",
        "another way to declare a binding",
        "text of a Kubernetes Event",
        "restarted together",
    ],
)
def test_change_is_found_by_its_words(words: str) -> None:
    assert [change for change, _ in ROWS if words in change]


@pytest.mark.parametrize("package", ["keyturn_receiver", "keyturn_notifier", "keyturn_contract", "keyturn_cli"])
def test_every_module_has_a_row(package: str) -> None:
    (folder,) = (ROOT / root / package for root in ("receiver", "lambda", "cli") if (ROOT / root / package).is_dir())
    modules = [module for module in folder.rglob("*.py") if module.name != "__init__.py"]
    named = {root / path for _, files in ROWS for path in paths(files) for root in ROOTS}
    assert [module.relative_to(folder).as_posix() for module in modules if module not in named] == []


def test_diagram_has_no_semicolon_which_would_end_a_statement() -> None:
    assert ";" not in DIAGRAM


def test_files_of_the_diagram_exist() -> None:
    files = re.findall(r"[\w/]+\.py", DIAGRAM)
    assert len(files) > 10
    for file in files:
        found = [path for root in ("lambda", "receiver") for path in (ROOT / root).rglob(Path(file).name)]
        assert [path for path in found if path.as_posix().endswith(f"/{file}")], file


def test_every_package_of_the_receiver_has_a_row() -> None:
    folders = set(re.findall(r"^\| `([\w./]+)` \|", FOLDERS, re.MULTILINE))
    packages = {folder.parent.relative_to(ROOT).as_posix() for folder in RECEIVER.glob("*/__init__.py")}
    assert folders >= packages
    assert [folder for folder in folders if not (ROOT / folder).exists()] == []
