"""Load generator for the webhook. It sends signed deliveries like the notifier: one by one, in bursts, or as a
flood."""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from urllib.parse import urlsplit

import aiohttp
import httptools

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    MAX_EVENTS,
    EventType,
    Notification,
    NotificationData,
    encode,
)
from keyturn_contract.signature import sign
from keyturn_local.aws.sdk import ACCOUNT, REGION
from keyturn_local.bench.stub_aws import arn_of

ATTEMPTS = 30  # a batch of a burst is sent at most this many times
# "unchanged" is the outcome if an earlier attempt applied the change, but only after its deadline.
TAKEN = ("applied", "unchanged")


class NotDelivered(RuntimeError):
    """A delivery got an unexpected answer, so nothing was measured."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sender of deliveries to one webhook. One key signs all of them."""

    url: str
    key: bytes

    def delivery(self, versions: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of one delivery. ``versions`` maps the name of each secret to the id of its
        current version."""
        body = encode([_notification(name, version_id) for name, version_id in versions.items()])
        message_id, now = f"msg_{uuid.uuid4().hex}", int(time.time())
        headers = {
            "content-type": CONTENT_TYPE_BATCH,
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(self.key, message_id, now, body),
        }
        return body, headers

    async def send(self, session: aiohttp.ClientSession, versions: Mapping[str, str]) -> float:
        """Send one delivery. Return the seconds until its acknowledgement. Raises NotDelivered."""
        body, headers = self.delivery(versions)
        started = time.perf_counter()
        async with session.post(self.url, data=body, headers=headers) as reply:
            content = await reply.read()
        seconds = time.perf_counter() - started
        if reply.status != 200 or content.count(b'"applied"') != len(versions):
            raise NotDelivered(f"status {reply.status}: {content[:300]!r}")
        return seconds

    async def post(self, versions: Mapping[str, str]) -> None:
        """Send one delivery. A 503 is not an error, because it says that the receiver is not done yet. Raises
        NotDelivered for any status other than 200 and 503."""
        body, headers = self.delivery(versions)
        async with aiohttp.ClientSession() as session, session.post(self.url, data=body, headers=headers) as reply:
            if reply.status not in (200, 503):
                raise NotDelivered(f"status {reply.status}: {(await reply.read())[:300]!r}")

    async def burst(self, versions: Mapping[str, str], connections: int) -> float:
        """Send full batches over several connections at once. After a 503, send the batch again, as the notifier does.
        Return the total duration in seconds. Raises NotDelivered."""
        names = list(versions)
        batches = iter([names[first : first + MAX_EVENTS] for first in range(0, len(names), MAX_EVENTS)])
        async with aiohttp.ClientSession() as session:

            async def deliver() -> None:
                for batch in batches:
                    await self._send_until_taken(session, {name: versions[name] for name in batch})

            started = time.perf_counter()
            await asyncio.gather(*(deliver() for _ in range(connections)))
            return time.perf_counter() - started

    async def _send_until_taken(self, session: aiohttp.ClientSession, versions: Mapping[str, str]) -> None:
        for _attempt in range(ATTEMPTS):
            body, headers = self.delivery(versions)
            async with session.post(self.url, data=body, headers=headers) as reply:
                content = await reply.read()
            if reply.status == 200 and all(each["outcome"] in TAKEN for each in json.loads(content)["results"]):
                return
            if reply.status != 503:
                break
        raise NotDelivered(f"status {reply.status}: {content[:300]!r}")

    def flood(self, seconds: float, connections: int, forged: bool) -> tuple[float, Counter[int]]:
        """Send deliveries about a secret that no binding names. Each connection sends its next delivery as soon as the
        last one is answered.

        Return the duration in seconds, and the number of answers by status. Each delivery has an id of its own, because
        the receiver answers a replay without handling it. If ``forged`` is true, the deliveries are signed with a wrong
        key.
        """
        body, headers = self.delivery({"nobody/binds-this": str(uuid.uuid4())})
        key = b"x" * 32 if forged else self.key
        return asyncio.run(_flood(self.url, _requests(self.url, key, body, headers), seconds, connections))


def _notification(name: str, version_id: str) -> Notification:
    data = NotificationData("SecretLabelUpdated", ACCOUNT, REGION, name=name, version_id=version_id, label="AWSCURRENT")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Notification(str(uuid.uuid4()), "aws.secretsmanager", EventType.CHANGED, arn_of(name), now, data)


class _Flood(asyncio.Protocol):
    """A connection that sends the next request after each answer. It needs less CPU time than the server."""

    def __init__(self, requests: Iterator[bytes], statuses: Counter[int], end: float) -> None:
        self._requests = requests
        self._statuses = statuses
        self._end = end
        self._parser = httptools.HttpResponseParser(self)
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._statuses[self._parser.get_status_code()] += 1
        if time.perf_counter() < self._end:
            self._transport.write(next(self._requests))
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def _requests(url: str, key: bytes, body: bytes, headers: Mapping[str, str]) -> Iterator[bytes]:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if not name.startswith("webhook-")]
    head = "\r\n".join(lines)
    for number in count():
        message_id, timestamp = f"msg_{number}", int(time.time())
        signature = sign(key, message_id, timestamp, body)
        signed = f"webhook-id: {message_id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}"
        yield f"{head}\r\n{signed}\r\n\r\n".encode() + body


async def _flood(url: str, requests: Iterator[bytes], seconds: float, connections: int) -> tuple[float, Counter[int]]:
    parts = urlsplit(url)
    where = (str(parts.hostname), int(parts.port or 80))
    statuses: Counter[int] = Counter()
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    connected = [
        await loop.create_connection(lambda: _Flood(requests, statuses, started + seconds), *where)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.closed for _, protocol in connected))
    return time.perf_counter() - started, statuses
