"""The Kubernetes API as JSON: what is asked, and what its answers mean."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from keyturn_receiver.cluster.governor import Governor
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    Expired,
    KeyturnError,
    NotFound,
    TurnedAway,
)
from keyturn_receiver.telemetry.metrics import Metrics

Json = dict[str, Any]

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
FIELD_MANAGER = "keyturn"
TURNED_AWAY = 3  # tries of one request that the API server was too busy to begin

_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)  # seconds, for all but watches
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def path(group_version: str, resource: str, namespace: str | None = None, name: str | None = None) -> str:
    """The path of a resource: ``group_version`` is "v1" or "apps/v1"."""
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    within = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{within}/{resource}" + (f"/{quote(name)}" if name else "")


class Api:
    """Requests and watches; every failure comes out as one of our errors, free of the API server's own text."""

    def __init__(self, transport: Transport, governor: Governor, metrics: Metrics) -> None:
        self._transport = transport
        self._governor = governor
        self._metrics = metrics

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Json:
        """Make one request and return the decoded reply.

        Raises NotFound, Conflict, ClusterRefused or ClusterUnavailable.
        """
        for _ in range(TURNED_AWAY):
            try:
                return await self._request(method, path, query, body, content_type, accept)
            except TurnedAway as error:
                await asyncio.sleep(error.retry_after)  # it was not begun: no harm in asking again
        return await self._request(method, path, query, body, content_type, accept)

    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Json | None, content_type: str, accept: str
    ) -> Json:
        await self._governor.enter()
        overloaded = False
        try:
            response = await self._send(method, path, query, body, content_type, accept, _TIMEOUT)
            try:
                return self._checked(method, path, response.status, response.headers, await response.read())
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._unreachable(method, path, error) from None
            finally:
                response.release()
        except ClusterUnavailable:
            overloaded = True
            raise
        finally:
            self._governor.leave(overloaded)

    async def watch(self, path: str, query: Mapping[str, str], accept: str, silence: float) -> AsyncIterator[Json]:
        """Give the events of a watch until the server ends it; ``silence`` seconds without a byte end it, too."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=silence)
        response = await self._send("GET", path, {**query, "watch": "true"}, None, "application/json", accept, timeout)
        try:
            if response.status != 200:
                self._checked("GET", path, response.status, response.headers, await response.read())
            async for line in response.content:
                if line.endswith(b"\n"):  # a cut connection leaves half a line, which is no event
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreachable("GET", path, error) from None
        finally:
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        accept: str,
        patience: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type}
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            response = await self._transport.send(method, target, headers, content, patience)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(method, path, error) from None
        self._metrics.kubernetes_requests.labels(_VERBS[method], _resource(path), str(response.status)).inc()
        return response

    def _unreachable(self, method: str, path: str, error: Exception) -> ClusterUnavailable:
        self._metrics.kubernetes_requests.labels(_VERBS[method], _resource(path), "0").inc()
        kind = "timed out" if isinstance(error, asyncio.TimeoutError) else type(error).__name__
        return ClusterUnavailable(f"{method} {path}: the Kubernetes API did not answer ({kind}): trying again")

    def _checked(self, method: str, path: str, status: int, headers: Mapping[str, str], content: bytes) -> Json:
        try:
            reply = json.loads(content)
        except ValueError:
            reply = {}
        if status < 300 and isinstance(reply, dict):
            return reply
        raise _error(method, path, status, headers, reply if isinstance(reply, dict) else {})


def _resource(path: str) -> str:
    parts = path.split("/")
    core = 3 if parts[1] == "api" else 4
    return parts[core + 2] if parts[core] == "namespaces" and len(parts) > core + 2 else parts[core]


def _error(method: str, path: str, status: int, headers: Mapping[str, str], reply: Json) -> KeyturnError:
    # Of the API server's Status only reason and field names are kept: its message may quote what was sent.
    reason = str(reply.get("reason") or status)
    causes = (reply.get("details") or {}).get("causes") or []
    fields = ", ".join(sorted({str(cause.get("field")) for cause in causes if cause.get("field")}))
    what = f"{method} {path}: the Kubernetes API answered {reason}" + (f" for {fields}" if fields else "")
    if status == 404:
        return NotFound(what)
    if status == 409:
        return Conflict(f"{what}: reading again")
    if status == 410:
        return Expired(what)
    if status == 429:
        return TurnedAway(f"{what}: trying again", min(5.0, _seconds(headers.get("Retry-After"))))
    if status >= 500 or status in (401, 408):
        return ClusterUnavailable(f"{what}: trying again", _seconds(headers.get("Retry-After")))
    if status == 403:
        return ClusterRefused(f"{what}: the receiver's role, a quota or an admission policy forbids it; change that")
    return ClusterRefused(f"{what}: correct the object so that the API server takes it")


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 1.0
