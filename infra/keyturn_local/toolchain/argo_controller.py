"""Builder of the controller of Argo Rollouts. The program is stored in the cache, beside all of Argo's custom resource
definitions, which the controller needs.

The sources are the Go module that infra/custom_resources/go.sum pins. The module's own go.sum pins the module's
dependencies.
"""

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from keyturn_local.toolchain import cache, custom_resources, go_toolchain

MODULE = "github.com/argoproj/argo-rollouts"
PROGRAM = "rollouts-controller"
KIND = "argo-rollouts"  # folder in the cache


class NotFound(RuntimeError):
    """The controller is not available. The text gives the reason."""


def resolve() -> Path:
    """Return the folder in the cache with the controller, and with the definitions as YAML files. If there is no such
    folder, build the controller first. Raises NotFound."""
    version = cache.digest(custom_resources.MODULE, ["go.mod", "go.sum"])
    try:
        return cache.filled(cache.folder(KIND) / f"{version}-{platform.machine()}", _build)
    except (custom_resources.NotFound, go_toolchain.GoNotFound, go_toolchain.BuildFailed) as error:
        raise NotFound(f"the controller of Argo Rollouts is built from its Go module: {error}") from None


def _build(folder: Path) -> None:
    print("Argo Rollouts: building the controller: about 10 minutes on 2 cores, once", file=sys.stderr, flush=True)
    module = custom_resources.module_folders()[MODULE]
    with tempfile.TemporaryDirectory() as directory:
        sources = Path(directory) / "argo-rollouts"
        shutil.copytree(module, sources, copy_function=shutil.copyfile)  # Go builds nothing inside its module cache
        go_toolchain.build(go_toolchain.find(), sources, f"./cmd/{PROGRAM}", folder / PROGRAM)
    for file in (module / "manifests" / "crds").glob("*-crd.yaml"):
        shutil.copyfile(file, folder / file.name)


if __name__ == "__main__":
    try:
        print(resolve())
    except NotFound as error:
        sys.exit(str(error))
