"""docs/security.md, checked against the code: its tests exist, and its numbers are the code's constants."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
PACKAGES = ("keyturn_receiver", "keyturn_contract")  # where the page's paths begin


def section(heading: str) -> str:
    return PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the rows in the table under a heading."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines[1:]]


def named_tests() -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize(("path", "name"), named_tests())
def test_test_that_holds_a_claim_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_claim_about_somebody_names_its_test() -> None:
    claims = rows("Who may do what")
    assert len(claims) > 10
    for who, may, may_not, held_by in claims:
        assert may_not, who or may
        assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`", held_by), held_by


def constant(path: str, name: str) -> float:
    for package in PACKAGES:
        try:
            module = importlib.import_module(f"{package}.{path.removesuffix('.py').replace('/', '.')}")
        except ModuleNotFoundError:
            continue
        return float(getattr(module, name))
    raise AssertionError(f"no module {path}")


@pytest.mark.parametrize("row", rows("Bounds"), ids=lambda row: row[0])
def test_numbers_of_a_bound_are_the_constants_of_the_code(row: list[str]) -> None:
    _, bound, named = row
    constants = [
        constant(path, name)
        for group in named.split("; ")
        for path, *names in [re.findall(r"`([^`]+)`", group)]
        for name in names
    ]
    assert constants
    numbers = [float(each) for each in re.findall(r"\d+", bound)]
    assert all(each in numbers for each in constants), (numbers, constants)
