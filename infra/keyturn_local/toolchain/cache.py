"""The cache in the user's home. It has one folder for each kind of program or file that takes long to download or to
build.

Entries are created atomically. This module uses only the standard library, because `make` fills the cache before pip.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def folder(kind: str) -> Path:
    """Return the folder of one kind. The folder may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keyturn" / kind


def filled(final: Path, fill: Callable[[Path], None]) -> Path:
    """Return ``final``, a folder inside the folder of one kind. If it does not exist, call ``fill`` with a temporary
    folder, and rename the temporary folder to ``final``. Only one process at a time fills folders of this kind. If
    ``fill`` raises an error, nothing is kept."""
    with lock(final.parent / "lock"):
        if not final.is_dir():
            with atomic_folder(final) as temporary:
                fill(temporary)
    return final


@contextmanager
def locked(kind: str) -> Iterator[None]:
    """Create the folder of one kind, and hold its lock. So only one process at a time fills the folder."""
    with lock(folder(kind) / "lock"):
        yield


@contextmanager
def lock(file: Path) -> Iterator[None]:
    """Hold a lock that excludes other processes. If the lock's file or its folder does not exist, create it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def digest(root: Path, names: Iterable[str]) -> str:
    """Return a digest of the paths and contents of files. ``names`` are files and folders in ``root``."""
    found = hashlib.sha256()
    for name in names:
        files = sorted((root / name).rglob("*")) if (root / name).is_dir() else [root / name]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder. At the end, rename it to ``final``, or remove it if ``final`` exists by then. If the
    block raises an error, remove the temporary folder."""
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=".fresh-"))
    try:
        yield temporary
        if not final.is_dir():
            temporary.chmod(0o755)
            temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
