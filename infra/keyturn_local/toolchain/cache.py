"""The cache of what takes long to get, in the user's home: a folder for each kind of thing, filled whole or not at all.

Standard library alone: `make` fills it before there is anything else.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def folder(kind: str) -> Path:
    """The folder of one kind of thing; it need not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keyturn" / kind


@contextmanager
def locked(kind: str) -> Iterator[None]:
    """Let one process at a time fill the folder of one kind, and make that folder."""
    root = folder(kind)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def fresh(final: Path) -> Iterator[Path]:
    """Give a folder that takes its final name only when it is whole."""
    made = Path(tempfile.mkdtemp(dir=final.parent, prefix=".fresh-"))
    try:
        yield made
        if not final.is_dir():
            made.chmod(0o755)
            made.rename(final)
    finally:
        shutil.rmtree(made, ignore_errors=True)
