"""`make bench`: the receiver on the real API server, against raw applies measured beside it, and a stub AWS of 20 ms.

All ratios are of one run on one machine; the seconds beside them say which machine that was.
"""

import asyncio
import base64
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import aiohttp
import boto3
from botocore.config import Config

from keyturn_contract.signature import parse_key
from keyturn_local.bench import plot, pod
from keyturn_local.bench.api_server import AT_ONCE, NAMESPACE, TEAM, beside, create, create_bound, until, with_api
from keyturn_local.bench.latencies import Latencies
from keyturn_local.bench.load import NotDelivered, Sender, percentile
from keyturn_local.bench.rows import Row, table, write
from keyturn_local.bench.stub_aws import SIGNING_KEY, StubAws, arn_of
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.paths import ROOT
from keyturn_local.processes.environment import bypass_proxies
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from keyturn_receiver.cluster.api import APPLY, METADATA_ONLY, Api, path
from keyturn_receiver.core.revision import Record, version_key, write_record

OUTPUT = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "benchmark.md"

LATENCY = 0.02  # seconds, of the stub AWS
RATE = 20.0  # rotations a second
SAMPLES = 400  # rotations of one phase: twenty seconds
MANY, SOME = 10_000, 1_000  # bindings


class Bench:
    """What the scenes stand on."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.cluster = stack.enter_context(ControlPlane.start(directory / "control-plane", nodes=0))
        self.aws = stack.enter_context(StubAws(directory, MANY, LATENCY))
        self.cluster.create([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keyturn"}}, TEAM])
        self.cluster.create(chart_rights("keyturn"))
        self.kubeconfig = self.cluster.kubeconfig_for("keyturn", SERVICE_ACCOUNT, directory)
        self.key = parse_key(self.aws.signing_key)
        self._stack = stack
        self._round = 0

    def receiver(self, **settings: str) -> LocalReceiver:
        """A replica, not started yet; it is stopped at the end."""
        never = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600", "KEYTURN_HEARTBEAT_SILENCE_SECONDS": "0"}
        made = LocalReceiver(
            self.directory, self.kubeconfig, self.aws.environment(), SIGNING_KEY, "keyturn", {**never, **settings}
        )
        self._stack.callback(made.stop)
        return made

    def create_raw(self) -> None:
        """Create as many Secrets like those as a round of raw applies writes, but for the label."""
        names = self.aws.names[:SOME]
        with_api(self.cluster, lambda api: beside(names, lambda name: create(api, name, _raw_name(name), "false")))

    def raw_applies(self) -> float:
        """Apply a thousand Secrets of the size of ours, AT_ONCE at once; return the seconds that it takes."""
        self._round += 1
        return with_api(self.cluster, lambda api: beside(range(SOME), lambda number: self._apply(api, number)))

    def floor(self, count: int) -> list[float]:
        """Read one value and apply one Secret, RATE times a second; return the seconds of each."""
        self._round += 1
        environment = self.aws.environment()
        session = boto3.session.Session("testing", "testing", region_name=environment["AWS_REGION"])
        client = session.client("secretsmanager", endpoint_url=self.aws.endpoint_url, config=Config(proxies={}))

        async def once(api: Api, executor: ThreadPoolExecutor, number: int) -> float:
            begun = time.perf_counter()
            read = partial(client.get_secret_value, SecretId=self.aws.names[number])
            await asyncio.get_running_loop().run_in_executor(executor, read)
            await self._apply(api, number)
            return time.perf_counter() - begun

        async def all_of_them(api: Api) -> list[float]:
            with ThreadPoolExecutor(8) as executor:
                return await _at_rate(count, lambda number: once(api, executor, number))

        return with_api(self.cluster, all_of_them)

    def steadily(self, receiver: LocalReceiver, names: Sequence[str]) -> list[float]:
        """Rotate these secrets, RATE a second; return the seconds from each delivery to its acknowledgement."""
        sender = self.sender(receiver)

        async def once(session: aiohttp.ClientSession, name: str) -> float:
            versions = await asyncio.to_thread(self.aws.rotate, [name])
            return await sender.send(session, versions)

        async def all_of_them() -> list[float]:
            async with aiohttp.ClientSession() as session:
                return await _at_rate(len(names), lambda number: once(session, names[number]))

        return asyncio.run(all_of_them())

    async def _apply(self, api: Api, number: int) -> None:
        """One server-side apply, of what the receiver would write."""
        name = self.aws.names[number]
        version_id = f"{self._round:08d}-{number:08d}-0000-0000-00000000"
        digest = f"{self._round:032d}{number:032d}"
        record = Record(
            {version_key(arn_of(name), "AWSCURRENT"): version_id},
            {"username": version_id, "password": version_id},
            digest,
            digest[:16],
            "ok",
        )
        data = {"username": "YXBw", "password": base64.b64encode(version_id.encode()).decode()}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": _raw_name(name),
                "namespace": NAMESPACE,
                "annotations": write_record(record, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")),
            },
            "data": data,
        }
        query = {"fieldManager": "keyturn", "force": "true"}
        where = path("v1", "secrets", NAMESPACE, _raw_name(name))
        await api.request("PATCH", where, query, body, content_type=APPLY, accept=METADATA_ONLY)

    def sender(self, receiver: LocalReceiver) -> Sender:
        """What sends to it."""
        return Sender(receiver.url, self.key)


def _raw_name(name: str) -> str:
    return f"raw-{name.replace('/', '-')}"


async def _at_rate(count: int, work: Callable[[int], Awaitable[float]]) -> list[float]:
    """Begin ``work`` RATE times a second, whether the one before has ended or not."""
    begun = time.perf_counter()
    under_way = []
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
        under_way.append(asyncio.ensure_future(work(number)))
    return list(await asyncio.gather(*under_way))


def main() -> None:
    """Measure everything, print the table, and write it to OUTPUT and PAGE."""
    bypass_proxies()
    rows: list[Row] = []
    latencies = Latencies()
    of_a_pod = pod.rows()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = Bench(Path(name), stack)
        for scene in (_restore, _latency, _burst, _door, _many, _sweeps):
            begun = time.monotonic()
            rows += scene(bench, latencies)
            print(f"{scene.__name__.strip('_')}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    rows += of_a_pod
    write(rows, OUTPUT)
    print(table(rows))
    plot.draw(PAGE.with_suffix(".svg"), latencies)
    PAGE.write_text(_page(rows))


def _restore(bench: Bench, _: Latencies) -> list[Row]:
    """A cluster is rebuilt: a thousand bound Secrets are there, and empty."""
    names = bench.aws.names[:SOME]
    create_bound(bench.cluster, names)
    bench.create_raw()
    bench.raw_applies()  # warm
    raw = bench.raw_applies()
    receiver = bench.receiver()
    before = bench.aws.calls()
    begun = time.monotonic()
    receiver.start()
    until(lambda: _applied(receiver) >= SOME)
    took = time.monotonic() - begun
    calls = bench.aws.calls() - before
    receiver.stop()
    reads = calls["BatchGetSecretValue"] + calls["GetSecretValue"]
    return [
        Row("cold restore of 1,000 Secrets, from the receiver's start, to 1,000 raw applies", took / raw, "x"),
        Row("cold restore of 1,000 Secrets, from the receiver's start", took, "s"),
        Row("cold restore of 1,000 Secrets, calls that read values", reads, "calls"),
    ]


def _latency(bench: Bench, latencies: Latencies) -> list[Row]:
    """Rotations come twenty a second; the floor is measured before, between and after."""
    receiver = bench.receiver()
    receiver.start()
    names = bench.aws.names[:SOME]
    bench.steadily(receiver, names[:100])  # warm
    for _ in range(2):
        latencies.floor += bench.floor(SAMPLES // 2)
        latencies.alone += bench.steadily(receiver, names[:SAMPLES])
    latencies.floor += bench.floor(SAMPLES // 2)
    receiver.stop()
    rows = []
    for part, aim in ((0.5, 1.5), (0.99, 3.0)):
        ours, floor = (percentile(values, part) for values in (latencies.alone, latencies.floor))
        label = f"p{part * 100:.0f}"
        rows += [
            Row(f"accepted to applied, {label}, to the floor", ours / floor, "x", aim),
            Row(f"accepted to applied, {label}", ours * 1000, "ms"),
            Row(f"floor: one value read and one raw apply, {label}", floor * 1000, "ms"),
        ]
    return rows


def _burst(bench: Bench, latencies: Latencies) -> list[Row]:
    """A thousand secrets rotate at once; by turns with as many raw applies."""
    receiver = bench.receiver()
    receiver.start()
    names = bench.aws.names[:SOME]
    sender = bench.sender(receiver)
    asyncio.run(sender.burst(bench.aws.rotate(names), AT_ONCE))  # warm: from here on it remembers the Secrets
    until(partial(_swept, receiver))
    raw, ours, cpu = [], [], []
    for _ in range(5):
        raw.append(bench.raw_applies())
        before = _cpu(receiver)
        ours.append(asyncio.run(sender.burst(bench.aws.rotate(names), AT_ONCE)))
        cpu.append(_cpu(receiver) - before)
    receiver.stop()
    return [
        Row(
            "a burst of 1,000 rotations, to raw applies at the same concurrency",
            statistics.median(ours) / statistics.median(raw),
            "x",
            1.3,
        ),
        Row("a burst of 1,000 rotations", statistics.median(ours), "s"),
        Row("a burst of 1,000 rotations, CPU of the receiver for each", statistics.median(cpu) / SOME * 1000, "ms"),
        Row("1,000 raw applies", statistics.median(raw), "s"),
    ]


def _door(bench: Bench, _: Latencies) -> list[Row]:
    """As many deliveries as the door takes, verified and forged; per CPU second of the receiver's own."""
    receiver = bench.receiver(KEYTURN_LOG_LEVEL="WARNING")
    receiver.start()
    until(partial(_swept, receiver))  # the calls of a start are not the deliveries'
    sender = bench.sender(receiver)
    rows = []
    for forged, name, aim in ((False, "verified", 3000.0), (True, "forged", None)):
        sender.flood(1, 16, forged)  # warm
        time.sleep(1)
        aws, kubernetes, cpu = bench.aws.calls(), _kubernetes_calls(receiver), _cpu(receiver)
        seconds, answered = sender.flood(5, 16, forged)
        cpu = _cpu(receiver) - cpu
        if answered.keys() != {401 if forged else 200}:
            raise NotDelivered(f"answered {dict(answered)}")
        rows += [
            Row(f"{name} deliveries per second and core", answered.total() / cpu, "/s", aim, at_least=True),
            Row(f"{name} deliveries per second", answered.total() / seconds, "/s"),
        ]
        if forged:
            calls = (bench.aws.calls() - aws).total() + _kubernetes_calls(receiver) - kubernetes
            rows.append(Row("forged deliveries, calls to AWS and Kubernetes that they caused", calls, "calls", 0.0))
    receiver.stop()
    return rows


def _many(bench: Bench, _: Latencies) -> list[Row]:
    """Ten thousand bindings: filled, then the receiver is started anew, with nothing changed in AWS."""
    create_bound(bench.cluster, bench.aws.names[SOME:])
    receiver = bench.receiver()
    receiver.start()
    until(lambda: _applied(receiver) >= MANY - SOME, 120)
    receiver.stop()
    bench.aws.age(3600)
    before = bench.aws.calls()
    begun = time.monotonic()
    receiver.start()
    ready = time.monotonic() - begun
    until(partial(_swept, receiver))
    time.sleep(2)
    calls = bench.aws.calls() - before
    written = receiver.metric("keyturn_kubernetes_requests_total", verb="patch")
    rss = receiver.metric("process_resident_memory_bytes") / 2**20
    asyncio.run(bench.sender(receiver).burst(bench.aws.rotate(bench.aws.names[:SOME]), AT_ONCE))
    busy = receiver.metric("process_resident_memory_bytes") / 2**20
    receiver.stop()
    return [
        Row("memory at 10,000 bindings, started and swept", rss, "MiB", 128.0),
        Row("memory at 10,000 bindings, after a burst of 1,000 rotations", busy, "MiB", 128.0),
        Row("start at 10,000 bindings, until ready", ready, "s", 10.0),
        Row("start at 10,000 bindings, calls that list", calls["ListSecrets"], "calls", MANY / 100 + 1),
        Row("start at 10,000 bindings, values read", calls["GetSecretValue"] - 1, "calls", 0.0),
        Row("start at 10,000 bindings, writes", written, "calls", 0.0),
    ]


def _sweeps(bench: Bench, latencies: Latencies) -> list[Row]:
    """Ten thousand bindings are swept all the time, or not at all, while rotations come twenty a second."""
    names = bench.aws.names[: SAMPLES // 2]
    for _ in range(4):  # by turns, so that what else the machine does falls on both
        for measured, interval in ((latencies.quiet, "3600"), (latencies.sweeping, "1")):
            bench.aws.renew()  # so that each sweep lists all of them
            receiver = bench.receiver(KEYTURN_POLL_INTERVAL_SECONDS=interval)
            receiver.start()
            until(partial(_swept, receiver))
            bench.steadily(receiver, names[:20])  # warm
            measured += bench.steadily(receiver, names)
            receiver.stop()
    bench.aws.age(3600)
    receiver = bench.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    receiver.start()
    until(partial(_swept, receiver))
    sweeps, before = receiver.metric("keyturn_sweeps_total", kind="changes"), bench.aws.calls()
    until(lambda: receiver.metric("keyturn_sweeps_total", kind="changes") >= sweeps + 5)
    receiver.stop()
    changes = (bench.aws.calls() - before)["ListSecrets"] / 5
    quiet, sweeping = (percentile(values, 0.99) for values in (latencies.quiet, latencies.sweeping))
    return [
        Row("accepted to applied, p99 during a sweep of 10,000 bindings, to without", sweeping / quiet, "x", 1.1),
        Row("accepted to applied, p99 during a sweep of 10,000 bindings", sweeping * 1000, "ms"),
        Row("accepted to applied, p99 at 10,000 bindings without a sweep", quiet * 1000, "ms"),
        # One full pass and eleven others of the poller, and a look at the signing key each minute.
        Row("calls to AWS in an hour at 10,000 secrets, one replica", MANY / 100 + 1 + 11 * changes + 60, "calls"),
    ]


def _swept(receiver: LocalReceiver) -> bool:
    return receiver.metric("keyturn_sweeps_total", kind="full", outcome="ok") >= 1


def _applied(receiver: LocalReceiver) -> float:
    return receiver.metric("keyturn_reconciles_total", outcome="applied")


def _cpu(receiver: LocalReceiver) -> float:
    return receiver.metric("process_cpu_seconds_total")


def _kubernetes_calls(receiver: LocalReceiver) -> float:
    """All but those of the Leases, which go on whatever happens."""
    total = receiver.metric("keyturn_kubernetes_requests_total")
    return total - receiver.metric("keyturn_kubernetes_requests_total", resource="leases")


def _page(rows: Sequence[Row]) -> str:
    return f"""# Benchmark

Made by `make bench`, in one run on one machine of {os.cpu_count()} cores, on which the API server, etcd, the stub AWS
and the load ran beside the receiver. The ratios are what to look at. AWS is a stub that answers after
{LATENCY * 1000:g} ms; the API server, etcd and the receiver's rights are the real ones; there are no workloads, so that
nothing but Secrets is written.

![Accepted to applied](benchmark.svg)

{table(rows)}

- *Floor*: one `GetSecretValue` by boto3 in a thread, then one server-side apply by the official client's transport,
  {RATE:g} times a second.
- *Raw applies*: 1,000 server-side applies of a Secret of the same size, {AT_ONCE} at once, that nobody watches.
- *Accepted to applied*: from sending a signed delivery to its acknowledgement, which means applied.
- *A burst* is bound by the receiver's CPU: one thread of Python verifies, reads, plans, applies, and takes note of what
  the watch shows of it, beside an API server to which raw applies leave both cores. Replicas share a burst; one has no
  second thread to give.
- *A pod* is one of the chart's, of one replica, on a real node: 10,000 empty Secrets are filled from the start on, then
  1,000 rotate at once. Its peak is the kernel's count of what it holds against the limit. A page of a file counts for
  whoever read it first, so that the process may have more resident than its pod is charged for.
"""


if __name__ == "__main__":
    main()
