"""The list of faults, held to the tests: each has at least one, and each test says what it does."""

import ast
from pathlib import Path

FAULTS = {f"F{number}" for number in range(1, 28)} | {f"S{number}" for number in range(1, 9)}
FOLDER = Path(__file__).parents[1] / "faults"


def marked() -> dict[str, list[ast.FunctionDef]]:
    """The fault tests by the number of their fault."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for file in FOLDER.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            for each in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
                if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.fault":
                    found.setdefault(ast.literal_eval(each.args[0]), []).append(node)
    return found


def test_every_fault_has_a_test_of_its_own() -> None:
    assert marked().keys() >= FAULTS


def test_every_test_says_in_a_sentence_what_was_done() -> None:
    for number, tests in marked().items():
        for each in tests:
            assert len(ast.get_docstring(each) or "") > 20, f"{number}: {each.name}"
