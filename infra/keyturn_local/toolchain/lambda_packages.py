"""Cache of the Lambda functions' packages. With it, `sam build` works without a network.

This module uses only the standard library.
"""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from keyturn_local.paths import ROOT
from keyturn_local.toolchain import cache, lambda_recipe

SOURCE = ROOT / "lambda"
KIND = "lambda-packages"  # folder in the cache


class NotFound(RuntimeError):
    """The packages are not available. The text gives the reason."""


def resolve() -> Path:
    """Return the folder of a uv cache that has the packages. If it does not have all packages, fill it first. Raises
    NotFound."""
    final = cache.folder(KIND) / hashlib.sha256((SOURCE / "requirements.txt").read_bytes()).hexdigest()[:12]
    complete = final / "complete"  # an empty file that marks a full cache, because a cache of uv cannot be renamed
    with cache.locked(KIND):
        if not complete.exists():
            _fill(final)
            complete.touch()
    return final


def _fill(folder: Path) -> None:
    environment = {**lambda_recipe.environment(), "UV_CACHE_DIR": str(folder)}
    with tempfile.TemporaryDirectory() as artifact:
        recipe = ["make", "--silent", "build-Notifier", f"ARTIFACTS_DIR={artifact}"]
        result = subprocess.run(recipe, cwd=SOURCE, env=environment, capture_output=True, text=True)
    if result.returncode:
        output = (result.stdout + result.stderr)[-1000:].strip()
        raise NotFound(f"the packages of the Lambda functions were not fetched: {output}")
