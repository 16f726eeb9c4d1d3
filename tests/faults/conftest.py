"""One line for each fault: its number, whether it held, and what was done.

A fault test is marked with the number of its fault, and its docstring says what was done. Several tests of one fault
make one line.
"""

from typing import Any

import pytest

_lines: dict[str, dict[str, Any]] = {}
_plugins: list[pytest.PytestPluginManager] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number): the fault of docs/faults.md that the test is about")
    _plugins[:] = [config.pluginmanager]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if marker := item.get_closest_marker("fault"):
            (number,) = marker.args
            line = _lines.setdefault(number, {"left": 0, "held": True, "done": {}})
            line["left"] += 1
            line["done"][" ".join((item.function.__doc__ or "").split()).rstrip(".")] = None
            item.user_properties.append(("fault", number))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    number = dict(report.user_properties).get("fault")
    if number is None:
        return
    line = _lines[number]
    line["held"] &= report.outcome != "failed"
    if report.when == "teardown":
        line["left"] -= 1
        if not line["left"]:
            verdict = "held" if line["held"] else "broken"
            terminal = _plugins[0].get_plugin("terminalreporter")
            terminal.ensure_newline()
            terminal.write_line(f"{number:<4} {verdict:<7} {'; '.join(line['done'])}")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    if report.when == "call" and report.passed and dict(report.user_properties).get("fault"):
        return "passed", "", "PASSED"  # its line says so
    return None
