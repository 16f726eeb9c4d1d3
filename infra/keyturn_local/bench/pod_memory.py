"""Measurement of a pod's memory against the chart's limit. The pod runs on a real node, where the kernel enforces the
limit.

``rows`` starts ``python -m keyturn_local.bench.pod_memory`` in an enclosure. This program makes the measurement.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyturn_contract.signature import parse_key
from keyturn_local.bench.api_server import CONCURRENCY, NAMESPACE_OBJECT, create_bound, until
from keyturn_local.bench.load import Sender
from keyturn_local.bench.rows import Row
from keyturn_local.bench.stub_aws import SIGNING_KEY, StubAws
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import cgroups, enclosure, network
from keyturn_local.node.node import Node
from keyturn_local.node.preflight import preflight
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.receiver.release import Release, values

HOME = "keyturn-bench"  # the namespace of the release
LATENCY = 0.02  # seconds until the stub AWS answers
BINDINGS, ROTATIONS = 10_000, 1_000
PEAK = "peak of a pod's memory at 10,000 bindings"


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of one pod in bytes, and the number of restarts of its container.

    ``peak`` is the peak of the memory that the kernel compares with ``limit``. It includes the page cache. ``resident``
    is the peak of the resident memory of the receiver's process. ``ends`` has the reason why the container last ended,
    such as OOMKilled. It is empty if the container has not restarted.
    """

    limit: int
    peak: int
    resident: int
    restarts: int
    ends: Sequence[str]


def measure(
    cluster: Cluster, directory: Path, bindings: int, rotations: int, others: Mapping[str, Any] | None = None
) -> Footprint:
    """Install the chart with one replica. Let the replica fill ``bindings`` Secrets, and then rotate ``rotations`` of
    their AWS secrets at once.

    This works only in an enclosure with a node. ``others`` are further values for the chart.
    """
    with ExitStack() as stack:
        aws = stack.enter_context(StubAws(directory, bindings, LATENCY, network.HOST))
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "labels": labels}}
        namespaces = [home, NAMESPACE_OBJECT]
        stack.callback(cluster.delete, namespaces, wait=False)
        cluster.create(namespaces)
        create_bound(cluster, aws.names)
        chart_values = {**values(aws.environment(), SIGNING_KEY), "replicas": 1, **(others or {})}
        release = stack.enter_context(Release.install(cluster, HOME, chart_values))
        (pod,) = release.pods()
        try:
            until(lambda: release.metric("keyturn_reconciles_total", outcome="applied") >= bindings, 180, every=0.5)
            sender = Sender(release.url, parse_key(aws.signing_key))
            asyncio.run(sender.burst(aws.rotate(aws.names[:rotations]), CONCURRENCY))
        except Exception:
            if not _restarted(release):  # a killed container is a result of the measurement, and not a failure of it
                raise
        return _footprint(release, str(pod["metadata"]["uid"]))


def _footprint(release: Release, uid: str) -> Footprint:
    (pod,) = release.pods()
    (container,) = pod["status"]["containerStatuses"]
    ends = [state["reason"] for state in container.get("lastState", {}).values()]
    (cgroup,) = cgroups.MOUNT.glob(f"**/{enclosure.cgroup()}/**/*pod{uid}/memory.stat")
    peak, limit = (
        ("memory.peak", "memory.max")
        if (cgroup.parent / "memory.peak").exists()
        else ("memory.max_usage_in_bytes", "memory.limit_in_bytes")
    )
    processes = [process for file in cgroup.parent.glob("**/cgroup.procs") for process in file.read_text().splitlines()]
    return Footprint(
        int((cgroup.parent / limit).read_text()),
        int((cgroup.parent / peak).read_text()),
        max(map(_high_water, processes), default=0),
        _restarts(release),
        ends,
    )


def _restarted(release: Release) -> bool:
    """Return whether the container has restarted. Wait up to 15 s for this, because the container's status may be
    late."""
    try:
        until(lambda: _restarts(release), 15, every=0.5)
    except TimeoutError:
        return False
    return True


def _restarts(release: Release) -> int:
    return sum(each["restartCount"] for pod in release.pods() for each in pod["status"]["containerStatuses"])


def _high_water(process: str) -> int:
    """Return the peak of a process's resident memory in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc", process, "status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def rows() -> list[Row]:
    """Make the measurement in an enclosure, and return its rows. If no node can run here, return a single row with the
    reason."""
    if reason := preflight():
        return [Row(PEAK, None, "MiB", missing=reason)]
    command = [sys.executable, "-m", enclosure.__name__, sys.executable, "-m", __name__]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, env={**clean_environment(), "PYTHONPATH": IMPORT_ROOTS}
    )
    return [Row(**each) for each in json.loads(result.stdout)]


def _rows(footprint: Footprint) -> list[Row]:
    mebibyte = 2**20
    return [
        Row(f"{PEAK}, of the chart's limit", footprint.peak / footprint.limit, "x", 1.0),
        Row(PEAK, footprint.peak / mebibyte, "MiB"),
        Row(f"{PEAK}, resident memory of its process alone", footprint.resident / mebibyte, "MiB"),
        Row("restarts of that pod's container, for whatever reason", footprint.restarts, "restarts", 0.0),
    ]


def main() -> None:
    """Make the measurement, and print the rows as JSON."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        cluster = stack.enter_context(ControlPlane.start(directory / "control-plane", host=network.HOST))
        stack.enter_context(Node.start(directory, cluster))
        print(json.dumps([asdict(row) for row in _rows(measure(cluster, directory, BINDINGS, ROTATIONS))]))


if __name__ == "__main__":
    main()
