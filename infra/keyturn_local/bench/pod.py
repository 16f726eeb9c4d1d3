"""What a pod of the chart takes of its memory limit, on a real node: measured where the kernel holds it to that.

``rows`` measures; ``python -m keyturn_local.bench.pod`` is what it runs in an enclosure.
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
from keyturn_local.bench.api_server import AT_ONCE, TEAM, create_bound, until
from keyturn_local.bench.load import Sender
from keyturn_local.bench.rows import Row
from keyturn_local.bench.stub_aws import SIGNING_KEY, StubAws
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import cgroups, enclosure, network
from keyturn_local.node.node import Node
from keyturn_local.node.obstacle import obstacle
from keyturn_local.processes.environment import IMPORT_ROOTS, surroundings
from keyturn_local.receiver.release import Release, values

HOME = "keyturn-bench"
LATENCY = 0.02  # seconds, of the stub AWS
MANY, SOME = 10_000, 1_000  # bindings, rotations
PEAK = "peak of a pod's memory at 10,000 bindings"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one pod took, in bytes.

    ``peak`` is the kernel's own, of all that counts against ``limit``, page cache included; ``resident`` that of the
    receiver's process. ``restarts``: how often its container was, with the reasons in ``ends``.
    """

    limit: int
    peak: int
    resident: int
    restarts: int
    ends: Sequence[str]


def measure(
    cluster: Cluster, directory: Path, bindings: int, rotations: int, others: Mapping[str, Any] | None = None
) -> Footprint:
    """Install the chart with one replica, let it fill empty Secrets, then rotate some of them at once.

    In an enclosure, on its node. ``others`` are values of the chart; without them all else is as by default.
    """
    with ExitStack() as stack:
        aws = stack.enter_context(StubAws(directory, bindings, LATENCY, network.HOST))
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "labels": labels}}, TEAM]
        stack.callback(cluster.delete, made, wait=False)
        cluster.create(made)
        create_bound(cluster, aws.names)
        told = {**values(aws.environment(), SIGNING_KEY), "replicas": 1, **(others or {})}
        release = stack.enter_context(Release.install(cluster, HOME, told))
        (pod,) = release.pods()
        try:
            until(lambda: release.metric("keyturn_reconciles_total", outcome="applied") >= bindings, 180, every=0.5)
            sender = Sender(release.url, parse_key(aws.signing_key))
            asyncio.run(sender.burst(aws.rotate(aws.names[:rotations]), AT_ONCE))
        except Exception:
            if not _comes_again(release):  # else it was killed, which is an answer, too
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


def _comes_again(release: Release) -> bool:
    """Whether the container ended, which its status tells a moment later."""
    try:
        until(lambda: _restarts(release), 15, every=0.5)
    except TimeoutError:
        return False
    return True


def _restarts(release: Release) -> int:
    return sum(each["restartCount"] for pod in release.pods() for each in pod["status"]["containerStatuses"])


def _high_water(process: str) -> int:
    """The most that a process has had resident, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc", process, "status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def rows() -> list[Row]:
    """Measure in an enclosure; where there can be none, the one row says so."""
    if why := obstacle():
        return [Row(PEAK, None, "MiB", missing=why)]
    command = [sys.executable, "-m", enclosure.__name__, sys.executable, "-m", __name__]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, env={**surroundings(), "PYTHONPATH": IMPORT_ROOTS}
    )
    return [Row(**each) for each in json.loads(done.stdout)]


def _rows(footprint: Footprint) -> list[Row]:
    mebibyte = 2**20
    return [
        Row(f"{PEAK}, of the chart's limit", footprint.peak / footprint.limit, "x", 1.0),
        Row(PEAK, footprint.peak / mebibyte, "MiB"),
        Row(f"{PEAK}, resident memory of its process alone", footprint.resident / mebibyte, "MiB"),
        Row("restarts of that pod's container, for whatever reason", footprint.restarts, "restarts", 0.0),
    ]


def main() -> None:
    """Measure, and print the rows as JSON."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        cluster = stack.enter_context(ControlPlane.start(directory / "control-plane", host=network.HOST))
        stack.enter_context(Node.start(directory, cluster))
        print(json.dumps([asdict(row) for row in _rows(measure(cluster, directory, MANY, SOME))]))


if __name__ == "__main__":
    main()
