"""Client for the Kubernetes API. It sends JSON requests. Each failure becomes one of the receiver's own errors."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from msgspec.json import Decoder, encode

from keyturn_receiver.cluster.long_strings import LongText
from keyturn_receiver.cluster.request_words import action, parse_path
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.cluster.wanted_fields import EVENT, OBJECT
from keyturn_receiver.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    DisruptionNotAllowed,
    Expired,
    KeyturnError,
    NamespaceBusy,
    NotFound,
    TooManyRequests,
    UnknownField,
)
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter, LaneFull, Overloaded
from keyturn_receiver.telemetry.metrics import Metrics

Json = dict[str, Any]

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
# The limits for one string of an object, in bytes of JSON, by the kind of object. One character can take six bytes. The
# receiver has no use for longer strings, so they may be dropped (``LongText``).
MAX_STRING = 4 * 1024  # workloads: the longest name has 253 characters
MAX_METADATA_STRING = 512 * 1024  # metadata: the longest annotation that is read, `data`, has 64 KiB of characters
MAX_VALUE_STRING = 1536 * 1024  # Secrets with their data: 1 MiB of data in base64
QUEUE_TIMEOUT = 10.0  # seconds that a request may wait for the limiter; without this limit the wait could have no end
MAX_429_RETRIES = 3  # the number of times that one request is repeated after a 429

_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)  # seconds, for all requests except watches
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
# The path of a field in a Status. It may end in brackets with a key or an index.
_FIELD = re.compile(r"((?:metadata|data|type|immutable|spec)(?:\.[a-zA-Z]{1,40}){0,9})(?:\[(.*)\])?", re.DOTALL)
# Keys of data that may be shown because they reveal nothing about a value: the keys of Kubernetes' own types of
# Secrets, and Keyturn's default key.
_KEYS = frozenset(
    {"value", "tls.crt", "tls.key", ".dockerconfigjson", ".dockercfg", "username", "password", "ssh-privatekey"}
)
# Parts of the message with which the API server answers 500 if etcd, or its client, takes no object of this size. Such
# an object is its author's doing, because names of keys and managed fields have no lower limit of their own.
_TOO_LARGE = ("etcdserver: request is too large", "trying to send message larger than max")
# Advice about fields that the API server itself checks, by the name of the field.
_ADVICE = {
    "data[.dockerconfigjson]": "the value is not Docker's JSON: store the content of a Docker config.json in AWS",
    "data[.dockercfg]": "the value is not Docker's JSON: store the content of a .dockercfg in AWS",
    "data[tls.crt]": "a Secret of this type needs a certificate under tls.crt: fill this key, too",
    "data[tls.key]": "a Secret of this type needs a private key under tls.key: fill this key, too",
    "data[ssh-privatekey]": "a Secret of this type needs a private key under ssh-privatekey: fill this key, too",
}
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def path(group_version: str, resource: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the URL path of a resource. ``group_version`` is "v1" or "group/version"."""
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{scope}/{resource}" + (f"/{quote(name, safe='')}" if name else "")


class ReplyTooLarge(Exception):
    """A reply is longer than the caller of the request allows."""


class Api:
    """Kubernetes client. It makes requests and watches. Each failure becomes one of the receiver's own errors.

    An error never quotes the message of the API server, which may contain a value. ``limiter`` limits how many requests
    are in flight. The requests of each namespace wait in a lane of their own. Watches and requests about Leases are not
    limited. There are few of them, and leader election must not wait behind other requests.
    """

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
        max_bytes: float = math.inf,
        decoder: Decoder[Any] = OBJECT,
    ) -> Json:
        """Make one request and return the reply. ``decoder`` determines which parts of the reply are kept.

        Raises NotFound, Conflict, Expired, ClusterRefused, ClusterUnavailable, DisruptionNotAllowed or NamespaceBusy.
        Raises ReplyTooLarge if the reply has more than ``max_bytes`` bytes; the rest of such a reply is not read.
        """
        exchange = partial(self._exchange, method, path, query, body, content_type, accept, max_bytes, decoder)
        attempt = exchange if parse_path(path).resource == "leases" else partial(self._in_lane, method, path, exchange)
        for _ in range(MAX_429_RETRIES):
            try:
                return await attempt()
            except TooManyRequests as error:
                # A server that answers 429 has not started the request, so it is safe to repeat it.
                await asyncio.sleep(error.retry_after)
        return await attempt()

    async def _in_lane(self, method: str, path: str, exchange: Callable[[], Awaitable[Json]]) -> Json:
        """Make a request as soon as the limiter admits it. Until then, the request waits in the lane of the namespace
        that ``path`` names."""
        lane = parse_path(path).namespace
        try:
            await self._limiter.acquire(lane, QUEUE_TIMEOUT)
        except LaneFull:
            raise NamespaceBusy(
                f"{action(method, path)}: too many requests for namespace {lane} wait for the Kubernetes API: trying"
                " again"
            ) from None
        except Overloaded:
            raise ClusterUnavailable(
                f"{action(method, path)}: too many requests wait for the Kubernetes API: trying again"
            ) from None
        overloaded = False
        try:
            return await exchange()
        except ClusterUnavailable:
            # The API server answers an eviction with 500 if two PodDisruptionBudgets of a tenant select the pod. Such
            # an answer must not slow down the requests of other tenants.
            overloaded = parse_path(path).subresource != "eviction"
            raise
        finally:
            self._limiter.release(overloaded, lane)

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        accept: str,
        max_bytes: float,
        decoder: Decoder[Any],
    ) -> Json:
        response = await self._send(method, path, query, body, content_type, accept, _TIMEOUT)
        try:
            content = await _read(response.content, max_bytes, _max_string(path, accept))
            return self._decode(method, path, response.status, response.headers, content, decoder)
        except ReplyTooLarge:
            response.close()  # otherwise the rest of the reply would still be read
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(method, path, error) from None
        finally:
            response.release()

    async def watch(
        self, path: str, query: Mapping[str, str], accept: str, deadline: float, decoder: Decoder[Any] = OBJECT
    ) -> AsyncIterator[Json]:
        """Yield the events of a watch until the server ends the watch. ``decoder`` determines which parts of an object
        are kept.

        If the server has not ended the watch after ``deadline`` seconds, the connection is considered dead, and
        ClusterUnavailable is raised. Raises Expired if the server answers that the watch is too far behind to resume.
        The server can also report this in an event of type ERROR, which is yielded. Raises the other errors of
        ``request``, too.
        """
        timeouts = aiohttp.ClientTimeout(total=deadline, sock_connect=3)
        response = await self._send("GET", path, {**query, "watch": "true"}, None, "application/json", accept, timeouts)
        try:
            if response.status != 200:
                self._decode("GET", path, response.status, response.headers, await response.read(), OBJECT)
            async for line in lines(response.content.iter_any(), _max_string(path, accept)):
                event = EVENT.decode(line)
                kept = OBJECT if event.type == "ERROR" else decoder
                yield {"type": event.type, "object": kept.decode(event.object)}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
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
        timeouts: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type}
        content = None if body is None else _encoded(body)
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            response = await self._transport.send(method, target, headers, content, timeouts)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(method, path, error) from None
        self._metrics.kubernetes_requests.labels(_VERBS[method], parse_path(path).resource, str(response.status)).inc()
        return response

    def _unreachable(self, method: str, path: str, error: Exception) -> ClusterUnavailable:
        self._metrics.kubernetes_requests.labels(_VERBS[method], parse_path(path).resource, "0").inc()
        cause = "timed out" if isinstance(error, asyncio.TimeoutError) else type(error).__name__
        return ClusterUnavailable(f"{action(method, path)}: the Kubernetes API did not answer ({cause}): trying again")

    def _decode(
        self,
        method: str,
        path: str,
        status: int,
        headers: Mapping[str, str],
        content: bytes,
        decoder: Decoder[Any],
    ) -> Json:
        reply: Json = {}
        try:
            reply = (decoder if status < 300 else OBJECT).decode(content)
        except (ValueError, RecursionError):
            if status < 300:  # a proxy has answered in place of the API server
                raise ClusterUnavailable(
                    f"{action(method, path)}: the reply does not come from the Kubernetes API: trying again"
                ) from None
        if status < 300:
            return reply
        raise _error(method, path, status, headers, reply)


def _encoded(body: Json) -> bytes:
    try:
        return encode(body)
    except UnicodeEncodeError:  # a tenant's text may contain half a surrogate pair, which only JSON's escapes can show
        return json.dumps(body, separators=(",", ":")).encode()


async def _read(stream: aiohttp.StreamReader, max_bytes: float, max_string: float) -> bytes:
    text, received = LongText(max_string), 0
    async for chunk in stream.iter_any():
        received += len(chunk)
        if received > max_bytes:
            raise ReplyTooLarge
        text.feed(chunk)
    return text.content()


async def lines(chunks: AsyncIterable[bytes], max_string: float = math.inf) -> AsyncIterator[bytes]:
    """Yield each complete line. A line may have any length. Strings of more than ``max_string`` bytes may become empty
    strings (``LongText``).

    The largest object that Kubernetes accepts is a line of several megabytes. If the connection breaks in the middle of
    a line, the incomplete line is dropped.
    """
    begun = LongText(max_string)
    async for chunk in chunks:
        head, *rest = chunk.split(b"\n")
        begun.feed(head)
        for each in rest:
            yield begun.content()
            begun = LongText(max_string)
            begun.feed(each)


def _max_string(path: str, accept: str) -> int:
    """Return the limit, in bytes, for one string in a reply. A longer string may be replaced by an empty string
    (``LongText``)."""
    if accept in (METADATA_ONLY, METADATA_LIST):
        return MAX_METADATA_STRING
    return MAX_VALUE_STRING if parse_path(path).resource == "secrets" else MAX_STRING


def reason_of(status: Json) -> str:
    """Return the reason in a Status if it is one of Kubernetes' own reasons. Otherwise return the status code, or "an
    error" if there is none, because an admission webhook could put any text into the reason."""
    reason = status.get("reason")
    if isinstance(reason, str) and reason in _REASONS:
        return reason
    code = status.get("code")
    return str(code) if isinstance(code, int) else "an error"


def _causes(reply: Json) -> Iterator[Json]:
    details = reply.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    yield from (cause for cause in (causes if isinstance(causes, list) else ()) if isinstance(cause, dict))


def _fields(reply: Json) -> Iterator[str]:
    """Yield the names of the fields that a Status complains about, if they have the form of _FIELD.

    A key or index in brackets is masked unless it is in _KEYS, because a key of ``data`` may be a property name from
    AWS's JSON. Property names are part of the secret value.
    """
    for cause in _causes(reply):
        field = _FIELD.fullmatch(str(cause.get("field")))
        if field:
            name, key = field.groups()
            yield name if key is None else f"{name}[{key if key in _KEYS else '...'}]"


def _is_of_ending_namespace(reply: Json) -> bool:
    """Return whether an object is refused because its namespace is being deleted (NamespaceTerminatingCause in
    k8s.io/api/core/v1)."""
    return any(cause.get("reason") == "NamespaceTerminating" for cause in _causes(reply))


def _error(method: str, path: str, status: int, headers: Mapping[str, str], reply: Json) -> KeyturnError:
    if status == 403 and _is_of_ending_namespace(reply):
        return NotFound(f"{action(method, path)}: the namespace is being deleted")
    # Only the reason and the names of fields are taken from the Status. Its message may quote the request.
    reason = reason_of({"code": status, **reply})
    fields = ", ".join(sorted(set(_fields(reply))))
    text = f"{action(method, path)}: the Kubernetes API answered {reason}" + (f" for {fields}" if fields else "")
    if status == 404:
        return NotFound(text)
    if status == 409:
        return Conflict(f"{text}: reading again")
    if status == 410:
        return Expired(text)
    if status == 429 and any(cause.get("reason") == "DisruptionBudget" for cause in _causes(reply)):
        return DisruptionNotAllowed(f"{action(method, path)}: a PodDisruptionBudget forbids it for now")
    if status == 429:
        return TooManyRequests(f"{text}: trying again", min(5.0, _retry_after(headers.get("Retry-After"))))
    if status == 500 and any(text in str(reply.get("message")) for text in _TOO_LARGE):
        return ClusterRefused(f"{action(method, path)}: the object is too large for Kubernetes: make it smaller")
    if status >= 500 or status in (401, 408):
        return ClusterUnavailable(f"{text}: trying again", _retry_after(headers.get("Retry-After")))
    if status == 403:
        return ClusterRefused(f"{text}: the receiver's role, a quota or an admission policy forbids it; change that")
    if status in (400, 422) and "strict decoding error" in str(reply.get("message")):
        return UnknownField(text)
    advice = next((each for field, each in _ADVICE.items() if field in fields), None)
    return ClusterRefused(f"{text}: {advice or 'correct the object so that the API server takes it'}")


def _retry_after(header: str | None) -> float:
    return float(header) if header and header.isdecimal() else 1.0
