"""A client that sends deliveries to the receivers under test and parses their replies."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from keyturn_contract.message import Notification, Result, decode_reply, encode
from support.deliveries import signed
from support.wait import eventually


@dataclass
class DeliveryReply:
    """The reply to a delivery. If there was no reply, the status is 0 and the body holds the error."""

    status: int
    results: Sequence[Result] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def outcome(self) -> str:
        """The outcome of the first notification, or an empty string if the reply has no results."""
        return self.results[0].outcome.value if self.results else ""


class DeliveryClient:
    """Sends deliveries signed with ``key``. ``bodies`` keeps the text of every reply, so that a test can search the
    texts for secret values."""

    def __init__(self, key: bytes) -> None:
        self.bodies: list[str] = []
        self._key = key

    def send(self, url: str, notifications: Sequence[Notification], seconds: float = 20) -> DeliveryReply:
        """Deliver once, as the notifier does."""
        body = encode(notifications)
        try:
            reply = httpx.post(url, content=body, headers=signed(self._key, body), timeout=seconds)
        except httpx.TransportError as error:
            return DeliveryReply(0, body=repr(error))
        return self.record(reply)

    def send_until_accepted(
        self, url: Callable[[], str], notifications: Sequence[Notification], seconds: float = 60
    ) -> DeliveryReply:
        """Deliver again and again until the status is 200, as SQS does. ``url`` is called before each attempt."""
        replies: list[DeliveryReply] = []

        def accepted() -> bool:
            replies.append(self.send(url(), notifications))
            return replies[-1].status == 200

        eventually(accepted, seconds)
        return replies[-1]

    async def send_concurrently(
        self, urls: Sequence[str], deliveries: Sequence[Sequence[Notification]], max_in_flight: int = 200
    ) -> list[DeliveryReply]:
        """Send many deliveries, spread evenly over the receivers, with at most ``max_in_flight`` at a time."""
        slots = asyncio.Semaphore(max_in_flight)
        limits = httpx.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight)
        async with httpx.AsyncClient(timeout=30, limits=limits) as http:

            async def post(number: int, notifications: Sequence[Notification]) -> DeliveryReply:
                body = encode(notifications)
                async with slots:
                    try:
                        url = urls[number % len(urls)]
                        return self.record(await http.post(url, content=body, headers=signed(self._key, body)))
                    except httpx.TransportError as error:
                        return DeliveryReply(0, body=repr(error))

            return list(await asyncio.gather(*(post(*each) for each in enumerate(deliveries))))

    def record(self, reply: httpx.Response) -> DeliveryReply:
        """Record and parse a reply. Tests that send a delivery without this client call this, too."""
        self.bodies.append(reply.text)
        has_results = reply.headers.get("content-type") == "application/json" and b'"results"' in reply.content
        results = decode_reply(reply.content) if has_results else ()
        return DeliveryReply(reply.status_code, results, reply.headers, reply.text)
