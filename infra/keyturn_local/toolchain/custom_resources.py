"""Finds the definitions of other projects' custom resources, of which the chart's optional objects are instances.

They come out of those projects' Go modules, pinned by infra/custom_resources/go.sum: no text of theirs is kept here.

Standard library alone: `make` runs this file before there is anything else. As a program it prints the files.
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
KIND = "custom-resources"  # of the cache's folders

# By module: the files in it.
FILES = {
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "github.com/cert-manager/cert-manager": ("deploy/crds/cert-manager.io_certificates.yaml",),
}


class NotFound(RuntimeError):
    """The definitions cannot be had; the text says why, and what to do."""


def resolve() -> list[Path]:
    """Return the definitions, a YAML file each: from the cache, or else by Go. Raises NotFound."""
    folder = _folder()
    if not folder.is_dir():
        with cache.locked(KIND):
            if not folder.is_dir():  # else another process has fetched them while we waited
                _fetch(folder)
    return [folder / Path(file).name for files in FILES.values() for file in files]


def _fetch(final: Path) -> None:
    try:
        go = go_toolchain.find()
    except go_toolchain.NoGo as error:
        raise NotFound(f"the custom resource definitions come out of Go modules: {error}") from None
    modules = _download(go)
    with cache.fresh(final) as folder:
        for module, files in FILES.items():
            for file in files:
                shutil.copyfile(modules[module] / file, folder / Path(file).name)


def _download(go: str) -> dict[str, Path]:
    """Fetch the modules that go.mod requires, and none that those require: their folders, by module.

    Go refuses what is not as go.sum says, whatever its settings; but what go.sum does not know it takes, on the word of
    the public checksum database or, with that switched off, on nobody's. So each sum is looked up once more.
    """
    pinned = (MODULE / "go.sum").read_text().splitlines()  # before Go may add to it
    environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "auto"}
    done = subprocess.run([go, "mod", "download", "-json"], cwd=MODULE, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise NotFound(
            "the custom resource definitions come out of Go modules, and `go mod download` failed; connect to the "
            f"internet, or set GOPROXY to a proxy that can be reached. Its last words:\n{_complaint(done)}"
        )
    downloaded = _objects(done.stdout)
    for module in downloaded:
        if f"{module['Path']} {module['Version']} {module['Sum']}" not in pinned:
            raise NotFound(f"{module['Path']} {module['Version']} is not in {MODULE / 'go.sum'}; add it with its sum")
    return {module["Path"]: Path(module["Dir"]) for module in downloaded}


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    # Of a module that cannot be had Go speaks in its JSON, of all else beside it.
    errors = [module["Error"] for module in _objects(done.stdout) if "Error" in module]
    return "\n".join([*errors, done.stderr])[-1500:].strip()


def _objects(stream: str) -> list[Any]:
    """Read objects that stand one after the other, as Go prints them."""
    return list(json.loads("[" + stream.replace("}\n{", "},{") + "]"))


def _folder() -> Path:
    """Where they are in the cache: whatever goes into the folder is in its name."""
    sources = hashlib.sha256(json.dumps(FILES).encode())
    for name in ("go.mod", "go.sum"):
        sources.update((MODULE / name).read_bytes())
    return cache.folder(KIND) / sources.hexdigest()[:12]


if __name__ == "__main__":
    try:
        print(*resolve(), sep="\n")
    except NotFound as error:
        sys.exit(f"custom resources: {error}")
