"""Distributes the tests over the processes of pytest-xdist: each test by itself, or whole files if their tests share
fixtures.

This replaces --dist=loadgroup. pytest-xdist 3.8 writes its groups to an attribute that pytest 9.2 does not read.
"""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

# The text by which module-scoped fixtures are found in a test file or in the conftest.py of its folder.
SHARED = 'scope="module"'


class ByTestOrFile(LoadScopeScheduling):
    """Gives the next test to a free process, but gives all tests of a file with module-scoped fixtures to the same
    one."""

    def _split_scope(self, nodeid: str) -> str:
        file = self.config.rootpath / nodeid.partition("::")[0]
        return str(file) if shares_fixtures(file) else nodeid


@cache
def shares_fixtures(file: Path) -> bool:
    """Return whether a test file or the conftest.py of its folder has module-scoped fixtures."""
    return any(SHARED in each.read_text() for each in (file, file.with_name("conftest.py")) if each.exists())
