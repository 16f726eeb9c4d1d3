"""The testbed of `make bench`: a control plane without nodes, a stub AWS, receivers, and raw requests. Raw requests go
straight to the API server, without the receiver, for comparison."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import aiohttp

from keyturn_contract.signature import parse_key
from keyturn_local.aws import sdk
from keyturn_local.bench.api_server import NAMESPACE, NAMESPACE_OBJECT, create, in_parallel, secret_name, with_api
from keyturn_local.bench.load import Sender
from keyturn_local.bench.stub_aws import SIGNING_KEY, StubAws, arn_of
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from keyturn_receiver.cluster.api import APPLY, MERGE_PATCH, METADATA_ONLY, Api, path
from keyturn_receiver.core.revision import Record, version_key, write_record

LATENCY = 0.02  # seconds until the stub AWS answers
RATE = 20.0  # rotations per second
# Rotations per second if each rotation restarts a Deployment. At RATE, the Deployment controller keeps both cores of
# the machine busy, and all times are mostly the wait for a core.
RESTART_RATE = 5.0
BINDINGS = 10_000
# The label of the raw Secrets in place of keyturn.dev/state, with a name that is about as long. If the raw Secrets had
# keyturn.dev/state itself, the receiver would release them, because they are not bound.
RAW_LABEL = "bench.example/state"
BURST = 1_000  # bindings or raw applies in a measurement that would take too long with BINDINGS of them


class Testbed:
    """The running parts of the benchmark. They stop when ``stack`` is closed."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.cluster = stack.enter_context(ControlPlane.start(directory / "control-plane", nodes=0))
        self.aws = stack.enter_context(StubAws(directory, BINDINGS, LATENCY))
        keyturn = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keyturn"}}
        self.cluster.create([keyturn, NAMESPACE_OBJECT])
        self.cluster.create(chart_rights("keyturn", {"tenantRoles": {"enabled": True}}))
        self.kubeconfig = self.cluster.kubeconfig_for("keyturn", SERVICE_ACCOUNT, directory)
        self.key = parse_key(self.aws.signing_key)
        self._stack = stack
        self._round = 0

    def receiver(self, **settings: str) -> LocalReceiver:
        """Return a replica that is not started yet. It is stopped with the testbed. By default, it polls once an
        hour."""
        quiet = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600", "KEYTURN_HEARTBEAT_SILENCE_SECONDS": "0"}
        receiver = LocalReceiver(
            self.directory, self.kubeconfig, self.aws.environment(), SIGNING_KEY, "keyturn", {**quiet, **settings}
        )
        self._stack.callback(receiver.stop)
        return receiver

    def sender(self, receiver: LocalReceiver) -> Sender:
        """Return a sender that sends deliveries to this receiver."""
        return Sender(receiver.url, self.key)

    def rotate_steadily(self, receiver: LocalReceiver, names: Sequence[str], rate: float = RATE) -> list[float]:
        """Rotate these secrets, ``rate`` of them per second. Return the latency of each delivery, in seconds until its
        acknowledgement."""
        sender = self.sender(receiver)

        async def rotate(session: aiohttp.ClientSession, name: str) -> float:
            versions = await asyncio.to_thread(self.aws.rotate, [name])
            return await sender.send(session, versions)

        async def rotate_all() -> list[float]:
            async with aiohttp.ClientSession() as session:
                return await _at_rate(rate, len(names), lambda number: rotate(session, names[number]))

        return asyncio.run(rotate_all())

    def create_raw(self) -> None:
        """Create the Secrets for raw applies. Their label keyturn.dev/bind has the value "false", so they are not
        bound, and the receiver does not fill them."""
        names = self.aws.names[:BURST]
        with_api(self.cluster, lambda api: in_parallel(names, lambda name: create(api, name, _raw_name(name), "false")))

    def raw_applies(self) -> float:
        """Apply BURST Secrets that are as large as bound Secrets, CONCURRENCY of them at a time. Return the total
        duration in seconds."""
        self._round += 1
        return with_api(self.cluster, lambda api: in_parallel(range(BURST), lambda number: self._apply(api, number)))

    def raw_restarts(self, deployments: Sequence[str]) -> float:
        """For each Deployment, apply a Secret and then patch the Deployment's pod template. CONCURRENCY Deployments are
        handled at a time. There may be at most BURST Deployments. Return the total duration in seconds."""
        self._round += 1

        async def restart(api: Api, number: int) -> None:
            await self._apply(api, number)
            await self._patch(api, deployments[number])

        numbers = range(len(deployments))
        return with_api(self.cluster, lambda api: in_parallel(numbers, lambda number: restart(api, number)))

    def raw_patches(self, deployments: Sequence[str]) -> float:
        """Patch the pod templates of Deployments, CONCURRENCY of them at a time. Return the total duration in
        seconds."""
        self._round += 1
        return with_api(self.cluster, lambda api: in_parallel(deployments, lambda name: self._patch(api, name)))

    def floor(self, count: int, deployments: Sequence[str] = (), rate: float = RATE) -> list[float]:
        """Make ``count`` sequences of raw requests, and start ``rate`` of them per second. A sequence reads one value
        and applies one Secret. If there are ``deployments``, it then patches the pod template of one of them. Return
        the duration of each sequence in seconds."""
        self._round += 1
        client = sdk.client("secretsmanager", self.aws.endpoint_url)

        async def read_and_write(api: Api, executor: ThreadPoolExecutor, number: int) -> float:
            started = time.perf_counter()
            read = partial(client.get_secret_value, SecretId=self.aws.names[number])
            await asyncio.get_running_loop().run_in_executor(executor, read)
            await self._apply(api, number)
            if deployments:
                await self._patch(api, deployments[number])
            return time.perf_counter() - started

        async def repeat(api: Api) -> list[float]:
            with ThreadPoolExecutor(8) as executor:
                return await _at_rate(rate, count, lambda number: read_and_write(api, executor, number))

        return with_api(self.cluster, repeat)

    async def _patch(self, api: Api, deployment: str) -> None:
        """Restart a Deployment with an annotation on its pod template, as `kubectl rollout restart` does."""
        template = {"metadata": {"annotations": {"bench/mark": f"{self._round:032d}"}}}
        where = path("apps/v1", "deployments", NAMESPACE, deployment)
        body = {"spec": {"template": template}}
        await api.request(
            "PATCH", where, {"fieldManager": "keyturn"}, body, content_type=MERGE_PATCH, accept=METADATA_ONLY
        )

    async def _apply(self, api: Api, number: int) -> None:
        """Apply one Secret by server-side apply, with the same fields as the receiver writes, except that the label is
        RAW_LABEL."""
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
                "labels": {RAW_LABEL: record.status},
            },
            "data": data,
        }
        query = {"fieldManager": "keyturn", "force": "true"}
        where = path("v1", "secrets", NAMESPACE, _raw_name(name))
        await api.request("PATCH", where, query, body, content_type=APPLY, accept=METADATA_ONLY)


def _raw_name(name: str) -> str:
    return f"raw-{secret_name(name)}"


async def _at_rate(rate: float, count: int, work: Callable[[int], Awaitable[float]]) -> list[float]:
    """Call ``work`` ``count`` times, and start ``rate`` calls per second, even if earlier calls are still running.
    Return all results."""
    started = time.perf_counter()
    tasks = []
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        tasks.append(asyncio.ensure_future(work(number)))
    return list(await asyncio.gather(*tasks))
