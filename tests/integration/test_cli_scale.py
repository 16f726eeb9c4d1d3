"""`keyturn status` of 10,000 bindings: its time and its memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3

from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.bindings import bound_object

BINDINGS = 10_000
FAILING = 100
NAMESPACE = "cli-scale"
SECONDS = 2.0
MIB = 100
# The machine of a test run may be shared with other tests, so the best of several runs counts.
RUNS = 5


def made(number: int) -> dict[str, Any]:
    """Return a Secret as a receiver leaves it."""
    status = "ok" if number >= FAILING else "InvalidValue: AWS secret prod/x: no property pasword: correct the binding"
    each = bound_object(f"s{number:05}", f"{number:08}-55b2-4b4e-a1f4-3f4b7c9d2e10", status)
    metadata = {name: each["metadata"][name] for name in ("name", "labels", "annotations")}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": each["data"]}


@pytest.fixture(scope="module")
def bindings(control_plane: ControlPlane) -> Iterator[None]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    control_plane.create([namespace])
    pool = urllib3.PoolManager(maxsize=16, ca_certs=str(control_plane.ca_file), timeout=60)
    headers = {"Authorization": f"Bearer {control_plane.admin_token}", "Content-Type": "application/apply-patch+yaml"}

    def call(method: str, number: int, **sent: Any) -> None:
        path = f"{control_plane.url}/api/v1/namespaces/{NAMESPACE}/secrets/s{number:05}?fieldManager=keyturn"
        reply = pool.request(method, path, headers=headers, **sent)
        assert reply.status < 300, reply.data

    # Sixteen threads take half a minute. `kubectl delete --all` takes two minutes.
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: call("PATCH", number, body=json.dumps(made(number))), range(BINDINGS)))
        yield
        list(threads.map(lambda number: call("DELETE", number), range(BINDINGS)))
    control_plane.delete([namespace], wait=False)


def measured(control_plane: ControlPlane, *arguments: str) -> tuple[float, float, int, str]:
    """Return the seconds, the seconds of CPU and the MiB that a command took, and its output."""
    program = (
        "import resource, subprocess, sys, time; began = time.monotonic();"
        "subprocess.run(sys.argv[1:], stdout=open('/dev/stderr', 'w'));"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024;"
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(time.monotonic() - began, usage.ru_utime + usage.ru_stime, peak)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *cli.command(*arguments)],
        env=cli.environment(control_plane.kubeconfig),
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, cpu, peak = ended.stdout.split()
    return float(seconds), float(cpu), int(peak), ended.stderr


@pytest.mark.long
@pytest.mark.usefixtures("bindings")
@pytest.mark.parametrize("arguments", [(), ("--failing",), ("-o", "json")], ids=["all", "failing", "json"])
def test_status_of_10000_bindings_is_fast_and_small(control_plane: ControlPlane, arguments: tuple[str, ...]) -> None:
    runs = [measured(control_plane, "status", NAMESPACE, *arguments) for _ in range(RUNS)]
    seconds, cpu, peak, out = min(runs)
    print(
        f"status {' '.join(arguments)}: {seconds:.2f} s, {cpu:.2f} s of CPU, {peak} MiB, load {os.getloadavg()[0]:.1f}"
    )
    lines = FAILING if "--failing" in arguments else BINDINGS
    assert out.count("InvalidValue") == FAILING
    assert len(json.loads(out)["items"] if "json" in arguments else out.splitlines()[1:]) == lines
    assert peak < MIB
    assert cpu < SECONDS
    if os.getloadavg()[0] < (os.cpu_count() or 1) + 1:  # otherwise other programs take most of the time
        assert seconds < SECONDS
