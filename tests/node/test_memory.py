"""A receiver with many bindings stays within the chart's memory limit. `make bench` measures it with 10,000
bindings."""

from pathlib import Path

from keyturn_local.bench.api_server import NAMESPACE
from keyturn_local.bench.pod_memory import measure
from keyturn_local.kubernetes.control_plane import ControlPlane

BINDINGS, ROTATIONS = 2000, 500
MEBIBYTE = 2**20


def test_pod_with_2000_bindings_stays_within_its_memory(control_plane: ControlPlane, tmp_path: Path) -> None:
    """With 2,000 bindings, the receiver uses no more memory than the chart requests for 10,000."""
    footprint = measure(control_plane, tmp_path, BINDINGS, ROTATIONS)
    assert not footprint.restarts, footprint
    assert footprint.limit == 256 * MEBIBYTE
    assert footprint.peak <= footprint.limit
    assert footprint.resident <= 128 * MEBIBYTE, footprint
    control_plane.kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=120s")
