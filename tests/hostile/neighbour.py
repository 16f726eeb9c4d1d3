"""The team beside the hostile tenant. Its rotations, and whatever else it asks of the receiver, are timed.

``Neighbour`` has the namespace and the objects. Meanwhile, ``Watch`` looks at the receiver's probes, and ``Floor``
measures how long one write to the API server takes without a receiver.
"""

import asyncio
import json
import time
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import aiohttp

from hostile.attacks import ROLE, SHARED, path_of
from hostile.aws import HostileAws, arn_of
from keyturn_contract.message import decode_reply, encode
from keyturn_local.aws.sdk import ACCOUNT, REGION
from keyturn_local.bench.latencies import percentile
from keyturn_local.receiver.process import LocalReceiver
from keyturn_receiver.core.consumer import mark_name
from keyturn_receiver.core.revision import read_record
from keyturn_receiver.core.unsettled import without_suffix
from support.deliveries import notification, signed
from support.manifests import env_from, secret, workload

PLAIN = [f"plain{number}" for number in range(6)]
HEAVY, ASSUMED, POLLED = "heavy", "assumed", "polled"
SHARING = "sharing"  # the Secret that is bound to the AWS secret of both teams
TOLD = [*PLAIN, HEAVY, ASSUMED]  # the secrets whose rotations are delivered and timed
PROBE_TIMEOUT = 5.0  # seconds, as the chart's liveness probe has it
OTHER_WAYS = ("new binding", "repair", "new consumer", "poll")


@dataclass
class Figures:
    """The figures of one phase of the run: seconds by kind, statuses of answers, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def slow(self, kind: str, part: float) -> float:
        """Return a percentile of the seconds. ``part`` is a number from 0 to 1."""
        return percentile(self.seconds[kind], part)

    def row(self, kind: str) -> str:
        """Return a line for people: how many, the median, the 99th percentile and the largest, in milliseconds."""
        if not (values := self.seconds[kind]):
            return f"{kind}: none"
        parts = (percentile(values, 0.5), percentile(values, 0.99), max(values))
        return f"{kind}: {len(values)}, " + ", ".join(f"{each * 1000:.0f} ms" for each in parts)


class Kubernetes:
    """The API server, called with one token."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind, "Accept": "application/json"}
        async with self._session.request(method, self._url + path, data=content, headers=headers) as reply:
            answer = await reply.json()
            assert reply.status < 300, (method, path, answer)
            return answer

    async def create(self, made: Any) -> None:
        await self.call("POST", path_of(made["kind"], made["metadata"]["namespace"]), made)

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        return await self.call("GET", path_of(kind, namespace, name))

    async def merge(self, kind: str, namespace: str, name: str, body: Any) -> None:
        await self.call("PATCH", path_of(kind, namespace, name), body, "application/merge-patch+json")


@asynccontextmanager
async def kubernetes(url: str, ca_context: Any, token: str) -> AsyncIterator[Kubernetes]:
    connector = aiohttp.TCPConnector(ssl=ca_context)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {token}"}) as session:
        yield Kubernetes(session, url)


class Floor:
    """Makes one write to the API server again and again, with an identity of its own. No delivery can be faster than
    that."""

    def __init__(self, api: Kubernetes, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._number = 0

    async def run(self, figures: Figures, stop: asyncio.Event) -> None:
        """Apply a Secret of the size of a bound one, four times a second."""
        while not stop.is_set():
            self._number += 1
            made = secret(self._namespace, "floor", **{"number": str(self._number)})
            made["data"] = {"password": "cGFzc3dvcmQ="}
            started = time.perf_counter()
            where = path_of("Secret", self._namespace, "floor") + "?fieldManager=floor&force=true"
            await self._api.call("PATCH", where, made, "application/apply-patch+yaml")
            figures.seconds["floor"].append(time.perf_counter() - started)
            await asyncio.sleep(0.25)


class Watch:
    """Asks for readiness and liveness, four times a second, as the kubelet would."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def run(self, receiver: Callable[[], LocalReceiver], figures: Figures, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for probe in ("readyz", "livez"):
                started, url = time.perf_counter(), f"{receiver().operations_url}/{probe}"
                try:
                    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
                    async with self._session.get(url, timeout=timeout) as reply:
                        status, text = reply.status, await reply.text()
                except (aiohttp.ClientError, TimeoutError) as error:
                    status, text = 0, repr(error)
                figures.seconds["probe"].append(time.perf_counter() - started)
                if status != 200:
                    figures.faults.append(f"{probe}: {status} {text}")
            await asyncio.sleep(0.25)


class Neighbour:
    """The team. ``receiver`` returns the replica to which the cluster routes deliveries now."""

    def __init__(
        self,
        namespace: str,
        api: Kubernetes,
        aws: HostileAws,
        key: bytes,
        session: aiohttp.ClientSession,
        receiver: Callable[[], LocalReceiver],
    ) -> None:
        self.namespace = namespace
        self._api = api
        self._aws = aws
        self._key = key
        self._session = session
        self._receiver = receiver
        self._rotations: Counter[str] = Counter()
        self._current: dict[str, str] = {}  # the values in AWS, by Secret
        self._first: dict[str, int] = {}  # the generation of each consumer before the first rotation
        self._late: list[str] = []
        self._number = 0

    async def prepare(self) -> None:
        """Create the AWS secrets, the Secrets and their consumers. Wait until each Secret is filled and each consumer
        has a mark."""
        for name in (*TOLD, POLLED, SHARING):
            await self._put(name)
        role = {"annotations": {ROLE: f"arn:aws:iam::{ACCOUNT}:role/team"}}
        metadata = {"namespace": self.namespace, "name": "app", **role}
        await self._api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        others = {HEAVY: {"keyturn.dev/data": "all: to_string(@)"}, ASSUMED: {"keyturn.dev/service-account": "app"}}
        for name in (*TOLD, POLLED, SHARING):
            await self._api.create(secret(self.namespace, name, self._id(name), **others.get(name, {})))
            await self._until(lambda name=name: self._is_ok(name), 30)
            await self._api.create(self._consumer(name, name))
            await self._until(lambda name=name: self._has_mark(name, name), 30)
            self._first[name] = await self._generation(name)

    # --- Rotations

    async def rotate(self, name: str, figures: Figures) -> None:
        """Rotate a secret, deliver the notification, and note how long the answer took. Deliver again until it is
        taken, as SQS does."""
        version_id = await self._put(name)
        self._rotations[name] += 1
        await self._deliver(self._id(name), version_id, "delivery", figures)

    async def rotate_shared(self, figures: Figures) -> None:
        """Rotate the secret to which the tenant's Secrets are bound as well, and wait for the team's own Secret."""
        version_id = await self._put(SHARING)
        started = time.perf_counter()
        delivering = asyncio.create_task(self._deliver(SHARED, version_id, "delivery of the shared secret", figures))
        await self._until(lambda: self._holds(SHARING), 60)
        figures.seconds["shared secret, until the own Secret has it"].append(time.perf_counter() - started)
        await delivering

    async def tell_of(self, name: str, version_id: str) -> None:
        """Deliver a notification about a secret of somebody else, once. Its answer is not the team's business."""
        body = encode([notification(arn_of(name), version_id)])
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(self._receiver().url, data=body, headers=signed(self._key, body)) as reply:
                await reply.read()

    async def _deliver(self, secret_id: str, version_id: str, kind: str, figures: Figures) -> None:
        body, first, end = encode([notification(arn_of(secret_id), version_id)]), True, time.monotonic() + 60
        while True:
            started, text, receiver = time.perf_counter(), b"", self._receiver()
            try:
                headers = signed(self._key, body)
                async with self._session.post(receiver.url, data=body, headers=headers) as reply:
                    status, text = reply.status, await reply.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                status, text = 0, repr(error).encode()
            if status == 503 and secret_id == SHARED and receiver is not self._receiver():
                # A replica that stops cannot promise to go on with the tenant's bindings, so SQS delivers again.
                await asyncio.sleep(1)
                continue
            if first:
                figures.seconds[kind].append(time.perf_counter() - started)
                figures.statuses[status] += 1
                first = False
            if status == 200:
                (result,) = decode_reply(text)
                # The tenant's bindings to the shared secret may still be waiting behind his other work.
                done = {"applied", "unchanged", "superseded", *(["retrying"] if secret_id == SHARED else [])}
                if result.outcome.value not in done:
                    figures.faults.append(f"{kind} of {secret_id}: {text.decode()}")
                return
            figures.faults.append(f"{kind} of {secret_id}: {status} {text.decode()[:400]}")
            if time.monotonic() > end:
                return
            await asyncio.sleep(1)

    # --- Other ways to the receiver

    async def try_other_ways(self, figures: Figures, seconds: float) -> None:
        """Make a new binding, tamper with a Secret, make a new consumer, and rotate a secret without a notification.

        Note after each of these changes how long it takes until the cluster is as it should be.
        """
        self._number += 1
        fresh = f"new{self._number}"
        await self._timed("new binding", figures, seconds, self._bind_new(fresh), lambda: self._is_ok(fresh))

        tampered = self._api.merge("Secret", self.namespace, POLLED, {"data": {"value": "dGFtcGVyZWQ="}})
        await self._timed("repair", figures, seconds, tampered, lambda: self._holds(POLLED))
        late = f"late{self._number}"
        self._late.append(late)
        made = self._api.create(self._consumer(late, PLAIN[0]))
        await self._timed("new consumer", figures, seconds, made, lambda: self._has_mark(late, PLAIN[0]))
        await self._timed("poll", figures, seconds, self._put(POLLED), lambda: self._holds(POLLED))

    async def _timed(
        self, kind: str, figures: Figures, seconds: float, begin: Awaitable[Any], done: Callable[[], Awaitable[bool]]
    ) -> None:
        await begin
        started = time.perf_counter()
        try:
            await self._until(done, seconds)
        except TimeoutError:
            figures.faults.append(f"{kind}: not within {seconds:g} s")
        figures.seconds[kind].append(time.perf_counter() - started)

    async def _bind_new(self, name: str) -> None:
        await self._put(name)
        await self._api.create(secret(self.namespace, name, self._id(name)))

    # --- The end

    async def wait_until_true(self, seconds: float) -> list[str]:
        """Wait until every Secret holds what AWS has and is ok, and every consumer has the mark of what its Secret
        holds. Return what is still wrong."""
        end, wrong = time.monotonic() + seconds, ["not looked at"]
        while wrong and time.monotonic() < end:
            wrong = await self._what_is_wrong()
            await asyncio.sleep(0.5)
        return wrong

    async def restarts(self) -> dict[str, tuple[int, int]]:
        """Return, for the consumer of each secret in TOLD, how often its pod template has changed, and how often the
        secret was rotated."""
        found = {}
        for name in TOLD:
            found[name] = (await self._generation(name) - self._first[name], self._rotations[name])
        return found

    async def _generation(self, name: str) -> int:
        return int((await self._api.get("Deployment", self.namespace, name))["metadata"]["generation"])

    async def applied_events(self) -> int:
        """Return the number of Events that tell of a Secret that was filled."""
        listed = await self._api.call("GET", path_of("Event", self.namespace))
        return sum(each["reason"] == "Applied" for each in listed["items"])

    @property
    def rotations(self) -> int:
        """The number of rotations that were delivered, without those of the shared secret."""
        return self._rotations.total()

    async def _what_is_wrong(self) -> list[str]:
        wrong = []
        for name in (*TOLD, POLLED, SHARING):
            if not await self._holds(name):
                wrong.append(f"Secret {name} does not hold what AWS has")
            if not await self._is_ok(name):
                wrong.append(f"Secret {name} is not ok")
        for name, read in [*((each, each) for each in TOLD), *((each, PLAIN[0]) for each in self._late)]:
            annotations = (await self._api.get("Secret", self.namespace, read))["metadata"]["annotations"]
            if without_suffix(await self._mark_of(name, read) or "") != read_record(annotations).digest:
                wrong.append(f"consumer {name} does not run with what its Secret holds")
        return wrong

    # --- Tools

    def _id(self, name: str) -> str:
        return SHARED if name == SHARING else f"{self.namespace}/{name}"

    def _value(self, name: str) -> str:
        if name == HEAVY:  # an honest document of ten kilobytes
            return json.dumps({"hosts": [f"host-{n}.example" for n in range(500)], "password": uuid4().hex})
        return uuid4().hex

    async def _put(self, name: str) -> str:
        secret_id = self._id(name)
        self._current[name] = self._value(name)
        return (await asyncio.to_thread(self._aws.put, {secret_id: self._current[name]}))[secret_id]

    def _consumer(self, name: str, read: str) -> Any:
        made = workload(self.namespace, name, env_from(read))
        made["spec"]["replicas"] = 0
        return made

    async def _is_ok(self, name: str) -> bool:
        metadata = (await self._api.get("Secret", self.namespace, name))["metadata"]
        return bool(metadata["annotations"].get("keyturn.dev/status") == "ok")

    async def _holds(self, name: str) -> bool:
        """Return whether a Secret holds what AWS has."""
        data = (await self._api.get("Secret", self.namespace, name)).get("data") or {}
        value, held = self._current[name], [b64decode(each).decode() for each in data.values()]
        return held == [value] or (name == HEAVY and bool(held) and json.loads(held[0]) == json.loads(value))

    async def _mark_of(self, name: str, read: str) -> str | None:
        made = await self._api.get("Deployment", self.namespace, name)
        own = made["metadata"].get("annotations") or {}
        template = made["spec"]["template"]["metadata"].get("annotations") or {}
        return template.get(mark_name(read)) or own.get(mark_name(read))

    async def _has_mark(self, name: str, read: str) -> bool:
        return await self._mark_of(name, read) is not None

    async def _until(self, ask: Callable[[], Awaitable[bool]], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while True:
                if await ask():
                    return
                await asyncio.sleep(0.05)


async def at_pace(count: int, per_second: float, work: Callable[[int], Awaitable[None]]) -> None:
    """Start ``work`` ``count`` times at an even pace, even if earlier calls are still running. Wait for all."""
    started, tasks = time.monotonic(), []
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))
        tasks.append(asyncio.create_task(work(number)))
    await asyncio.gather(*tasks)


def gaps(log: str) -> Sequence[float]:
    """Return the seconds between the sweeps of the receiver's own store (its own region and identity), from its log."""
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    own = [each for each in lines if each.get("message") == "swept" and each.get("account") == ""]
    times = [datetime.fromisoformat(each["time"]) for each in own if each.get("region") == REGION]
    return [(after - before).total_seconds() for before, after in pairwise(times)]
