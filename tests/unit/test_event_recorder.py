"""Kubernetes Events: said soon, said once, and not more of them than the API server should be bothered with."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from clock import Clock
from keyturn_receiver.cluster.event_recorder import AT_ONCE, QUIET, WAITING, EventRecorder
from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import ClusterUnavailable, Conflict
from keyturn_receiver.telemetry.metrics import Metrics

pytestmark = pytest.mark.anyio


class Api:
    """The API server at its port; refuses what it has already."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.again: list[str] = []
        self.gone = False

    async def request(self, method: str, path: str, body: Any, content_type: str = "application/json") -> Any:
        if self.gone:
            raise ClusterUnavailable("gone")
        if method == "PATCH":
            self.again.append(path.rpartition("/")[2])
        elif body["metadata"]["name"] in self.said:
            raise Conflict("there is one")
        else:
            self.said[body["metadata"]["name"]] = body


def events(api: Api, clock: Clock) -> EventRecorder:
    return EventRecorder(api, Metrics(), lambda: datetime(2026, 11, 25, tzinfo=UTC), clock)


def tell(teller: EventRecorder, name: str, message: str = "what is wrong") -> None:
    teller.tell(Target("team", name), f"uid-{name}", True, "InvalidValue", message)


async def test_the_same_words_are_said_once_in_a_while() -> None:
    api, clock = Api(), Clock()
    teller = events(api, clock)
    for _ in range(100):
        tell(teller, "db")
    await teller.flush(1)
    assert len(api.said) == 1
    clock.forward(QUIET)
    tell(teller, "db")
    await teller.flush(1)
    assert len(api.said) == len(api.again) == 1


async def test_a_flood_is_said_at_a_bearable_pace_and_its_oldest_part_not_at_all() -> None:
    api, clock = Api(), Clock()
    teller = events(api, clock)
    for number in range(WAITING + 100):
        tell(teller, f"s{number}")
    running = asyncio.create_task(teller.run())
    await asyncio.sleep(0.1)
    assert len(api.said) == AT_ONCE
    running.cancel()
    assert not any(name.startswith("s0.") for name in api.said)
    await teller.flush(5)
    assert len(api.said) == 2 * AT_ONCE  # the end is no time for speeches


async def test_what_cannot_be_said_stops_nothing() -> None:
    api = Api()
    api.gone = True
    teller = events(api, Clock())
    running = asyncio.create_task(teller.run())
    tell(teller, "a")
    await asyncio.sleep(0.01)
    api.gone = False
    tell(teller, "b")
    await asyncio.sleep(0.01)
    running.cancel()
    assert [event["involvedObject"]["name"] for event in api.said.values()] == ["b"]


async def test_a_long_message_is_cut_to_what_an_event_holds() -> None:
    api = Api()
    teller = events(api, Clock())
    tell(teller, "a" * 253, "x" * 5000)
    await teller.flush(1)
    (event,) = api.said.values()
    assert len(event["message"]) == 1024
    assert len(event["metadata"]["name"]) <= 253
