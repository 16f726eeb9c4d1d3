"""Requests to the Kubernetes API wait in the lane of their namespace. Requests about Leases do not wait."""

import asyncio
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keyturn_receiver.cluster.api import MAX_429_RETRIES, QUEUE_TIMEOUT, Api, path
from keyturn_receiver.errors import ClusterUnavailable, DisruptionNotAllowed, NamespaceBusy, TooManyRequests
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.telemetry.metrics import Metrics

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Content:
    def __init__(self, content: bytes = b"{}") -> None:
        self._content = content

    async def iter_any(self) -> Any:
        yield self._content


class Transport:
    """A transport whose requests take ``seconds``, or do not end if that is 0. ``sent`` has their paths."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.sent: list[str] = []

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeouts: object
    ) -> Any:
        self.sent.append(target)
        await (asyncio.sleep(self._seconds) if self._seconds else asyncio.Event().wait())
        return SimpleNamespace(status=200, headers={}, content=Content(), release=lambda: None, close=lambda: None)


def api_of(transport: Any, limit: int = 4) -> Api:
    return Api(transport, AdaptiveLimiter(limit), Metrics())


def workload(namespace: str, name: str) -> str:
    return path("apps/v1", "deployments", namespace, name)


LEASE = path("coordination.k8s.io/v1", "leases", "keyturn", "keyturn-poller")


async def test_namespace_with_many_requests_holds_up_no_other_and_no_lease() -> None:
    transport = Transport(seconds=0.1)
    api = api_of(transport)
    crowd = [asyncio.create_task(api.request("PATCH", workload("busy", f"web-{n}"), body={})) for n in range(80)]
    await asyncio.sleep(0.05)
    for other in (
        path("v1", "secrets", "quiet", "db"),
        LEASE,
        path("v1", "namespaces", None, "busy"),  # a cluster-scoped object is not in the lane of busy
        path("v1", "secrets"),
    ):
        async with asyncio.timeout(0.25):  # time to wait for one request that is in flight, and for the request itself
            await api.request("GET", other)
    assert len(transport.sent) < 60
    await asyncio.gather(*crowd)


async def test_lease_is_renewed_while_nothing_else_is_answered() -> None:
    transport = Transport(seconds=0)
    api = api_of(transport, limit=1)
    hung = asyncio.create_task(api.request("GET", path("v1", "secrets", "team", "db")))
    await asyncio.sleep(0)
    lease = asyncio.create_task(api.request("PUT", LEASE, body={}))
    await asyncio.sleep(0)
    assert transport.sent[-1] == LEASE
    with pytest.raises(ClusterUnavailable, match="too many requests wait"):
        await api.request("GET", path("v1", "secrets", "quiet", "db"))
    hung.cancel()
    lease.cancel()


async def test_namespace_whose_own_requests_take_too_long_is_told_so() -> None:
    api = api_of(Transport(seconds=1))
    crowd = [asyncio.create_task(api.request("PATCH", workload("busy", f"web-{n}"), body={})) for n in range(300)]
    await asyncio.sleep(0)
    with pytest.raises(NamespaceBusy, match=r"^reading Secret busy/db: too many requests for namespace busy wait"):
        await api.request("GET", path("v1", "secrets", "busy", "db"))
    await asyncio.sleep(QUEUE_TIMEOUT)
    assert sum(isinstance(task.exception(), NamespaceBusy) for task in crowd if task.done()) > 200
    for task in crowd:
        task.cancel()


class Refusal:
    """A transport whose requests are answered with an error. ``sent`` counts them."""

    def __init__(self, status: int, *causes: str) -> None:
        self._status = status
        details = {"causes": [{"reason": cause, "message": "The disruption budget web needs 3"} for cause in causes]}
        self._content = json.dumps({"kind": "Status", "code": status, "details": details}).encode()
        self.sent = 0

    async def send(self, *_: object) -> Any:
        self.sent += 1
        content = Content(self._content)
        return SimpleNamespace(status=self._status, headers={}, content=content, release=lambda: None)


EVICTION = path("v1", "pods", "team", "web-1") + "/eviction"


@pytest.mark.parametrize(
    ("refusal", "error", "sent"),
    [
        (Refusal(429, "DisruptionBudget"), DisruptionNotAllowed, 1),
        (Refusal(500), ClusterUnavailable, 1),  # the API server answers so if two budgets select the pod
        (Refusal(429), TooManyRequests, 1 + MAX_429_RETRIES),
    ],
)
async def test_eviction_that_a_budget_forbids_slows_down_nobody(
    refusal: Refusal, error: type[Exception], sent: int
) -> None:
    """A refused eviction is no sign of an overloaded API server, because any tenant can write a budget that forbids
    evictions. If another request is answered with 500, the limit falls."""
    limiter = AdaptiveLimiter(4)
    api = Api(cast("Any", refusal), limiter, Metrics())
    with pytest.raises(error) as raised:
        await api.request("POST", EVICTION, body={})
    assert type(raised.value) is error
    assert refusal.sent == sent
    assert limiter.limit == 4
    with pytest.raises(ClusterUnavailable):
        await Api(cast("Any", Refusal(500)), limiter, Metrics()).request("POST", path("v1", "events", "team"), body={})
    assert limiter.limit < 4
