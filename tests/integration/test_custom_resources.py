"""Custom resources of other projects: the projects' own definitions, pinned by go.sum, validate the chart's objects."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.paths import INFRA
from keyturn_local.toolchain import cache, go_toolchain
from keyturn_local.toolchain import custom_resources as definitions

SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector": {}, "endpoints": [{"port": "metrics"}]}),
    "PodMonitor": ("monitoring.coreos.com/v1", {"selector": {}, "podMetricsEndpoints": [{"port": "metrics"}]}),
    "PrometheusRule": (
        "monitoring.coreos.com/v1",
        {"groups": [{"name": "keyturn", "rules": [{"alert": "Stale", "expr": "vector(1)", "for": "5m"}]}]},
    ),
    "Certificate": ("cert-manager.io/v1", {"secretName": "tls", "dnsNames": ["a.test"], "issuerRef": {"name": "ca"}}),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", {"parentRefs": [{"name": "public"}], "hostnames": ["a.test"]}),
    "Rollout": ("argoproj.io/v1alpha1", {"restartAt": "2026-01-01T00:00:00Z", "workloadRef": {"name": "web"}}),
    "Application": ("argoproj.io/v1alpha1", {"project": "default", "destination": {}, "source": {"repoURL": "a.test"}}),
    "Route": ("route.openshift.io/v1", {"to": {"kind": "Service", "name": "keyturn", "weight": 100}}),
    "OCIRepository": ("source.toolkit.fluxcd.io/v1", {"interval": "1h", "url": "oci://a.test/charts/keyturn"}),
}


def dry_run(control_plane: ControlPlane, namespace: str, kind: str, **changes: Any) -> str:
    """Let the API server validate an object of this kind as a dry run. ``changes`` are made to the object's spec."""
    version, spec = SPECS[kind]
    metadata = {"name": "judged", "namespace": namespace}
    judged = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {**spec, **changes}}
    return control_plane.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=json.dumps(judged))


@pytest.mark.usefixtures("custom_resources")
@pytest.mark.parametrize("kind", SPECS)
def test_custom_resource_that_fits_its_definition_is_accepted(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    assert dry_run(control_plane, namespace, kind).strip().endswith("/judged")


@pytest.mark.usefixtures("custom_resources")
@pytest.mark.parametrize("kind", SPECS)
def test_custom_resource_with_an_unknown_field_is_refused(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    with pytest.raises(KubectlFailed, match=r'unknown field "spec\.misspelt"'):
        dry_run(control_plane, namespace, kind, misspelt="1")


@pytest.mark.usefixtures("custom_resources")
@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ServiceMonitor", "endpoints", "metrics"),
        ("ServiceMonitor", "endpoints", [{"port": "metrics", "interval": "often"}]),
        ("PodMonitor", "podMetricsEndpoints", [{"port": 9090}]),
        ("PrometheusRule", "groups", [{"rules": []}]),
        ("Certificate", "dnsNames", "a.test"),
        ("Certificate", "issuerRef", {}),
        ("HTTPRoute", "hostnames", ["https://a.test"]),
        ("HTTPRoute", "rules", [{"backendRefs": [{"port": 80}]}]),
        ("Rollout", "restartAt", "soon"),
        ("Application", "destination", "here"),
        ("Route", "tls", {"termination": "midway"}),
        ("OCIRepository", "url", "https://a.test/charts/keyturn"),
    ],
)
def test_custom_resource_with_a_wrong_value_is_refused(
    control_plane: ControlPlane, namespace: str, kind: str, field: str, value: Any
) -> None:
    with pytest.raises(
        KubectlFailed, match=rf"spec\.{field}.*(Invalid value|Required value|Unsupported value|must be of type)"
    ):
        dry_run(control_plane, namespace, kind, **{field: value})


def test_cached_definitions_need_no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    first = definitions.resolve()

    def find() -> str:
        raise go_toolchain.GoNotFound("none here")

    monkeypatch.setattr(go_toolchain, "find", find)
    monkeypatch.setenv("PATH", "")
    assert definitions.resolve() == first
    assert all(file.is_file() for file in first)


def test_missing_go_without_a_cache_is_reported_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(go_toolchain, "PINNED", tmp_path / "no-such-file")
    with pytest.raises(definitions.NotFound, match="install Go"):
        definitions.resolve()


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of go.sum that the test can corrupt. The cache is empty, and Go's own checks are turned off."""
    definitions.resolve()
    go = go_toolchain.find()
    monkeypatch.setattr(go_toolchain, "find", lambda: go)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = shutil.copytree(definitions.MODULE, tmp_path / "module")
    monkeypatch.setattr(definitions, "MODULE", module)
    for name, value in {"GOFLAGS": "-mod=mod", "GONOSUMDB": "*", "GOINSECURE": "*"}.items():
        monkeypatch.setenv(name, value)
    return module / "go.sum"


@pytest.mark.parametrize("module", definitions.FILES)
def test_module_that_differs_from_go_sum_is_refused(pins: Path, module: str) -> None:
    spoilt, count = re.subn(rf"^({module} v[^\s/]+ h1:).", r"\1A", pins.read_text(), flags=re.MULTILINE)
    assert count == 1
    pins.write_text(spoilt)
    with pytest.raises(definitions.NotFound, match=rf"(?s)connect to the internet.*{module}@v\S+: checksum mismatch"):
        definitions.resolve()
    assert not cached()


@pytest.mark.parametrize("module", definitions.FILES)
def test_module_missing_in_go_sum_is_refused(pins: Path, module: str) -> None:
    lines = [line for line in pins.read_text().splitlines() if not line.startswith(f"{module} ")]
    pins.write_text("\n".join([*lines, ""]))
    with pytest.raises(definitions.NotFound, match=rf"{module} v\S+ is not in .*go\.sum"):
        definitions.resolve()
    assert not cached()


def cached() -> list[Path]:
    return [entry for entry in cache.folder(definitions.KIND).iterdir() if entry.is_dir()]


@pytest.mark.parametrize("program", ["binaries", "custom_resources"])
def test_programs_that_make_runs_first_need_nothing_installed(program: str) -> None:
    """The option -S hides all installed packages from Python."""
    command = [sys.executable, "-S", "-m", f"keyturn_local.toolchain.{program}"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(INFRA)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert all(Path(line).exists() for line in done.stdout.splitlines())
