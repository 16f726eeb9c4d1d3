"""The client for one receiver. It posts signed batches, and returns the result of each notification."""

import hashlib
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import urllib3

from keyturn_contract.message import CONTENT_TYPE_BATCH, MAX_BODY, RECEIVER_HEADER, Notification, encode
from keyturn_contract.signature import content as signed_content
from keyturn_notifier.connection_failure import describe
from keyturn_notifier.disposition import (
    DeliveryReport,
    DeliveryResult,
    Disposition,
    Reply,
    classify,
    describe_reply,
    parse_retry_after,
    refuses,
    same_for_all,
    unavailable,
)
from keyturn_notifier.exchange_deadline import ExchangeDeadline, watch
from keyturn_notifier.proxy import Proxy
from keyturn_notifier.signing import KMS_LIMIT, KeyRing, Keys, SigningUnavailable

CONNECT_SECONDS = 3.0
REPLY_SECONDS = 10.0  # seconds without a byte of the reply, longer than the receiver's own deadline of 8 s
COOLDOWN_SECONDS = 5.0  # seconds in which nothing is sent to an unavailable receiver, if it has sent no Retry-After
MAX_REPLY = 256 * 1024  # bytes; ten results that each name hundreds of Secrets are shorter than this
MAX_DELIVERED = 10_000  # at most this many results are kept in memory
MAX_KEPT_NAMES = 20  # each list of a result in memory has at most this many names


class ReceiverClient:
    """HTTP client for one receiver, with a circuit breaker.

    A POST with its reply, and with a second try on a new connection, ends within CONNECT_SECONDS + REPLY_SECONDS. So a
    receiver that answers slowly, byte by byte, counts as one that gives no answer.

    Connections stay open across invocations. If the receiver has accepted a notification, the notification is not sent
    to it again.

    Circuit breaker: a receiver is unavailable after no answer, a 429, or a 503 without results. Then nothing is sent to
    it for a cooldown, so that a dead receiver does not delay the deliveries to other receivers.

    ``now`` returns seconds since the epoch. ``monotonic`` returns the seconds of the clock that deadlines use.
    ``reload_authorities`` reads the CAs again, and returns whether there are new ones.
    """

    def __init__(
        self,
        url: str,
        key_ring: KeyRing,
        pool: urllib3.PoolManager,
        reload_authorities: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = urlsplit(url).netloc
        self._url = url
        self._key_ring = key_ring
        self._pool = pool
        self._reload_authorities = reload_authorities
        self._now = now
        self._monotonic = monotonic
        self._cooldown_end = 0.0
        self._cooldown_reason = ""
        self._delivered: OrderedDict[str, DeliveryResult] = OrderedDict()

    def deliver(self, notifications: Sequence[Notification], deadline: float) -> DeliveryReport:
        """Post the notifications in as few batches as possible. If a batch might not end before ``deadline``, it is not
        posted.

        After a 401, the keys are read again, and the batch is posted a second time. After any other 4xx except 408 and
        429, each notification of the batch is posted separately. A notification is poison if the receiver itself
        refuses it when it is alone in a batch. In all other cases, the notifications that the reply does not list as
        done have to be retried.
        """
        results = {
            notification.id: self._delivered[notification.id]
            for notification in notifications
            if notification.id in self._delivered
        }
        remaining = [notification for notification in notifications if notification.id not in results]
        replies: list[Reply] = []
        for batch in split_into_batches(remaining, self._key_ring.signs_with_kms):
            results |= self._deliver(batch, deadline, replies)
        return DeliveryReport(results, replies)

    def _deliver(
        self, batch: Sequence[Notification], deadline: float, replies: list[Reply]
    ) -> dict[str, DeliveryResult]:
        cooldown = self._cooldown_end - self._monotonic()
        if cooldown > 0:
            reason = f"not sent: the circuit breaker is open after: {self._cooldown_reason}"
            return same_for_all(batch, DeliveryResult(Disposition.RETRY, reason, retry_after=cooldown))
        if self._monotonic() + CONNECT_SECONDS + REPLY_SECONDS > deadline:
            return same_for_all(batch, DeliveryResult(Disposition.RETRY, "not sent: no time left in this invocation"))
        try:
            keys = self._key_ring.keys()
            replies.append(reply := self._post(batch, keys))
            if reply.status == 401:
                replies.append(reply := self._post(batch, self._key_ring.keys(stale=keys)))
        except SigningUnavailable as error:
            return same_for_all(batch, DeliveryResult(Disposition.RETRY, str(error)))
        return self._classify(batch, reply, deadline, replies)

    def _classify(
        self, batch: Sequence[Notification], reply: Reply, deadline: float, replies: list[Reply]
    ) -> dict[str, DeliveryResult]:
        results = classify(batch, reply, self._now())
        if refuses(reply) and len(batch) > 1:
            # Each notification is posted separately. So one refused notification does not make the other ones fail.
            singles = [self._deliver([notification], deadline, replies) for notification in batch]
            return {event_id: result for single in singles for event_id, result in single.items()}
        if unavailable(reply):
            cooldown = parse_retry_after(reply, self._now()) or COOLDOWN_SECONDS
            self._cooldown_end = self._monotonic() + cooldown
            self._cooldown_reason = describe_reply(reply)
        self._remember(results)
        return results

    def _post(self, batch: Sequence[Notification], keys: Keys) -> Reply:
        body = encode(batch)
        headers = {
            "content-type": CONTENT_TYPE_BATCH,
            **keys.headers(message_id(batch), int(self._now()), body),
        }
        start = self._monotonic()
        try:
            response, content = self._exchange_again_if_useful(body, headers, start + CONNECT_SECONDS + REPLY_SECONDS)
        except urllib3.exceptions.HTTPError as error:
            failure = describe(error, CONNECT_SECONDS, REPLY_SECONDS)
            tls_failed = isinstance(error, urllib3.exceptions.SSLError)
            return Reply(0, self._monotonic() - start, failure=failure, tls_failed=tls_failed)
        return Reply(
            response.status,
            self._monotonic() - start,
            content,
            response.headers.get("retry-after"),
            response.headers.get("content-type", ""),
            from_receiver=RECEIVER_HEADER in response.headers,
        )

    def _exchange_again_if_useful(
        self, body: bytes, headers: Mapping[str, str], end: float
    ) -> tuple[urllib3.response.BaseHTTPResponse, bytes]:
        try:
            return self._exchange(body, headers, end)
        except urllib3.exceptions.ProtocolError:
            # The receiver or a load balancer has closed an idle connection. The receiver may now get the batch twice,
            # which does no harm.
            return self._exchange(body, headers, end)
        except urllib3.exceptions.SSLError:
            if not self._reload_authorities():
                raise
            return self._exchange(body, headers, end)

    def _exchange(
        self, body: bytes, headers: Mapping[str, str], end: float
    ) -> tuple[urllib3.response.BaseHTTPResponse, bytes]:
        with ExchangeDeadline(end - self._monotonic()):
            return self._request(body, headers)

    def _request(self, body: bytes, headers: Mapping[str, str]) -> tuple[urllib3.response.BaseHTTPResponse, bytes]:
        response = self._pool.request(
            "POST",
            self._url,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=REPLY_SECONDS),
        )
        content = response.read(MAX_REPLY + 1, decode_content=True)
        if len(content) > MAX_REPLY:
            response.close()  # such a long reply is not from a Keyturn receiver, so the rest is not read
            content = b""
        response.release_conn()
        return response, content

    def _remember(self, results: Mapping[str, DeliveryResult]) -> None:
        for event_id, each in results.items():
            if each.disposition is Disposition.DONE:
                kept = each.result and each.result.cut(MAX_KEPT_NAMES)
                self._delivered[event_id] = DeliveryResult(Disposition.DONE, "delivered earlier", result=kept)
        while len(self._delivered) > MAX_DELIVERED:
            self._delivered.popitem(last=False)


def connection_pool(url: str, context: ssl.SSLContext, proxy: Proxy | None) -> urllib3.PoolManager:
    """Return a pool of connections to a receiver. The connections go through the proxy if it serves ``url``."""
    manager = (
        urllib3.ProxyManager(proxy.url, ssl_context=context)
        if proxy and proxy.serves(url)
        else urllib3.PoolManager(ssl_context=context)
    )
    watch(manager)
    return manager


def split_into_batches(notifications: Sequence[Notification], signs_with_kms: bool) -> list[list[Notification]]:
    """Split notifications into as few batches as possible. One batch is nearly always enough.

    If KMS signs, the batches are smaller, because KMS signs fewer bytes than the contract allows in a batch.
    """
    batches: list[list[Notification]] = []
    for notification in notifications:
        if batches and _fits([*batches[-1], notification], signs_with_kms):
            batches[-1].append(notification)
        else:
            batches.append([notification])
    return batches


def message_id(batch: Sequence[Notification]) -> str:
    """Return the ``webhook-id`` of a batch. If two batches have the same events in the same order, they have the same
    id."""
    event_ids = "\n".join(notification.id for notification in batch)
    return "msg_" + hashlib.sha256(event_ids.encode()).hexdigest()[:32]


def _fits(batch: Sequence[Notification], signs_with_kms: bool) -> bool:
    body = encode(batch)
    if len(body) > MAX_BODY:
        return False
    return not signs_with_kms or len(signed_content(message_id(batch), 10**10, body)) <= KMS_LIMIT
