"""Finder of custom resource definitions of other projects. The chart's optional objects need them.

The files come from the Go modules of these projects, which infra/custom_resources/go.sum pins. This repository has no
copies of them.

This module uses only the standard library, because `make` runs it outside of the virtual environment. The command
``python -m keyturn_local.toolchain.custom_resources`` prints the paths of the files.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from keyturn_local.paths import INFRA
from keyturn_local.toolchain import cache, go_toolchain

MODULE = INFRA / "custom_resources"
KIND = "custom-resources"  # the folder in the cache

# The paths of the definitions' files in each module.
FILES = {
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "github.com/cert-manager/cert-manager": ("deploy/crds/cert-manager.io_certificates.yaml",),
    "sigs.k8s.io/gateway-api": ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
    # A kind of workload that the receiver can restart, but that a cluster may not have.
    "github.com/argoproj/argo-rollouts": ("manifests/crds/rollout-crd.yaml",),
    # These kinds occur in the chart's examples, but not in the chart.
    "github.com/argoproj/argo-cd/v3": ("manifests/crds/application-crd.yaml",),
    "github.com/openshift/api": ("route/v1/zz_generated.crd-manifests/routes.crd.yaml",),
    "github.com/fluxcd/source-controller": ("config/crd/bases/source.toolkit.fluxcd.io_ocirepositories.yaml",),
}


class NotFound(RuntimeError):
    """The definitions are not available. The text gives the reason, and says what to do."""


def resolve() -> list[Path]:
    """Return the YAML files of the definitions. If the cache does not have them, Go fetches them. Raises NotFound."""
    folder = cache.filled(_folder(), _fetch)
    return [folder / Path(file).name for files in FILES.values() for file in files]


def module_folders() -> dict[str, Path]:
    """Return the folder of each module in go.mod, by the module's path. Go fetches modules that the machine lacks.
    Raises NotFound."""
    try:
        return _download(go_toolchain.find())
    except go_toolchain.GoNotFound as error:
        raise NotFound(f"the custom resource definitions come from Go modules: {error}") from None


def _fetch(folder: Path) -> None:
    modules = module_folders()
    for module, files in FILES.items():
        for file in files:
            shutil.copyfile(modules[module] / file, folder / Path(file).name)


def _download(go: str) -> dict[str, Path]:
    """Download the modules in go.mod without their dependencies. Return the folder of each module.

    Go refuses a module if its sum differs from the sum in go.sum. If go.sum has no sum for a module, Go asks the public
    checksum database. If this database is switched off, Go verifies nothing. So this function requires that go.sum has
    a sum.
    """
    sums = (MODULE / "go.sum").read_text().splitlines()  # go.sum is read first, because Go may add sums to it
    environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "auto"}
    command = [go, "mod", "download", "-json"]
    result = subprocess.run(command, cwd=MODULE, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise NotFound(
            "the custom resource definitions come from Go modules, and `go mod download` failed; connect to the "
            f"internet, or set GOPROXY to a proxy that can be reached. The end of its output:\n{_errors(result)}"
        )
    downloads = _objects(result.stdout)
    for module in downloads:
        if f"{module['Path']} {module['Version']} {module['Sum']}" not in sums:
            raise NotFound(f"{module['Path']} {module['Version']} is not in {MODULE / 'go.sum'}; add it with its sum")
    return {module["Path"]: Path(module["Dir"]) for module in downloads}


def _errors(result: subprocess.CompletedProcess[str]) -> str:
    # If Go cannot download a module, the error is in its JSON output. Other errors are on stderr.
    errors = [module["Error"] for module in _objects(result.stdout) if "Error" in module]
    return "\n".join([*errors, result.stderr])[-1500:].strip()


def _objects(stream: str) -> list[Any]:
    """Decode JSON objects without a separator between them, as Go prints them."""
    return list(json.loads("[" + stream.replace("}\n{", "},{") + "]"))


def _folder() -> Path:
    """Return the folder of the definitions in the cache. Its name is a digest of FILES, go.mod and go.sum."""
    sources = hashlib.sha256(json.dumps(FILES).encode())
    for name in ("go.mod", "go.sum"):
        sources.update((MODULE / name).read_bytes())
    return cache.folder(KIND) / sources.hexdigest()[:12]


if __name__ == "__main__":
    try:
        print(*resolve(), sep="\n")
    except NotFound as error:
        sys.exit(f"custom resources: {error}")
