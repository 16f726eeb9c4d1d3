"""The distribution of tests over the processes of pytest-xdist: by test or, where fixtures are shared, by file.

This replaces --dist=loadgroup, whose groups pytest-xdist 3.8 writes to an attribute that pytest 9.2 does not read. The
scheduler knows only the names of tests, so the source says which fixtures they share.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parents[1]


class ByTestOrFile(LoadScopeScheduling):
    """Gives the next test to a free process, but keeps those tests of a file together that share a fixture.

    The processes have put the tests in the order of ``start_long_tests_first``.
    """

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return unit(self.config.rootpath, nodeid)


def start_long_tests_first(root: Path, items: list[pytest.Item]) -> None:
    """Order tests so that no process is left with a long test while the others have nothing more to do.

    Tests with the mark ``long`` come first, together with the tests that share a fixture with them. Then come the other
    tests that share fixtures. The file that has the most of these tests comes first.
    """
    units: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        units[unit(root, item.nodeid)].append(item)

    def rank(tests: list[pytest.Item]) -> tuple[bool, int]:
        return not any(test.get_closest_marker("long") for test in tests), -len(tests)

    items[:] = [test for tests in sorted(units.values(), key=rank) for test in tests]


def unit(root: Path, nodeid: str) -> str:
    """Return the file of a test that uses a module-scoped fixture, directly or not. For any other test,
    return ``nodeid``."""
    path, _, name = nodeid.partition("[")[0].partition("::")
    file = root / path
    return path if _tests(file).get(name.rpartition("::")[2], frozenset()) & _shared(file) else nodeid


@cache
def _tests(file: Path) -> dict[str, frozenset[str]]:
    """Return the names of the fixtures that each test function of a file uses directly, or by ``usefixtures``.

    A mark on a class or on the file counts for the whole file, as does ``autouse``.
    """
    marked = {name for node in _parse(file).body for name in _marked(node) if not isinstance(node, ast.FunctionDef)}
    everywhere = marked | {each.name for each in _fixtures(file) if "autouse=True" in ast.unparse(each)}
    return {function.name: _arguments(function) | {*_marked(function)} | everywhere for function in _functions(file)}


@cache
def _shared(file: Path) -> frozenset[str]:
    """Return the names of the module-scoped fixtures that a file can use, and of the fixtures that use those."""
    fixtures = _fixtures(file)
    shared = {each.name for each in fixtures if "scope='module'" in ast.unparse(each.decorator_list[0])}
    while more := {each.name for each in fixtures if _arguments(each) & shared} - shared:
        shared |= more
    return frozenset(shared)


def _fixtures(file: Path) -> list[ast.FunctionDef]:
    """Return the fixtures of a file, and those of the conftest.py in its folder and in the folders above.

    Of two with the same name, the one that is nearer to the file counts.
    """
    conftests = [folder / "conftest.py" for folder in file.parents if folder.is_relative_to(TESTS)]
    functions = [each for source in (*filter(Path.exists, reversed(conftests)), file) for each in _functions(source)]
    fixtures = [each for each in functions if any("fixture" in ast.unparse(mark) for mark in each.decorator_list)]
    return list({each.name: each for each in fixtures}.values())


def _arguments(function: ast.FunctionDef) -> frozenset[str]:
    return frozenset(each.arg for each in function.args.args)


def _marked(node: ast.AST) -> Iterator[str]:
    """Yield the texts in each ``usefixtures`` below a node."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("usefixtures"):
            yield from (each.value for each in call.args if isinstance(each, ast.Constant))


def _functions(file: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(_parse(file)) if isinstance(node, ast.FunctionDef)]


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())
