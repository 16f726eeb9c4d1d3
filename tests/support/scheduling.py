"""The distribution of tests over the processes of pytest-xdist, by test or, where fixtures are shared, by file.

This replaces --dist=loadgroup, whose groups pytest-xdist 3.8 writes to an attribute that pytest 9.2 does not read.
"""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

# The text that marks shared fixtures in a test file or in the conftest.py of its folder.
SHARED = 'scope="module"'


class ByTestOrFile(LoadScopeScheduling):
    """Gives the next test to a free process, but keeps the tests of a file with module-scoped fixtures together."""

    def _split_scope(self, nodeid: str) -> str:
        file = self.config.rootpath / nodeid.partition("::")[0]
        return str(file) if shares_fixtures(file) else nodeid


@cache
def shares_fixtures(file: Path) -> bool:
    """Return whether a test file or the conftest.py of its folder has module-scoped fixtures."""
    return any(SHARED in each.read_text() for each in (file, file.with_name("conftest.py")) if each.exists())
