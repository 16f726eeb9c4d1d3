"""S22: a tenant does everything at once that ``edit`` in one namespace lets him do, and his neighbour notices nothing.

``make test-hostile`` runs it for ten minutes, with thousands of objects. Among the other fault tests it runs in its
short form: for SHORT seconds, with a tenth of the objects.
"""

import asyncio
import os
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hostile.attacks import FINALIZED, ODD_VALUES, ROTATING, Tenant
from hostile.aws import PYTHONPATH, HostileAws
from hostile.neighbour import OTHER_WAYS, TOLD, Figures, Floor, Neighbour, Watch, at_pace, gaps
from hostile.neighbour import kubernetes as connect
from hostile.tenant import HostileTenant, Orders
from keyturn_contract.signature import parse_key
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.environment import clean_environment
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from support.memory_limit import MemoryLimit, NoCgroups, chart_limit

SHORT = 40.0  # seconds of attack
SECONDS = float(os.environ.get("HOSTILE_SECONDS", SHORT))
IS_LONG = SECONDS >= 300
SCALE = 1.0 if IS_LONG else 0.1
PER_SECOND = 2.0  # rotations of the neighbour
QUIET_ROTATIONS = 200 if IS_LONG else 40
DEADLINE = 8.0 if IS_LONG else 30.0
LEAST_ROTATIONS = 200
POLL_INTERVAL = 5.0  # seconds
# The short form runs beside other tests, which take most of the two cores. So its time limits are longer.
# Seconds by which the ends of two sweeps may be further apart than the poll interval. A sweep begins on time, but may
# take up to one interval (poller/sweep.py).
SWEEP_SLACK = POLL_INTERVAL if IS_LONG else 10.0
OTHER_WAY_SECONDS = 20.0 if IS_LONG else 60.0  # at most, for a new binding, repair, new consumer or poll
FRESH_START_SECONDS = 60.0 if IS_LONG else 150.0  # until a fresh replica is ready; its liveness probe passes at once


class Scene:
    """Four namespaces (the receiver's, the tenant's, his neighbour's, the floor's), AWS, and the replicas."""

    def __init__(self, cluster: ControlPlane, directory: Path, stack: ExitStack) -> None:
        self.cluster = cluster
        self.directory = directory
        self.aws = stack.enter_context(HostileAws(directory))
        mark = uuid4().hex[:6]
        self.home, self.tenant, self.team, self.floor = (
            f"{name}-{mark}" for name in ("keyturn", "tenant", "team", "floor")
        )
        allowed = {name: f"{name}/*, shared/*" for name in (self.tenant, self.team)}
        made = [
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "annotations": {"keyturn.dev/allow-secrets": allowed.get(name, "none")}},
            }
            for name in (self.home, self.tenant, self.team, self.floor)
        ]
        rights = chart_rights(self.home, {"tenantRoles": {"enabled": True}})
        editors = [each for name in (self.tenant, self.team, self.floor) for each in editor(name)]
        stack.callback(self._remove, [*rights, *made])
        cluster.create([*made, *rights, *editors])
        self.kubeconfig = cluster.kubeconfig_for(self.home, SERVICE_ACCOUNT, directory)
        self.replicas: list[LocalReceiver] = []
        self.limits: list[MemoryLimit | None] = []
        stack.callback(MemoryLimit.close_all)
        stack.callback(lambda: [each.kill() for each in self.replicas])

    def _remove(self, objects: list[dict[str, Any]]) -> None:
        """Delete the objects, and wait until the namespaces are empty: receivers of later tests watch them, too."""
        namespace = f"--namespace={self.tenant}"
        if self.cluster.kubectl("get", "secret", FINALIZED, namespace, "--ignore-not-found"):
            patch = '{"metadata": {"finalizers": null}}'
            self.cluster.kubectl("patch", "secret", FINALIZED, namespace, "--type=merge", f"--patch={patch}")
        self.cluster.delete(objects)

    def replica(self) -> LocalReceiver:
        """Return a replica that has not been started, under the chart's memory limit where cgroups can be made."""
        name = f"receiver-{len(self.replicas)}"
        try:
            limit: MemoryLimit | None = MemoryLimit(name, chart_limit(), self.directory)
        except NoCgroups as reason:
            print(f"no cgroup ({reason}): the memory is measured, and not limited")
            limit = None
        settings = {
            "KEYTURN_TENANT_ROLES": "true",
            "KEYTURN_POLL_INTERVAL_SECONDS": f"{POLL_INTERVAL:g}",
            "KEYTURN_HEARTBEAT_SILENCE_SECONDS": "0",
            "KEYTURN_DEADLINE_SECONDS": f"{DEADLINE:g}",
        }
        if limit:  # with an interpreter of its own, LocalReceiver leaves out these variables
            settings |= {**clean_environment(), "PYTHONPATH": PYTHONPATH}
        made = LocalReceiver(
            self.directory,
            self.kubeconfig,
            self.aws.environment(),
            "keyturn/signing-key",
            self.home,
            settings,
            name,
            limit.interpreter if limit else None,
        )
        self.replicas.append(made)
        self.limits.append(limit)
        return made

    def token(self, namespace: str) -> str:
        return self.cluster.create_token("editor", namespace)

    def orders(self) -> Orders:
        cluster = self.cluster
        return Orders(cluster.url, str(cluster.ca_file), self.token(self.tenant), self.tenant, SECONDS, SCALE)


def editor(namespace: str) -> Iterator[dict[str, Any]]:
    """Yield a ServiceAccount and what gives it ``edit`` in its namespace, as a cluster admin would.

    The ClusterRole ``edit`` itself is empty here, because the controller that aggregates ClusterRoles does not run. So
    the account gets the two ClusterRoles from which ``edit`` would be aggregated.
    """
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": "editor"}}
    for part in ("edit", "view"):
        yield {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"namespace": namespace, "name": part},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": f"system:aggregate-to-{part}",
            },
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": "editor"}],
        }


class Run:
    """One run: the quiet phase, then the attack, with a fresh replica in its middle."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.current = scene.replica()
        self.quiet, self.attacked = Figures(), Figures()
        self.fresh_start = 0.0
        self.wrong: list[str] = []
        self.restarts: dict[str, tuple[int, int]] = {}
        self.events = self.rotations = 0

    async def run(self) -> None:
        scene = self._scene
        await asyncio.to_thread(self.current.start)
        context = ssl.create_default_context(cafile=scene.cluster.ca_file)
        async with (
            connect(scene.cluster.url, context, scene.token(scene.team)) as api,
            connect(scene.cluster.url, context, scene.token(scene.floor)) as floor_api,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE + 10)) as session,
        ):
            key = parse_key(scene.aws.signing_key)
            neighbour = Neighbour(scene.team, api, scene.aws, key, session, lambda: self.current)
            beside = (Floor(floor_api, scene.floor), Watch(session))
            await neighbour.prepare()
            await self._phase(neighbour, beside, self.quiet, QUIET_ROTATIONS, [])
            values = Tenant(scene.tenant, SCALE).values()
            await asyncio.to_thread(scene.aws.put, values)
            await asyncio.to_thread(scene.aws.put_binary, f"{scene.tenant}/binary", bytes(range(256)) * 256)
            tenant = HostileTenant(scene.directory, scene.orders())
            try:
                count = int(SECONDS * PER_SECOND)
                works = [self._replace(tenant), self._rotate_his_secrets(neighbour, tenant)]
                await self._phase(neighbour, beside, self.attacked, count, works)
            finally:
                await asyncio.to_thread(tenant.stop)
            print(tenant.log, kubernetes_calls(self._scene.replicas[-1]), sep="\n")
            self.wrong = await neighbour.wait_until_true(60)
            self.restarts, self.events = await neighbour.restarts(), await neighbour.applied_events()
            self.rotations = neighbour.rotations

    async def _phase(
        self, neighbour: Neighbour, beside: tuple[Floor, Watch], figures: Figures, count: int, works: list[Any]
    ) -> None:
        """Rotate ``count`` times at an even pace. Meanwhile, try the other ways, and rotate the shared secret."""
        stop, (floor, watch) = asyncio.Event(), beside

        async def others() -> None:
            while not stop.is_set():
                await neighbour.rotate_shared(figures)
                await neighbour.try_other_ways(figures, OTHER_WAY_SECONDS)
                await asyncio.sleep(1)

        running = [
            asyncio.create_task(each)
            for each in (floor.run(figures, stop), watch.run(lambda: self.current, figures, stop), others(), *works)
        ]
        try:
            await at_pace(count, PER_SECOND, lambda number: neighbour.rotate(TOLD[number % len(TOLD)], figures))
        finally:
            stop.set()
            await asyncio.gather(*running)

    async def _replace(self, tenant: HostileTenant) -> None:
        """In the middle of the attack, and once all objects of the tenant exist, start a fresh replica and then stop
        the former one, as an update of the chart does."""
        await asyncio.sleep(SECONDS / 2)
        while not tenant.prepared:
            assert tenant.running, tenant.log
            await asyncio.sleep(0.2)
        former, fresh, begun = self.current, self._scene.replica(), time.monotonic()
        await asyncio.to_thread(fresh.start, FRESH_START_SECONDS)
        self.fresh_start = time.monotonic() - begun
        self.current = fresh
        await asyncio.to_thread(former.stop)

    async def _rotate_his_secrets(self, neighbour: Neighbour, tenant: HostileTenant) -> None:
        """Every 5 seconds, rotate one of the tenant's own secrets. Let the neighbour deliver a notification about it,
        and one about a secret with an odd value (ODD_VALUES), which names a version that does not exist. This ends when
        the tenant ends."""
        number = 0
        while tenant.running:
            number += 1
            for name in (ROTATING, ODD_VALUES[number % len(ODD_VALUES)]):
                secret_id = f"{self._scene.tenant}/{name}"
                if name == ROTATING:
                    versions = await asyncio.to_thread(self._scene.aws.put, {secret_id: f"value {number}"})
                    await neighbour.tell_of(secret_id, versions[secret_id])
                else:
                    await neighbour.tell_of(secret_id, f"version {number}")
            await asyncio.sleep(5)


def kubernetes_calls(receiver: LocalReceiver) -> str:
    """Return the twenty most frequent kinds of calls of a replica to the API server, with their numbers, as a line for
    people."""
    calls: Counter[str] = Counter()
    for family in text_string_to_metric_families(receiver.metrics()):
        for sample in family.samples:
            if sample.name == "keyturn_kubernetes_requests_total":
                calls[" ".join(sample.labels.values())] += int(sample.value)
    return "calls to Kubernetes: " + ", ".join(f"{call}: {count}" for call, count in calls.most_common(20))


@pytest.fixture
def scene(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(control_plane, tmp_path, stack)


@pytest.mark.fault("S22")
@pytest.mark.long
@pytest.mark.timeout(SECONDS + 500)
def test_neighbour_of_a_hostile_tenant_notices_nothing(scene: Scene) -> None:
    """A tenant with `edit` in one namespace runs all known attacks at once. His neighbour's rotations are all carried,
    none is answered with 503; the receiver stays ready and under its memory limit, and so does one that starts
    meanwhile; the poller sweeps on time."""
    run = Run(scene)
    asyncio.run(run.run())
    quiet, attacked = run.quiet, run.attacked
    for name, figures in (("quiet", quiet), ("attacked", attacked)):
        kinds = sorted(figures.seconds)
        print(f"{name} (count, median, p99, most):", *(f"  {figures.row(kind)}" for kind in kinds), sep="\n")
        print(f"  answers: {dict(figures.statuses)}; faults: {len(figures.faults)}", *figures.faults[:20], sep="\n    ")
    peaks = [limit.peak if limit else 0 for limit in scene.limits]
    print(f"fresh start: ready after {run.fresh_start:.1f} s; peaks of memory: {[each >> 20 for each in peaks]} MiB")
    print(f"calls to AWS: {dict(scene.aws.calls())}")
    print(f"restarts and rotations: {run.restarts}; Events: {run.events} of {run.rotations}; wrong: {run.wrong}")

    # No rotation was lost or refused, and the receiver was always ready and alive.
    assert run.rotations >= LEAST_ROTATIONS + QUIET_ROTATIONS or not IS_LONG
    assert attacked.faults == quiet.faults == []
    assert set(attacked.statuses) == {200}
    assert run.wrong == []
    assert all(0 < restarts <= rotations for restarts, rotations in run.restarts.values())
    # The tenant also loads the API server and the machine: he and the API server share two cores with the receiver. A
    # delivery consists mostly of writes to this API server. Meanwhile, another identity makes the same write by itself
    # again and again. The receiver keeps its promise if the factor by which deliveries slow down is at most twice the
    # factor for that write. The short form only prints the two factors, because it runs beside other tests, whose load
    # differs between the phases.
    floor = max(1.0, attacked.slow("floor", 0.99) / quiet.slow("floor", 0.99))
    slower = attacked.slow("delivery", 0.99) / quiet.slow("delivery", 0.99)
    print(f"p99 of deliveries: {slower:.1f} times the quiet one; of bare writes: {floor:.1f} times")
    assert slower <= 2 * floor or not IS_LONG
    # The replicas stayed under the memory limit, and swept on time.
    former, fresh = scene.replicas
    assert former.status == 0
    assert fresh.running
    for limit in filter(None, scene.limits):
        assert limit.kills == 0
        assert limit.peak <= limit.size
    for each in scene.replicas:
        assert all(gap <= 1.1 * POLL_INTERVAL + SWEEP_SLACK for gap in gaps(each.log)), gaps(each.log)
    for kind in OTHER_WAYS:
        assert attacked.seconds[kind]
    # The receivers called no region that does not exist or belongs to another partition.
    unknown = [name for name in scene.aws.calls() if name.startswith(("region xx", "region us-esat", "region cn"))]
    assert unknown == []
