"""One delivery: sign a batch of notifications, post it, and tell what became of each."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum

import urllib3

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    MalformedMessage,
    Notification,
    Outcome,
    decode_reply,
    encode,
)
from keyturn_contract.signature import sign


class Fate(Enum):
    """What to do with the message that a notification came in."""

    DONE = "done"
    AGAIN = "again"
    POISON = "poison"


class Delivery:
    """Delivers to one receiver; ``key`` gives the signing key, anew when told so. Connections are kept alive."""

    def __init__(
        self,
        url: str,
        key: Callable[[bool], bytes],
        pool: urllib3.PoolManager,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._key = key
        self._pool = pool
        self._now = now

    def deliver(self, notifications: Sequence[Notification]) -> tuple[Mapping[str, Fate], str]:
        """Post the notifications; return the fate of each by id, and a word for the log on the whole.

        No answer, 408, 429 and 5xx: again, but for those that the reply says are done. 401: once more at once, with
        the key read anew. Another 4xx: poison, it would be refused for ever.
        """
        body = encode(notifications)
        status, content = self._post(notifications, body, fresh_key=False)
        if status == 401:
            status, content = self._post(notifications, body, fresh_key=True)
        return self._fates(notifications, status, content), f"status {status}" if status else "no answer"

    def _post(self, notifications: Sequence[Notification], body: bytes, fresh_key: bool) -> tuple[int, bytes]:
        message_id = _message_id(notifications)
        timestamp = int(self._now())
        headers = {
            "content-type": CONTENT_TYPE_BATCH,
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key(fresh_key), message_id, timestamp, body),
        }
        try:
            reply = self._pool.request("POST", self._url, body=body, headers=headers, retries=False, redirect=False)
        except urllib3.exceptions.HTTPError:
            return 0, b""
        return reply.status, reply.data

    def _fates(self, notifications: Sequence[Notification], status: int, content: bytes) -> Mapping[str, Fate]:
        if 400 <= status < 500 and status not in (401, 408, 429):
            return {notification.id: Fate.POISON for notification in notifications}
        done: set[str] = set()
        if status in (200, 503):
            with suppress(MalformedMessage):  # not our receiver's answer: nothing counts as done
                done = {result.id for result in decode_reply(content) if result.outcome is not Outcome.FAILED}
        return {notification.id: Fate.DONE if notification.id in done else Fate.AGAIN for notification in notifications}


def _message_id(notifications: Sequence[Notification]) -> str:
    """One id for the batch, the same when the same events are sent again."""
    ids = "\n".join(notification.id for notification in notifications)
    return "msg_" + hashlib.sha256(ids.encode()).hexdigest()[:32]
