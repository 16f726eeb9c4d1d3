"""The API server of a benchmark, asked straight: to fill it with Secrets, and for what the receiver is held against."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import uvloop

from keyturn_local.kubernetes.cluster import Cluster
from keyturn_receiver.cluster.api import Api, path
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.telemetry.metrics import Metrics

S = TypeVar("S")
T = TypeVar("T")

NAMESPACE = "bench"
AT_ONCE = 32  # requests under way, ours and raw
TEAM = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": NAMESPACE, "annotations": {"keyturn.dev/allow-secrets": "bench/*"}},
}


def with_api(cluster: Cluster, work: Callable[[Api], Awaitable[T]]) -> T:
    """Run ``work`` against the API server, as an administrator, with the official client's transport."""

    async def run() -> T:
        with _kubeconfig(cluster.kubeconfig):
            transport = await Transport.connect(AT_ONCE)
        try:
            return await work(Api(transport, AdaptiveLimiter(AT_ONCE), Metrics()))
        finally:
            await transport.close()

    return uvloop.run(run())


def create_bound(cluster: Cluster, names: Sequence[str]) -> None:
    """Create a bound Secret for each of these AWS secrets, empty."""
    with_api(cluster, lambda api: beside(names, lambda name: create(api, name, name.replace("/", "-"), "true")))


async def create(api: Api, name: str, secret_name: str, bind: str) -> None:
    """Create one Secret for an AWS secret."""
    annotations = {"keyturn.dev/secret-id": name}
    metadata = {"name": secret_name, "labels": {"keyturn.dev/bind": bind}, "annotations": annotations}
    await api.request("POST", path("v1", "secrets", NAMESPACE), body={"metadata": metadata})


async def beside(items: Iterable[S], work: Callable[[S], Awaitable[None]]) -> float:
    """Do ``work`` for all items, AT_ONCE at once; return the seconds that it takes."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return time.perf_counter() - begun


def until(ask: Callable[[], object], seconds: float = 60, every: float = 0.05) -> None:
    """Ask ``every`` so often until it is true. Raises TimeoutError when ``seconds`` are over."""
    end = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(every)


@contextmanager
def _kubeconfig(file: Path) -> Iterator[None]:
    """The transport is told by the environment alone where to connect."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(file)
    try:
        yield
    finally:
        del os.environ["KUBECONFIG"]
        if before is not None:
            os.environ["KUBECONFIG"] = before
