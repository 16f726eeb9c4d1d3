"""The measurements of `make bench`. Their order in MEASUREMENTS matters, because some need the Secrets that earlier
ones create (NEEDED)."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from keyturn_local.aws.sdk import ACCOUNT
from keyturn_local.bench.api_server import (
    CONCURRENCY,
    NAMESPACE,
    create,
    create_bound,
    in_parallel,
    secret_name,
    until,
    with_api,
)
from keyturn_local.bench.latencies import Latencies, percentile
from keyturn_local.bench.load import NotDelivered
from keyturn_local.bench.pages import open_pages
from keyturn_local.bench.rollouts import many_readers, rollouts
from keyturn_local.bench.rows import Row
from keyturn_local.bench.testbed import BINDINGS, BURST, Testbed
from keyturn_local.receiver.process import LocalReceiver, total
from keyturn_receiver.cluster.api import Api, path

SAMPLES = 400  # the number of rotations in one phase of ``latency``, which takes twenty seconds
COUNTED = 20  # the number of rotations whose calls are counted; they are made one after another
IDENTITIES = 1_000  # the number of ServiceAccounts; each has its own role
TEAMS = 20  # the number of namespaces that contain these ServiceAccounts
AT_MOST = 1.02 * IDENTITIES  # one call per ServiceAccount, and 2 % for sweeps that the count only partly covers
SWEEPS = 3  # the number of sweeps whose calls are counted while nothing changes
# Seconds after which the watches have shown the writes of a rotation and of the Deployment controller.
SETTLE_SECONDS = 1.0

Measurement = Callable[[Testbed, Latencies], list[Row]]


def calls(testbed: Testbed, latencies: Latencies) -> list[Row]:
    """Count the calls of one rotation in steady state: there are one binding and one consumer, and all caches are
    filled."""
    name = testbed.aws.names[-1]
    create_bound(testbed.cluster, [name])
    consumer = _consumer(secret_name(name))
    testbed.cluster.create([consumer])
    receiver = testbed.receiver()
    receiver.start()
    until(partial(_swept, receiver))
    until(lambda: _applied(receiver) >= 1)
    for _ in range(3):  # warm up: the caches are filled, and the consumer gets its first mark (Keyturn's annotation)
        testbed.rotate_steadily(receiver, [name])
        time.sleep(SETTLE_SECONDS)
    aws, before = testbed.aws.calls(), receiver.metrics()
    for _ in range(COUNTED):
        testbed.rotate_steadily(receiver, [name])
        time.sleep(SETTLE_SECONDS)
    aws, after = testbed.aws.calls() - aws, receiver.metrics()
    receiver.stop()
    bound = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret_name(name), "namespace": NAMESPACE}}
    testbed.cluster.delete([consumer, bound])

    def requests(**labels: str) -> float:
        metric = "keyturn_kubernetes_requests_total"
        return total(after, metric, **labels) - total(before, metric, **labels)

    applies, marks = (requests(verb="patch", resource=each, code="200") for each in ("secrets", "deployments"))
    events = requests(resource="events")
    lists = requests(resource="pods") + requests(resource="cronjobs")
    others = requests() - requests(resource="leases") - applies - marks - events - lists
    reconciles = total(after, "keyturn_reconciles_total") - total(before, "keyturn_reconciles_total")
    label = "one rotation with one consumer"
    return [
        Row(f"{label}, values read in AWS", (aws["GetSecretValue"] + aws["BatchGetSecretValue"]) / COUNTED, "calls", 1),
        Row(f"{label}, applies of its Secret", applies / COUNTED, "calls", 1),
        Row(f"{label}, marks of its consumer", marks / COUNTED, "calls", 1),
        Row(f"{label}, other calls to Kubernetes", others / COUNTED, "calls", 0),
        Row(f"{label}, Events written", events / COUNTED, "calls"),
        Row(f"{label}, lists of pods and CronJobs that are not restarted", lists / COUNTED, "calls"),
        Row(f"{label}, reconciles", reconciles / COUNTED, "reconciles", 1),
    ]


def restore(testbed: Testbed, _: Latencies) -> list[Row]:
    """Measure how fast the receiver fills 1,000 empty bound Secrets, as it would after a cluster was built again."""
    names = testbed.aws.names[:BURST]
    create_bound(testbed.cluster, names)
    testbed.create_raw()
    testbed.raw_applies()  # warm up
    raw = testbed.raw_applies()
    receiver = testbed.receiver()
    before = testbed.aws.calls()
    started = time.monotonic()
    receiver.start()
    until(lambda: _applied(receiver) >= BURST)
    seconds = time.monotonic() - started
    aws = testbed.aws.calls() - before
    receiver.stop()
    reads = aws["BatchGetSecretValue"] + aws["GetSecretValue"]
    return [
        Row("cold restore of 1,000 Secrets, from the receiver's start, to 1,000 raw applies", seconds / raw, "x"),
        Row("cold restore of 1,000 Secrets, from the receiver's start", seconds, "s"),
        Row("cold restore of 1,000 Secrets, calls that read values", reads, "calls"),
    ]


def latency(testbed: Testbed, latencies: Latencies) -> list[Row]:
    """Measure the latency at twenty rotations per second, in two phases. The floor (one read of a value and one raw
    apply) is measured before, between and after the phases."""
    receiver = testbed.receiver()
    receiver.start()
    names = testbed.aws.names[:BURST]
    testbed.rotate_steadily(receiver, names[:100])  # warm up
    for _ in range(2):
        latencies.floor += testbed.floor(SAMPLES // 2)
        latencies.alone += testbed.rotate_steadily(receiver, names[:SAMPLES])
    latencies.floor += testbed.floor(SAMPLES // 2)
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


def burst(testbed: Testbed, latencies: Latencies) -> list[Row]:
    """Measure bursts of 1,000 rotations. They alternate with bursts of 1,000 raw applies."""
    receiver = testbed.receiver()
    receiver.start()
    names = testbed.aws.names[:BURST]
    sender = testbed.sender(receiver)
    asyncio.run(sender.burst(testbed.aws.rotate(names), CONCURRENCY))  # warm up: fill the receiver's caches
    until(partial(_swept, receiver))
    raw, ours, cpu = [], [], []
    for _ in range(5):
        raw.append(testbed.raw_applies())
        before = _cpu(receiver)
        ours.append(asyncio.run(sender.burst(testbed.aws.rotate(names), CONCURRENCY)))
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
        Row("a burst of 1,000 rotations, CPU of the receiver for each", statistics.median(cpu) / BURST * 1000, "ms"),
        Row("1,000 raw applies", statistics.median(raw), "s"),
    ]


def webhook(testbed: Testbed, _: Latencies) -> list[Row]:
    """Measure how many deliveries the webhook answers per second of the receiver's CPU time: first genuine deliveries,
    and then forged ones."""
    receiver = testbed.receiver(KEYTURN_LOG_LEVEL="WARNING")
    receiver.start()
    until(partial(_swept, receiver))  # the calls at the receiver's start are over then, so they do not count
    sender = testbed.sender(receiver)
    rows = []
    for forged, name, aim in ((False, "verified", 3000.0), (True, "forged", None)):
        sender.flood(1, 16, forged)  # warm up
        time.sleep(1)
        aws, kubernetes, cpu = testbed.aws.calls(), _kubernetes_calls(receiver), _cpu(receiver)
        seconds, statuses = sender.flood(5, 16, forged)
        cpu = _cpu(receiver) - cpu
        if statuses.keys() != {401 if forged else 200}:
            raise NotDelivered(f"answers by status: {dict(statuses)}")
        rows += [
            Row(f"{name} deliveries per second and core", statuses.total() / cpu, "/s", aim, at_least=True),
            Row(f"{name} deliveries per second", statuses.total() / seconds, "/s"),
        ]
        if forged:
            calls = (testbed.aws.calls() - aws).total() + _kubernetes_calls(receiver) - kubernetes
            rows.append(Row("forged deliveries, calls to AWS and Kubernetes that they caused", calls, "calls", 0.0))
    receiver.stop()
    return rows


def many_bindings(testbed: Testbed, _: Latencies) -> list[Row]:
    """Add bindings until there are 10,000, and let a receiver fill them. Then measure a restart of the receiver while
    nothing has changed in AWS, and the receiver's memory before and after a burst of 1,000 rotations."""
    create_bound(testbed.cluster, testbed.aws.names[BURST:])
    receiver = testbed.receiver()
    receiver.start()
    until(lambda: _applied(receiver) >= BINDINGS - BURST, 120)
    receiver.stop()
    testbed.aws.age(3600)
    before = testbed.aws.calls()
    started = time.monotonic()
    receiver.start()
    ready = time.monotonic() - started
    until(partial(_swept, receiver))
    time.sleep(2)
    aws = testbed.aws.calls() - before
    writes = receiver.metric("keyturn_kubernetes_requests_total", verb="patch")
    swept = receiver.metric("process_resident_memory_bytes") / 2**20
    asyncio.run(testbed.sender(receiver).burst(testbed.aws.rotate(testbed.aws.names[:BURST]), CONCURRENCY))
    busy = receiver.metric("process_resident_memory_bytes") / 2**20
    receiver.stop()
    return [
        Row("memory at 10,000 bindings, started and swept", swept, "MiB", 128.0),
        Row("memory at 10,000 bindings, after a burst of 1,000 rotations", busy, "MiB", 128.0),
        Row("start at 10,000 bindings, until ready", ready, "s", 10.0),
        Row("start at 10,000 bindings, calls that list", aws["ListSecrets"], "calls", BINDINGS / 100 + 1),
        Row("start at 10,000 bindings, values read", aws["GetSecretValue"], "calls", 0.0),
        Row("start at 10,000 bindings, writes", writes, "calls", 0.0),
    ]


def sweeps(testbed: Testbed, latencies: Latencies) -> list[Row]:
    """Measure the latency of rotations in two cases: while the poller sweeps 10,000 bindings without a pause, and while
    it rests. Also count the calls to AWS of a poller when nothing changes in AWS."""
    names = testbed.aws.names[: SAMPLES // 2]
    for _ in range(4):  # the two cases alternate, so other load on the machine affects both of them
        for seconds, interval in ((latencies.quiet, "3600"), (latencies.sweeping, "1")):
            testbed.aws.renew()  # after this, each sweep has to list all secrets
            receiver = testbed.receiver(KEYTURN_POLL_INTERVAL_SECONDS=interval)
            receiver.start()
            until(partial(_swept, receiver))
            testbed.rotate_steadily(receiver, names[:20])  # warm up
            seconds += testbed.rotate_steadily(receiver, names)
            receiver.stop()
    testbed.aws.age(3600)
    receiver = testbed.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    receiver.start()
    until(partial(_swept, receiver))
    sweeps, before = receiver.metric("keyturn_sweeps_total", kind="changes"), testbed.aws.calls()
    until(lambda: receiver.metric("keyturn_sweeps_total", kind="changes") >= sweeps + 5)
    receiver.stop()
    changes = (testbed.aws.calls() - before)["ListSecrets"] / 5
    quiet, sweeping = (percentile(values, 0.99) for values in (latencies.quiet, latencies.sweeping))
    return [
        Row("accepted to applied, p99 during a sweep of 10,000 bindings, to without", sweeping / quiet, "x", 1.1),
        Row("accepted to applied, p99 during a sweep of 10,000 bindings", sweeping * 1000, "ms"),
        Row("accepted to applied, p99 at 10,000 bindings without a sweep", quiet * 1000, "ms"),
        # In an hour, the poller makes one full sweep and eleven sweeps for changes. The signing key takes one call a
        # minute.
        Row("calls to AWS in an hour at 10,000 secrets, one replica", BINDINGS / 100 + 1 + 11 * changes + 60, "calls"),
    ]


@dataclass(frozen=True, slots=True)
class _AtRest:
    """Measurements of a receiver that has filled IDENTITIES Secrets.

    ``seconds`` is the time from the receiver's start until all Secrets were filled. ``mebibytes`` is the receiver's
    resident memory. ``calls`` is the number of calls to AWS by action, and ``lookups`` is the number of reads of
    ServiceAccounts. Both numbers are means per sweep over all Secrets.
    """

    seconds: float
    mebibytes: float
    calls: Mapping[str, float]
    lookups: float


def identities(testbed: Testbed, _: Latencies) -> list[Row]:
    """Measure the first fill of 1,000 Secrets, and the sweeps after it, in two cases: all Secrets are read with the
    receiver's own role, or each Secret names a ServiceAccount with a role of its own."""
    spaces = [f"team-{number:02d}" for number in range(TEAMS)]
    allow = {"keyturn.dev/allow-secrets": "bench/*"}
    testbed.cluster.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "annotations": allow}} for space in spaces
    )

    async def create_account(api: Api, number: int) -> None:
        annotations = {"eks.amazonaws.com/role-arn": f"arn:aws:iam::{ACCOUNT}:role/bench-{number}"}
        body = {"metadata": {"name": f"app-{number}", "annotations": annotations}}
        await api.request("POST", path("v1", "serviceaccounts", spaces[number % TEAMS]), body=body)

    with_api(testbed.cluster, lambda api: in_parallel(range(IDENTITIES), partial(create_account, api)))
    without, with_roles = (_fill_and_rest(testbed, spaces, roles) for roles in (False, True))
    for space in spaces:
        testbed.cluster.delete_all("secret", space)
    label = "1,000 Secrets that each name a ServiceAccount with a role"
    asked = sum(each for action, each in with_roles.calls.items() if action != "AssumeRoleWithWebIdentity")
    return [
        Row(f"first fill of {label}, to the same without roles", with_roles.seconds / without.seconds, "x", 6.0),
        Row(f"first fill of {label}, from the receiver's start", with_roles.seconds, "s"),
        Row(f"memory for {label}, beyond the same without", with_roles.mebibytes - without.mebibytes, "MiB", 32.0),
        Row(f"sweep over {label}, roles assumed", with_roles.calls["AssumeRoleWithWebIdentity"], "calls", 0.0),
        Row(f"sweep over {label}, secrets described and listed", asked, "calls", AT_MOST),
        Row(f"sweep over {label}, ServiceAccounts looked up", with_roles.lookups, "calls", AT_MOST),
        Row("sweep over the same without roles, calls to AWS", sum(without.calls.values()), "calls"),
    ]


def _fill_and_rest(testbed: Testbed, spaces: Sequence[str], roles: bool) -> _AtRest:
    """Create IDENTITIES Secrets. Let a receiver fill them, and then sweep SWEEPS times. Delete the Secrets."""
    kind = "with-role" if roles else "without"

    async def create_secret(api: Api, number: int) -> None:
        annotations = {"keyturn.dev/service-account": f"app-{number}"} if roles else {}
        name, space = testbed.aws.names[number], spaces[number % TEAMS]
        await create(api, name, f"{kind}-{number}", "true", space, annotations)

    with_api(testbed.cluster, lambda api: in_parallel(range(IDENTITIES), partial(create_secret, api)))
    testbed.aws.age(3600)
    interval = "15" if roles else "3"
    receiver = testbed.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS=interval)
    started = time.monotonic()
    receiver.start()
    until(lambda: _applied(receiver) >= IDENTITIES, 300)
    seconds = time.monotonic() - started
    stores = IDENTITIES if roles else 1

    def swept() -> float:
        return receiver.metric("keyturn_sweeps_total", outcome="ok")

    def lookups() -> float:
        return receiver.metric("keyturn_kubernetes_requests_total", verb="get", resource="serviceaccounts")

    first = swept()
    until(lambda: swept() >= first + 2 * stores, 180)  # then the first full sweep and a later sweep have ended
    sweeps, looked, aws = swept(), lookups(), testbed.aws.calls()
    until(lambda: swept() >= sweeps + SWEEPS * stores, 180)
    rounds = (swept() - sweeps) / stores
    made = testbed.aws.calls() - aws
    result = _AtRest(
        seconds,
        receiver.metric("process_resident_memory_bytes") / 2**20,
        Counter({action: each / rounds for action, each in made.items() if action != "SigningKey"}),
        (lookups() - looked) / rounds,
    )
    receiver.stop()
    for space in spaces:
        testbed.cluster.delete_all("secret", space)
    until(lambda: not any(testbed.cluster.list("secrets", space) for space in spaces), every=1)
    return result


MEASUREMENTS: Mapping[str, Measurement] = {
    "calls": calls,
    "identities": identities,
    "restore": restore,
    "latency": latency,
    "open_pages": open_pages,
    "burst": burst,
    "webhook": webhook,
    "many_bindings": many_bindings,
    "sweeps": sweeps,
    "rollouts": rollouts,
    "many_readers": many_readers,
}
# For a measurement that needs Secrets of earlier measurements: the measurements that create these Secrets.
NEEDED: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(
        ("latency", "open_pages", "burst", "webhook", "many_bindings", "rollouts", "many_readers"), ("restore",)
    ),
    "sweeps": ("restore", "many_bindings"),
}


def _consumer(secret: str) -> dict[str, Any]:
    container = {"name": "main", "image": "none", "envFrom": [{"secretRef": {"name": secret}}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "consumer", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "consumer"}},
            "template": {"metadata": {"labels": {"app": "consumer"}}, "spec": {"containers": [container]}},
        },
    }


def _swept(receiver: LocalReceiver) -> bool:
    return receiver.metric("keyturn_sweeps_total", kind="full", outcome="ok") >= 1


def _applied(receiver: LocalReceiver) -> float:
    return receiver.metric("keyturn_reconciles_total", outcome="applied")


def _cpu(receiver: LocalReceiver) -> float:
    return receiver.metric("process_cpu_seconds_total")


def _kubernetes_calls(receiver: LocalReceiver) -> float:
    """Return the number of calls to Kubernetes. Calls about Leases do not count, because the receiver also makes them
    without deliveries. Calls about Events do not count, because Events about earlier work are still being written."""
    calls = receiver.metric("keyturn_kubernetes_requests_total")
    others = (receiver.metric("keyturn_kubernetes_requests_total", resource=each) for each in ("leases", "events"))
    return calls - sum(others)
