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
    final = cache.folder(KIND) / f"{sources.hexdigest()[:12]}-{platform.machine()}"
    with cache.locked(KIND):
        if not final.is_dir():
            print("helm: building it: about 2 minutes on 2 cores, once", file=sys.stderr, flush=True)
            try:
                go = go_toolchain.find()
                with cache.atomic_folder(final) as folder:
                    go_toolchain.build(go, MODULE, PACKAGE, folder / "helm")
            except (go_toolchain.GoNotFound, go_toolchain.BuildFailed) as error:
                raise NotFound(f"Helm's command line is built from its Go module: {error}") from None
    return final


if __name__ == "__main__":
    try:
        print(resolve())
    except NotFound as error:
        sys.exit(str(error))
