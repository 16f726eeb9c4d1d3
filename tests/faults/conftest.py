"""Prints one line for each fault: its number, whether its promise held, and the cases that its tests describe.

A fault test is marked with the number of its fault, and the docstring of the test describes the case. All tests of a
fault share one line. Because the tests may run in several processes, each test report carries the data for the line,
and the process that prints the lines combines the reports.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest

FAULT, TESTS, CASE = "fault", "tests of the fault", "case"  # the names of the user properties in a test report


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number): the fault of docs/faults.md that the test is about")
    if not hasattr(config, "workerinput"):  # only workers of pytest-xdist have this attribute, and they print nothing
        config.pluginmanager.register(FaultLines(config), "fault-lines")


@pytest.hookimpl(trylast=True)  # runs after tests have been deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    faults = {item: marker.args[0] for item in items if (marker := item.get_closest_marker("fault"))}
    tests = Counter(faults.values())
    for item, fault in faults.items():
        docstring = " ".join((getattr(item, "obj", None).__doc__ or "").split()).rstrip(".")
        item.user_properties += [(FAULT, fault), (TESTS, tests[fault]), (CASE, docstring)]


@dataclass
class Line:
    """The line of one fault. ``cases`` maps the location of each test (its path and line number) to the test's
    description."""

    tests: int
    ended: int = 0
    held: bool = True
    cases: dict[tuple[str, int], str] = field(default_factory=dict)

    def text(self, fault: str) -> str:
        verdict = "unknown" if self.held and self.ended < self.tests else "held" if self.held else "broken"
        cases = dict.fromkeys(case for _, case in sorted(self.cases.items()))
        return f"{fault:<4} {verdict:<7} {'; '.join(cases)}"


class FaultLines:
    """Prints the line of a fault as soon as the last test of the fault has ended."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lines: dict[str, Line] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if FAULT not in properties:
            return
        fault = str(properties[FAULT])
        line = self._lines.setdefault(fault, Line(int(str(properties[TESTS]))))
        line.held &= report.outcome != "failed"
        path, number, _ = report.location
        line.cases[path, number or 0] = str(properties[CASE])
        if report.when == "teardown":
            line.ended += 1
            if line.ended == line.tests:
                terminal = self._config.pluginmanager.getplugin("terminalreporter")
                terminal.ensure_newline()
                terminal.write_line(self._lines.pop(fault).text(fault))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # Some tests of these faults did not finish, because pytest ran with -x or because a worker process died.
        for fault, line in self._lines.items():
            terminalreporter.write_line(line.text(fault))

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        if report.when == "call" and report.passed and FAULT in dict(report.user_properties):
            return "passed", "", "PASSED"  # no progress letter, because the fault's line shows the result
        return None
