"""The Kubernetes API as JSON: what is asked, and what its answers mean."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    Expired,
    KeyturnError,
    NotFound,
    TooManyRequests,
)
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.telemetry.metrics import Metrics

Json = dict[str, Any]

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
FIELD_MANAGER = "keyturn"
TURN_SECONDS = 10.0  # that a request waits for its turn; else the line might get longer than anybody's patience
TURNED_AWAY = 3  # tries of one request that the API server was too busy to begin

_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)  # seconds, for all but watches
# https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#StatusReason
_REASONS = frozenset(
    {
        "AlreadyExists",
        "BadRequest",
        "Conflict",
        "Expired",
        "Forbidden",
        "Gone",
        "InternalError",
        "Invalid",
        "MethodNotAllowed",
        "NotAcceptable",
        "NotFound",
        "RequestEntityTooLarge",
        "ServerTimeout",
        "ServiceUnavailable",
        "StoreReadError",
        "Timeout",
        "TooManyRequests",
        "Unauthorized",
        "UnsupportedMediaType",
    }
)
_FIELD = re.compile(r"((?:metadata|data|type|immutable|spec)(?:\.[a-zA-Z]{1,40}){0,9})(?:\[(.*)\])?", re.DOTALL)
# Keys that Kubernetes' own types of Secrets ask for, and the one that Keyturn has chosen itself.
_KEYS = frozenset(
    {"value", "tls.crt", "tls.key", ".dockerconfigjson", ".dockercfg", "username", "password", "ssh-privatekey"}
)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def path(group_version: str, resource: str, namespace: str | None = None, name: str | None = None) -> str:
    """The path of a resource: ``group_version`` is "v1" or "apps/v1"."""
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{within}/{resource}" + (f"/{quote(name, safe='')}" if name else "")


class Api:
    """Requests and watches; every failure comes out as one of our errors, free of the API server's own text."""

    def __init__(self, transport: Transport, limiter: AdaptiveLimiter, metrics: Metrics) -> None:
        self._transport = transport
        self._limiter = limiter
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
            except TooManyRequests as error:
                await asyncio.sleep(error.retry_after)  # it was not begun: no harm in asking again
        return await self._request(method, path, query, body, content_type, accept)

    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Json | None, content_type: str, accept: str
    ) -> Json:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._limiter.acquire()
        except TimeoutError:
            raise ClusterUnavailable(f"{method} {path}: too many wait for the Kubernetes API: trying again") from None
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
            self._limiter.release(overloaded)

    async def watch(self, path: str, query: Mapping[str, str], accept: str, longest: float) -> AsyncIterator[Json]:
        """Give the events of a watch until the server ends it; one that lasts ``longest`` seconds is dead."""
        timeout = aiohttp.ClientTimeout(total=longest, sock_connect=3)
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
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            reply = {}
            if status < 300:  # something in between has answered
                raise ClusterUnavailable(f"{method} {path}: what answers is not the Kubernetes API: trying again")
        if status < 300:
            return reply
        raise _error(method, path, status, headers, reply)


def _resource(path: str) -> str:
    parts = path.split("/")
    core = 3 if parts[1] == "api" else 4
    return parts[core + 2] if parts[core] == "namespaces" and len(parts) > core + 2 else parts[core]


def reason_of(status: Json) -> str:
    """Tell the reason that a Status gives, if it is one of Kubernetes' own: a webhook may put any text there."""
    reason = status.get("reason")
    if isinstance(reason, str) and reason in _REASONS:
        return reason
    code = status.get("code")
    return str(code) if isinstance(code, int) else "an error"


def _fields(reply: Json) -> Iterator[str]:
    """Name the fields that a Status is about, but for keys of data: what AWS's JSON calls them is part of the value."""
    details = reply.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        field = _FIELD.fullmatch(str(cause.get("field"))) if isinstance(cause, dict) else None
        if field:
            name, key = field.groups()
            yield name if key is None else f"{name}[{key if key in _KEYS else '...'}]"


def _error(method: str, path: str, status: int, headers: Mapping[str, str], reply: Json) -> KeyturnError:
    # Of the API server's Status only reason and field names are kept: its message may quote what was sent.
    reason = reason_of({"code": status, **reply})
    fields = ", ".join(sorted(set(_fields(reply))))
    what = f"{method} {path}: the Kubernetes API answered {reason}" + (f" for {fields}" if fields else "")
    if status == 404:
        return NotFound(what)
    if status == 409:
        return Conflict(f"{what}: reading again")
    if status == 410:
        return Expired(what)
    if status == 429:
        return TooManyRequests(f"{what}: trying again", min(5.0, _seconds(headers.get("Retry-After"))))
    if status >= 500 or status in (401, 408):
        return ClusterUnavailable(f"{what}: trying again", _seconds(headers.get("Retry-After")))
    if status == 403:
        return ClusterRefused(f"{what}: the receiver's role, a quota or an admission policy forbids it; change that")
    return ClusterRefused(f"{what}: correct the object so that the API server takes it")


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 1.0
