"""The cache in the user's home. It has one folder for each kind of program or file that takes long to get.

Entries are created atomically. This module uses only the standard library, because `make` fills the cache before pip.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def folder(kind: str) -> Path:
    """Return the folder of one kind. It may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keyturn" / kind


@contextmanager
def locked(kind: str) -> Iterator[None]:
    """Create the folder of one kind and hold its lock, so that only one process at a time fills the folder."""
    root = folder(kind)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder. At the end, rename it to ``final``, unless the block raises."""
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=".fresh-"))
    try:
        yield temporary
        if not final.is_dir():
            temporary.chmod(0o755)
            temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
