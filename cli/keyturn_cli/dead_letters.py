"""Dead letters: events that the notifier could not deliver. They can be sent back to the queue.

An event is first sent to the queue, and then deleted from the dead-letter queue. After a crash between the two steps,
the event is in both queues. The second delivery changes nothing, because a receiver compares each event with AWS.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyturn_cli.aws import AwsError, errors
from keyturn_receiver.core.json_access import as_object

LEASE_SECONDS = 60  # seconds for which SQS hides received letters from other readers
ROUND = 100  # letters per round; a round receives letters and then sends them back, within LEASE_SECONDS
MAX_LISTED = 1000
EMPTY_REPLIES = 2  # empty replies in a row that end the reads; one is not enough, as SQS asks only some of its servers
TRIED = "tried 1000 times: see 'not delivered' in the notifier's log"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event in the dead-letter queue. ``event_id`` is empty if the body is not an event. ``messages`` has the ids
    and receipt handles of all messages with this event, because EventBridge may send an event twice."""

    event_id: str
    secret: str
    kind: str
    time: str
    reason: str
    sent: float
    body: str = field(repr=False)
    messages: tuple[tuple[str, str], ...] = ()


class DeadLetterQueue:
    """The dead-letter queue of a stack. Its methods raise AwsError."""

    def __init__(self, sqs: Any, url: str, queue_url: str) -> None:
        self._sqs = sqs
        self._url = url
        self._queue_url = queue_url

    def letters(self) -> list[DeadLetter]:
        """Return the letters, oldest first. If the queue has more than MAX_LISTED letters, return only about MAX_LISTED
        of them.

        While this method reads, SQS hides the letters from other readers. When it returns, they are visible again, or
        become visible after at most LEASE_SECONDS seconds.
        """
        seen: set[str] = set()
        letters = self._receive(MAX_LISTED, seen)
        self._release(letters)
        return letters

    def redeliver(self, event_ids: Collection[str] | None) -> Iterator[DeadLetter]:
        """Send the events with these ids, or all events, back to the queue. Yield each event after it was sent.

        If an event becomes a dead letter again during the call, it stays in the dead-letter queue. At the end, other
        readers can see the remaining letters again.
        """
        seen: set[str] = set()
        done: set[str] = set()
        held: list[DeadLetter] = []
        try:
            while letters := self._receive(ROUND, seen):
                held += letters
                for letter in letters:
                    name = letter.event_id or letter.body  # a body that is not an event has no id
                    if name in done or (event_ids is not None and letter.event_id not in event_ids):
                        continue
                    self._send_back(letter)
                    held.remove(letter)
                    done.add(name)
                    yield letter
        finally:
            self._release(held)

    def _send_back(self, letter: DeadLetter) -> None:
        with errors("sqs:SendMessage to the queue"):
            self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=letter.body)
        for _, handle in letter.messages:
            with errors("sqs:DeleteMessage from the dead-letter queue"):
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=handle)

    def _receive(self, limit: int, seen: set[str]) -> list[DeadLetter]:
        """Receive about ``limit`` messages at most, and return their letters. SQS hides the messages from other readers
        for LEASE_SECONDS seconds. Leave out messages whose ids are in ``seen``. Add the ids of the other messages to
        ``seen``."""
        messages: dict[str, Mapping[str, Any]] = {}
        empty = 0
        while empty < EMPTY_REPLIES and len(messages) < limit:
            with errors("sqs:ReceiveMessage from the dead-letter queue"):
                reply = self._sqs.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=10,
                    VisibilityTimeout=LEASE_SECONDS,
                    WaitTimeSeconds=1,
                    MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["SentTimestamp"],
                )
            received = {each["MessageId"]: each for each in reply.get("Messages", []) if each["MessageId"] not in seen}
            empty = 0 if received else empty + 1
            messages |= received
            seen |= received.keys()
        letters: dict[str, DeadLetter] = {}
        for message in messages.values():
            letter = read_letter(message)
            key = letter.event_id or str(message["MessageId"])
            letters[key] = _joined(letters[key], letter) if key in letters else letter
        return sorted(letters.values(), key=lambda letter: letter.sent)

    def _release(self, letters: Sequence[DeadLetter]) -> None:
        """Make letters visible to other readers again. If the call fails, the letters become visible after
        LEASE_SECONDS seconds."""
        with contextlib.suppress(AwsError), errors("sqs:ChangeMessageVisibility"):
            for handle in (handle for letter in letters for _, handle in letter.messages):
                self._sqs.change_message_visibility(QueueUrl=self._url, ReceiptHandle=handle, VisibilityTimeout=0)


def read_letter(message: Mapping[str, Any]) -> DeadLetter:
    """Read a message of the dead-letter queue."""
    body = str(message["Body"])
    try:
        event = as_object(json.loads(body))
    except (ValueError, RecursionError):
        event = {}
    detail, resources = as_object(event.get("detail")), event.get("resources")
    name = detail.get("name") or (resources[0] if isinstance(resources, list) and resources else "")
    request = as_object(detail.get("requestParameters"))
    attributes = message.get("MessageAttributes") or {}
    return DeadLetter(
        event_id=str(event.get("id") or ""),
        secret=str(name or request.get("secretId") or "-"),
        kind=str(detail.get("eventName") or event.get("detail-type") or "no event"),
        time=str(event.get("time") or "-"),
        reason=str((attributes.get("reason") or {}).get("StringValue") or TRIED),
        sent=int((message.get("Attributes") or {}).get("SentTimestamp") or 0) / 1000,
        body=body,
        messages=((str(message["MessageId"]), str(message["ReceiptHandle"])),),
    )


def _joined(letter: DeadLetter, other: DeadLetter) -> DeadLetter:
    first = min(letter, other, key=lambda each: each.sent)
    return DeadLetter(
        first.event_id,
        first.secret,
        first.kind,
        first.time,
        first.reason,
        first.sent,
        first.body,
        (*letter.messages, *other.messages),
    )
