"""The measurements of `make bench` that restart workloads.

They are compared with a floor: raw applies of Secrets, and raw patches of pod templates. The same Deployment controller
runs during both. No pod starts, because the cluster has no nodes.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

from keyturn_local.bench.api_server import CONCURRENCY, NAMESPACE, in_parallel, secret_name, until, with_api
from keyturn_local.bench.latencies import Latencies, percentile
from keyturn_local.bench.rows import Row
from keyturn_local.bench.testbed import BURST, RATE, RESTART_RATE, Testbed
from keyturn_local.receiver.process import LocalReceiver
from keyturn_receiver.cluster.api import Api, path

READERS = 500  # Deployments that read one Secret
SAMPLES = {RESTART_RATE: 100, RATE: 200}  # the number of rotations in each of the two rounds, by rotations per second
ROUNDS = 3
# Without nodes, no rollout ends. So with a limit that can be reached, restarts would wait for ever.
NO_LIMIT = {"KEYTURN_MAX_UNFINISHED_PER_SECRET": str(10 * READERS)}


def rollouts(testbed: Testbed, _: Latencies) -> list[Row]:
    """Measure rotations of Secrets, first at steady rates, and then in bursts of 1,000. Each Secret has a Deployment of
    its own that reads it."""
    names = testbed.aws.names[:BURST]
    ours = [f"web-{number}" for number in range(BURST)]
    raw = [f"raw-web-{number}" for number in range(BURST)]
    read = [secret_name(name) for name in names]
    _create(testbed, [*zip(ours, read, strict=True), *((each, "none") for each in raw)])
    receiver = _started(testbed)
    sender = testbed.sender(receiver)
    asyncio.run(sender.burst(testbed.aws.rotate(names), CONCURRENCY))  # warm up
    testbed.raw_restarts(raw)
    _settle(testbed)
    floor: dict[float, list[float]] = defaultdict(list)
    alone: dict[float, list[float]] = defaultdict(list)
    for _round in range(2):
        for rate, samples in SAMPLES.items():
            floor[rate] += testbed.floor(samples, raw, rate)
            _settle(testbed)
            alone[rate] += testbed.rotate_steadily(receiver, names[:samples], rate)
            _settle(testbed)
    bursts, floors = [], []
    restarts = receiver.metric("keyturn_rollouts_total")
    for _round in range(ROUNDS):
        floors.append(testbed.raw_restarts(raw))
        _settle(testbed)
        bursts.append(asyncio.run(sender.burst(testbed.aws.rotate(names), CONCURRENCY)))
        _settle(testbed)
    restarts = receiver.metric("keyturn_rollouts_total") - restarts
    receiver.stop()
    rows = []
    for rate, part in product(SAMPLES, (0.5, 0.99)):
        label = f"accepted to restarted, {rate:g} a second, p{part * 100:.0f}"
        times = [percentile(values[rate], part) for values in (alone, floor)]
        aim = 1.3 if (rate, part) == (RESTART_RATE, 0.5) else None
        rows += [
            Row(f"{label}, to the floor", times[0] / times[1], "x", aim),
            Row(label, times[0] * 1000, "ms"),
        ]
    label = "a burst of 1,000 rotations with one Deployment each"
    return [
        *rows,
        Row(
            f"{label}, to raw applies and patches at the same concurrency",
            statistics.median(bursts) / statistics.median(floors),
            "x",
            1.3,
        ),
        Row(label, statistics.median(bursts), "s"),
        Row(f"{label}, restarts for each rotation", restarts / (ROUNDS * BURST), "restarts", 1.0),
    ]


def many_readers(testbed: Testbed, _: Latencies) -> list[Row]:
    """Measure rotations of one Secret that 500 Deployments read. A measurement is the time from the delivery to the
    last restart."""
    name = testbed.aws.names[BURST - 1]
    ours = [f"reader-{number}" for number in range(READERS)]
    raw = [f"raw-reader-{number}" for number in range(READERS)]
    _create(testbed, [*((each, secret_name(name)) for each in ours), *((each, "none") for each in raw)])
    receiver = _started(testbed)
    # If ``rollouts`` has run, this Secret has one more reader: the Deployment that ``rollouts`` has created.
    count = READERS + (1 if testbed.cluster.list("deployments", NAMESPACE, f"app=web-{BURST - 1}") else 0)

    def rotate() -> float:
        before = receiver.metric("keyturn_rollouts_total")
        versions = testbed.aws.rotate([name])
        started = time.perf_counter()
        asyncio.run(testbed.sender(receiver).post(versions))
        until(lambda: receiver.metric("keyturn_rollouts_total") >= before + count, every=0.02)
        return time.perf_counter() - started

    def patch_all() -> float:
        started = time.perf_counter()
        testbed.floor(1, [])
        testbed.raw_patches(raw)
        return time.perf_counter() - started

    rotate()  # warm up
    patch_all()
    _settle(testbed)
    times, floors = [], []
    for _round in range(ROUNDS):
        floors.append(patch_all())
        _settle(testbed)
        times.append(rotate())
        _settle(testbed)
    receiver.stop()
    label = "one rotation with 500 Deployments"
    return [
        Row(
            f"{label}, to raw patches, {CONCURRENCY} at once",
            statistics.median(times) / statistics.median(floors),
            "x",
            1.3,
        ),
        Row(f"{label}, until the last restart", statistics.median(times), "s"),
    ]


def _started(testbed: Testbed) -> LocalReceiver:
    receiver = testbed.receiver(**NO_LIMIT)
    receiver.start()
    until(lambda: receiver.metric("keyturn_sweeps_total", kind="full", outcome="ok") >= 1)
    return receiver


def _create(testbed: Testbed, deployments: Sequence[tuple[str, str]]) -> None:
    """Create Deployments with one replica each. An item is the name of a Deployment, and the name of the Secret that it
    reads. Wait until the Deployment controller has handled the Deployments."""

    async def create(api: Api, deployment: tuple[str, str]) -> None:
        await api.request("POST", path("apps/v1", "deployments", NAMESPACE), body=consumer(*deployment))

    with_api(testbed.cluster, lambda api: in_parallel(deployments, partial(create, api)))
    _settle(testbed)


def _settle(testbed: Testbed) -> None:
    """Wait until the Deployment controller has handled every change."""

    def is_settled() -> bool:
        deployments = testbed.cluster.list("deployments", NAMESPACE)
        return all(_is_handled(each) for each in deployments)

    until(is_settled, 240, every=2)
    time.sleep(1)


def _is_handled(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status") or {}
    generation = deployment["metadata"]["generation"]
    return status.get("observedGeneration") == generation and status.get("updatedReplicas") == 1


def consumer(name: str, secret: str) -> dict[str, Any]:
    """Return a Deployment that reads every key of a Secret."""
    container = {"name": "main", "image": "none", "envFrom": [{"secretRef": {"name": secret, "optional": True}}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    }
