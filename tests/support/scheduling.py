"""The distribution of tests over the processes of pytest-xdist: by test, or by file where a file shares fixtures.

In place of --dist=loadgroup, whose groups pytest-xdist 3.8 writes to an attribute that pytest 9.2 does not read.
"""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

SHARED = 'scope="module"'  # in the text of a file with tests, or of the conftest.py beside it


class ByTestOrFile(LoadScopeScheduling):
    """Gives a free process the next test; the tests of a file with fixtures of module scope stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = self.config.rootpath / nodeid.partition("::")[0]
        return str(file) if shares_fixtures(file) else nodeid


@cache
def shares_fixtures(file: Path) -> bool:
    """Whether a module, or all modules of its folder, have fixtures that the tests of a module share."""
    return any(SHARED in each.read_text() for each in (file, file.with_name("conftest.py")) if each.exists())
