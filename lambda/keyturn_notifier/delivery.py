"""One receiver: post signed batches to it, and tell what became of each notification."""

import hashlib
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import urllib3

from keyturn_contract.message import CONTENT_TYPE_BATCH, MAX_BODY, Notification, encode
from keyturn_contract.signature import content as signed_content
from keyturn_notifier.signing import KMS_LIMIT, KeyRing, Keys, SigningUnavailable
from keyturn_notifier.verdict import Answer, Fate, Reply, Verdict, everything, judge, looked_at_nothing, retry_after

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0  # longer than the receiver's own deadline of 8 s
REST_SECONDS = 5.0  # for a receiver that looked at nothing and did not say when to come again
MAX_REPLY = 256 * 1024  # bytes: ten results, each with the names of hundreds of Secrets
REMEMBERED = 10_000  # events


class Receiver:
    """Delivers to one URL. Connections are kept alive over invocations; what it has taken is not sent to it again.

    A receiver that looked at nothing (no answer, 429, a 503 without results) is left alone for a while, so that a dead
    one costs its neighbours no time. ``now`` gives seconds since the epoch, ``monotonic`` those that deadlines are in.
    """

    def __init__(
        self,
        url: str,
        key_ring: KeyRing,
        pool: urllib3.PoolManager,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = urlsplit(url).netloc
        self._url = url
        self._key_ring = key_ring
        self._pool = pool
        self._now = now
        self._monotonic = monotonic
        self._rest_until = 0.0
        self._taken: OrderedDict[str, None] = OrderedDict()

    def deliver(self, notifications: Sequence[Notification], deadline: float) -> Answer:
        """Post the notifications in as few batches as fit; none is begun that might not end by ``deadline``.

        No answer, 408, 429 and 5xx: again, but for those that the reply says are done. 401: once more at once, with the
        key read anew. Another 4xx: each is sent alone, and what is still refused is poison.
        """
        verdicts = {each.id: Verdict(Fate.DONE, "taken before") for each in notifications if each.id in self._taken}
        fresh = [each for each in notifications if each.id not in verdicts]
        replies: list[Reply] = []
        for batch in batches(fresh, self._key_ring.in_kms):
            verdicts |= self._deliver(batch, deadline, replies)
        return Answer(verdicts, replies)

    def _deliver(self, batch: Sequence[Notification], deadline: float, replies: list[Reply]) -> dict[str, Verdict]:
        rest = self._rest_until - self._monotonic()
        if rest > 0:
            return everything(
                batch, Verdict(Fate.AGAIN, "left alone: it looked at nothing a moment ago", retry_after=rest)
            )
        if self._monotonic() + CONNECT_SECONDS + ANSWER_SECONDS > deadline:
            return everything(batch, Verdict(Fate.AGAIN, "no time left in this invocation"))
        try:
            keys = self._key_ring.keys()
            replies.append(reply := self._post(batch, keys))
            if reply.status == 401:
                replies.append(reply := self._post(batch, self._key_ring.keys(stale=keys)))
        except SigningUnavailable as error:
            return everything(batch, Verdict(Fate.AGAIN, str(error)))
        return self._judge(batch, reply, deadline, replies)

    def _judge(
        self, batch: Sequence[Notification], reply: Reply, deadline: float, replies: list[Reply]
    ) -> dict[str, Verdict]:
        verdicts = judge(batch, reply, self._now())
        fates = {verdict.fate for verdict in verdicts.values()}
        if fates == {Fate.POISON} and len(batch) > 1:
            alone = [self._deliver([each], deadline, replies) for each in batch]  # the others shall not suffer for one
            return {each: verdict for verdicts in alone for each, verdict in verdicts.items()}
        if looked_at_nothing(reply):
            self._rest_until = self._monotonic() + (retry_after(reply, self._now()) or REST_SECONDS)
        self._remember(each for each, verdict in verdicts.items() if verdict.fate is Fate.DONE)
        return verdicts

    def _post(self, batch: Sequence[Notification], keys: Keys) -> Reply:
        body = encode(batch)
        headers = {
            "content-type": CONTENT_TYPE_BATCH,
            **keys.headers(message_id(batch), int(self._now()), body),
        }
        begun = self._monotonic()
        try:
            try:
                status, content, wait = self._exchange(body, headers)
            except urllib3.exceptions.ProtocolError:
                # A connection kept alive for too long: something on the way has cut it. Sending twice does no harm.
                status, content, wait = self._exchange(body, headers)
        except urllib3.exceptions.HTTPError:
            return Reply(0, self._monotonic() - begun)
        return Reply(status, self._monotonic() - begun, content, wait)

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str | None]:
        response = self._pool.request(
            "POST",
            self._url,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
        )
        content = response.read(MAX_REPLY + 1, decode_content=True)
        if len(content) > MAX_REPLY:
            response.close()  # no receiver of ours: what comes after is not waited for
            content = b""
        response.release_conn()
        return response.status, content, response.headers.get("retry-after")

    def _remember(self, done: Iterable[str]) -> None:
        self._taken.update(dict.fromkeys(done))
        while len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)


def tls(ca_bundle: str | None) -> ssl.SSLContext:
    """TLS as the system trusts it, and ``ca_bundle`` (PEM) beside; always verified."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_bundle:
        context.load_verify_locations(cadata=ca_bundle)
    return context


def batches(notifications: Sequence[Notification], in_kms: bool) -> list[list[Notification]]:
    """As few batches as fit: nearly always one. KMS signs less than the contract takes."""
    found: list[list[Notification]] = []
    for each in notifications:
        if found and _fits([*found[-1], each], in_kms):
            found[-1].append(each)
        else:
            found.append([each])
    return found


def message_id(notifications: Sequence[Notification]) -> str:
    """One id for the batch, the same when the same events are sent again."""
    ids = "\n".join(notification.id for notification in notifications)
    return "msg_" + hashlib.sha256(ids.encode()).hexdigest()[:32]


def _fits(batch: Sequence[Notification], in_kms: bool) -> bool:
    body = encode(batch)
    return len(body) <= MAX_BODY and (not in_kms or len(signed_content(message_id(batch), 10**10, body)) <= KMS_LIMIT)
