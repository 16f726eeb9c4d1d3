"""Direct requests to the benchmark's API server. They create Secrets: bound Secrets, and raw Secrets, which Keyturn
does not touch, for comparison."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from keyturn_local.kubernetes.cluster import Cluster
from keyturn_receiver.cluster.api import Api, path
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.telemetry.metrics import Metrics

S = TypeVar("S")
T = TypeVar("T")

NAMESPACE = "bench"
CONCURRENCY = 32  # the number of concurrent raw requests, and of concurrent deliveries in a burst
NAMESPACE_OBJECT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": NAMESPACE, "annotations": {"keyturn.dev/allow-secrets": "bench/*"}},
}


def with_api(cluster: Cluster, work: Callable[[Api], Awaitable[T]]) -> T:
    """Run ``work`` with an administrator's access to the API server, over the same HTTP transport as the receiver's."""

    async def run() -> T:
        with _kubeconfig(cluster.kubeconfig):
            transport = await Transport.connect(CONCURRENCY)
        try:
            return await work(Api(transport, AdaptiveLimiter(CONCURRENCY), Metrics()))
        finally:
            await transport.close()

    return uvloop.run(run())


def create_bound(cluster: Cluster, names: Sequence[str]) -> None:
    """Create an empty bound Secret for each of these AWS secrets."""
    with_api(cluster, lambda api: in_parallel(names, lambda name: create(api, name, secret_name(name), "true")))


def secret_name(name: str) -> str:
    """Return the name of the Secret that is bound to an AWS secret."""
    return name.replace("/", "-")


async def create(
    api: Api, name: str, secret_name: str, bind: str, namespace: str = NAMESPACE, annotations: Mapping[str, str] = {}
) -> None:
    """Create one Secret for an AWS secret. ``bind`` is the value of the label keyturn.dev/bind."""
    metadata = {
        "name": secret_name,
        "labels": {"keyturn.dev/bind": bind},
        "annotations": {"keyturn.dev/secret-id": name, **annotations},
    }
    await api.request("POST", path("v1", "secrets", namespace), body={"metadata": metadata})


async def in_parallel(items: Iterable[S], work: Callable[[S], Awaitable[None]]) -> float:
    """Call ``work`` for all items, at most CONCURRENCY at the same time. Return the total duration in seconds."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return time.perf_counter() - started


def until(condition: Callable[[], object], seconds: float = 60, every: float = 0.05) -> None:
    """Check ``condition`` every ``every`` seconds until it is true. Raises TimeoutError after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(every)


@contextmanager
def _kubeconfig(file: Path) -> Iterator[None]:
    """Set KUBECONFIG within the block. There is no other way to pass the cluster to the transport."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(file)
    try:
        yield
    finally:
        del os.environ["KUBECONFIG"]
        if before is not None:
            os.environ["KUBECONFIG"] = before
