"""docs/faults.md, checked against the fault tests: each fault has a test, and each test has a fault and a docstring."""

import ast
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
FOLDER = Path(__file__).parents[1] / "faults"


def listed() -> list[str]:
    """Return the faults of the page in order. The row "all" stands for random histories."""
    return re.findall(r"^\| ([FS]\d+|all) \|", PAGE, re.MULTILINE)


def marked() -> dict[str, list[ast.FunctionDef]]:
    """Return the fault tests of each fault, by the number of the fault."""
    tests: dict[str, list[ast.FunctionDef]] = {}
    for file in FOLDER.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            for each in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
                if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.fault":
                    tests.setdefault(ast.literal_eval(each.args[0]), []).append(node)
    return tests


def test_faults_of_the_page_equal_those_of_the_markers() -> None:
    assert len(set(listed())) == len(listed())
    assert marked().keys() == set(listed())


def test_fault_numbers_have_no_gap() -> None:
    for letter, least in {"F": 27, "S": 8}.items():
        numbers = [int(fault[1:]) for fault in listed() if fault[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= least


def test_every_fault_has_a_subject_and_what_must_hold() -> None:
    rows = re.findall(r"^\| (?:[FS]\d+|all) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(listed())


def test_every_fault_test_has_a_docstring() -> None:
    for number, tests in marked().items():
        for each in tests:
            assert len(ast.get_docstring(each) or "") > 20, f"{number}: {each.name}"
