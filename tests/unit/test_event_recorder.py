"""Events are written promptly, once for each cause, and at a rate that does not burden the API server."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn_receiver.cluster.event_recorder import (
    DEDUP_WINDOW,
    NAMESPACE_BURST,
    QUEUE_SIZE,
    TOTAL_BURST,
    EventRecorder,
)
from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import ClusterUnavailable, Conflict
from keyturn_receiver.telemetry.metrics import Metrics
from support.clock import FakeClock

pytestmark = pytest.mark.anyio


class Api:
    """A fake Kubernetes client. Creating an Event that already exists raises a Conflict."""

    def __init__(self) -> None:
        self.written: dict[str, Any] = {}
        self.patched: list[str] = []
        self.gone = False
        self.hangs = ""  # the namespace whose requests hang

    async def request(self, method: str, path: str, body: Any, content_type: str = "application/json") -> Any:
        if self.gone:
            raise ClusterUnavailable("gone")
        if f"/namespaces/{self.hangs}/" in path:
            await asyncio.Event().wait()
        if method == "PATCH":
            self.patched.append(path.rpartition("/")[2])
        elif body["metadata"]["name"] in self.written:
            raise Conflict("there is one")
        else:
            self.written[body["metadata"]["name"]] = body


def new_recorder(api: Api, clock: FakeClock) -> EventRecorder:
    return EventRecorder(api, Metrics(), lambda: datetime(2026, 11, 25, tzinfo=UTC), clock)


def record(recorder: EventRecorder, name: str, message: str = "what is wrong", namespace: str = "team") -> None:
    recorder.event(Target(namespace, name), f"uid-{name}", True, "InvalidValue", message)


def namespaces(api: Api) -> list[str]:
    return [event["metadata"]["namespace"] for event in api.written.values()]


async def test_repeated_event_is_written_once_per_dedup_window() -> None:
    api, clock = Api(), FakeClock()
    recorder = new_recorder(api, clock)
    for _ in range(100):
        record(recorder, "db")
    await recorder.flush(1)
    assert len(api.written) == 1
    clock.advance(DEDUP_WINDOW)
    record(recorder, "db")
    await recorder.flush(1)
    assert len(api.written) == len(api.patched) == 1


async def test_flood_is_written_in_a_burst_and_its_oldest_events_are_dropped() -> None:
    api, clock = Api(), FakeClock()
    recorder = new_recorder(api, clock)
    for number in range(QUEUE_SIZE + 100):
        record(recorder, f"s{number}")
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.1)
    assert len(api.written) == NAMESPACE_BURST
    running.cancel()
    assert not any(name.startswith("s0.") for name in api.written)
    await recorder.flush(5)
    assert len(api.written) == 2 * NAMESPACE_BURST  # a flush writes one burst and no more


async def test_event_that_cannot_be_written_stops_no_other() -> None:
    api = Api()
    api.gone = True
    recorder = new_recorder(api, FakeClock())
    running = asyncio.create_task(recorder.run())
    record(recorder, "a")
    await asyncio.sleep(0.01)
    api.gone = False
    record(recorder, "b")
    await asyncio.sleep(0.01)
    running.cancel()
    assert [event["involvedObject"]["name"] for event in api.written.values()] == ["b"]


async def test_long_message_is_cut_to_the_size_that_an_event_holds() -> None:
    api = Api()
    recorder = new_recorder(api, FakeClock())
    record(recorder, "a" * 253, "x" * 5000)
    await recorder.flush(1)
    (event,) = api.written.values()
    assert len(event["message"]) == 1024
    assert len(event["metadata"]["name"]) <= 253


async def test_message_of_an_event_is_printable() -> None:
    api = Api()
    events = new_recorder(api, FakeClock())
    events.event(Target("team", "db"), "uid", True, "SourceRefused", "no version with the label \x1b[2J\u202e")
    await events.flush(1)
    (written,) = api.written.values()
    assert written["message"] == r"no version with the label \x1b[2J\u202e"


async def test_flood_of_one_namespace_costs_only_events_of_its_own() -> None:
    api, clock = Api(), FakeClock()
    recorder = new_recorder(api, clock)
    for number in range(30):
        record(recorder, f"quiet{number}", namespace=f"quiet{number % 3}")
    for number in range(5 * QUEUE_SIZE):
        record(recorder, f"s{number}", namespace="flood")
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.1)
    running.cancel()
    assert sorted(each for each in namespaces(api) if each != "flood") == sorted([f"quiet{n}" for n in range(3)] * 10)
    assert namespaces(api).count("flood") == NAMESPACE_BURST
    assert recorder._metrics.registry.get_sample_value("keyturn_events_total", {"outcome": "dropped"}) == (
        4 * QUEUE_SIZE + 30
    )


async def test_total_rate_is_shared_in_turns() -> None:
    api = Api()
    recorder = new_recorder(api, FakeClock())
    for number in range(50 * TOTAL_BURST // 10):
        record(recorder, f"s{number}", namespace=f"team{number % 10}")
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.2)
    running.cancel()
    assert {namespaces(api).count(f"team{number}") for number in range(10)} == {TOTAL_BURST // 10}


async def test_write_that_hangs_in_one_namespace_holds_up_no_other() -> None:
    api = Api()
    api.hangs = "hung"
    recorder = new_recorder(api, FakeClock())
    for number in range(20):
        record(recorder, f"s{number}", namespace="hung")
    record(recorder, "db")
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.05)
    running.cancel()
    assert namespaces(api) == ["team"]


async def test_repeats_are_recognized_however_many_events_another_namespace_has() -> None:
    api, clock = Api(), FakeClock()
    recorder = new_recorder(api, clock)
    record(recorder, "db")
    await recorder.flush(1)
    for number in range(12_000):
        record(recorder, f"s{number}", namespace="flood")
    record(recorder, "db")
    for _ in range(60):
        await recorder.flush(1)
    assert namespaces(api).count("team") == 1
    assert api.patched == []
