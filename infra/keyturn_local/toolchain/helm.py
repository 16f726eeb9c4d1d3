"""Builder of Helm's command line from its Go module. The program is stored in the cache. This module uses only the
standard library.

Most tests use Helm as a library. The README's commands need the program itself, because the README shows its output.
"""

import hashlib
import platform
import sys
from pathlib import Path

from keyturn_local.paths import INFRA
from keyturn_local.toolchain import cache, go_toolchain

MODULE = INFRA / "helm"
PACKAGE = "helm.sh/helm/v4/cmd/helm"
KIND = "helm"  # folder in the cache


class NotFound(RuntimeError):
    """Helm is not available. The text gives the reason."""


def resolve() -> Path:
    """Return the folder in the cache with the program `helm`. If there is no such folder, build `helm` first. Raises
    NotFound."""
    sources = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes())
    try:
        return cache.filled(cache.folder(KIND) / f"{sources.hexdigest()[:12]}-{platform.machine()}", _build)
    except (go_toolchain.GoNotFound, go_toolchain.BuildFailed) as error:
        raise NotFound(f"Helm's command line is built from its Go module: {error}") from None


def _build(folder: Path) -> None:
    print("helm: building it: about 2 minutes on 2 cores, once", file=sys.stderr, flush=True)
    go_toolchain.build(go_toolchain.find(), MODULE, PACKAGE, folder / "helm")


if __name__ == "__main__":
    try:
        print(resolve())
    except NotFound as error:
        sys.exit(str(error))
