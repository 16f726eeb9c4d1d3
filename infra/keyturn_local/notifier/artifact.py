"""Artifacts of the Lambda functions. The recipe of `sam build` builds them, for any Python version and platform."""

import platform
import subprocess
import sys
from pathlib import Path

from keyturn_local.paths import ROOT
from keyturn_local.toolchain import cache, lambda_recipe

SOURCE = ROOT / "lambda"
CACHE = ROOT / "build" / "artifacts"
LAMBDA = ("3.13", "aarch64-manylinux2014")
_MACHINE = platform.machine().replace("arm64", "aarch64")
_SYSTEM = "apple-darwin" if sys.platform == "darwin" else "unknown-linux-gnu"
HERE = (f"{sys.version_info.major}.{sys.version_info.minor}", f"{_MACHINE}-{_SYSTEM}")


def build(target: tuple[str, str] = HERE, function: str = "Notifier") -> Path:
    """Build a function, unless it is in the cache. Return the artifact's folder. ``target`` is (Python version,
    platform)."""
    version, machine = target
    directory = CACHE / f"{function}-{version}-{machine}-{cache.digest(ROOT, [SOURCE.name])}"
    if not (directory / "keyturn_notifier").exists():  # the recipe copies this folder last
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [  # noqa: S607 - the user's own make
                "make",
                "--silent",
                f"build-{function}",
                f"ARTIFACTS_DIR={directory}",
                f"PYTHON_VERSION={version}",
                f"PLATFORM={machine}",
            ],
            cwd=SOURCE,
            env=lambda_recipe.environment(),
            check=True,
        )
    return directory


def size(directory: Path) -> int:
    """Return the total size of all files in bytes."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
