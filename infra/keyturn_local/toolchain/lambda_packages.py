"""Fetches the packages of the Lambda functions into a cache, so that `sam build` works without a network.

This module uses only the standard library.
"""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from keyturn_local.paths import ROOT
from keyturn_local.toolchain import cache

SOURCE = ROOT / "lambda"
UV = ROOT / ".venv-sam" / "bin"
KIND = "lambda-packages"  # folder in the cache


class NotFound(RuntimeError):
    """The packages are not available. The text says why."""


def resolve() -> Path:
    """Return the folder of a uv cache that holds the packages. If it is missing, fill it first. Raises NotFound."""
    final = cache.folder(KIND) / hashlib.sha256((SOURCE / "requirements.txt").read_bytes()).hexdigest()[:12]
    complete = final / "complete"  # an empty file that marks a full cache, because a cache of uv cannot be renamed
    with cache.locked(KIND):
        if not complete.exists():
            _fill(final)
            complete.touch()
    return final


def _fill(folder: Path) -> None:
    # The variables of an outer `make` are left out. Otherwise the `make` of the recipe would take them for its own
    # flags.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment = {**inherited, "PATH": f"{UV}:{inherited['PATH']}", "UV_CACHE_DIR": str(folder)}
    with tempfile.TemporaryDirectory() as artifact:
        recipe = ["make", "--silent", "build-Notifier", f"ARTIFACTS_DIR={artifact}"]
        result = subprocess.run(recipe, cwd=SOURCE, env=environment, capture_output=True, text=True)
    if result.returncode:
        output = (result.stdout + result.stderr)[-1000:].strip()
        raise NotFound(f"the packages of the Lambda functions were not fetched: {output}")
