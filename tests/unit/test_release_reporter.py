"""Secrets that are no longer bound: their status says so, whether or not a receiver ran when the label was removed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from keyturn_receiver.cluster.released_cache import ReleasedCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import ClusterUnavailable, Conflict, KeyturnError, NotFound
from keyturn_receiver.reconcile.release_reporter import (
    MAX_REPORTS,
    RELEASE_BURST,
    RELEASE_RATE,
    RETRY_SECONDS,
    ReleaseReporter,
)
from support.bindings import bound_object

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def released(name: str = "db", version: int = 1, **labels: str) -> dict[str, Any]:
    made = bound_object(name, "v1", version=version)
    del made["metadata"]["labels"]["keyturn.dev/bind"]
    made["metadata"]["labels"] |= {f"keyturn.dev/{label}": value for label, value in labels.items()}
    return made


class Secrets:
    """A fake client for Secrets. A release removes the label `keyturn.dev/state`, so the watch loses the Secret, unless
    ``watch_lags`` is true."""

    def __init__(self, cache: ReleasedCache) -> None:
        self._cache = cache
        self.written: list[tuple[str, str, str]] = []
        self.errors: list[KeyturnError] = []
        self.hangs = ""  # the namespace whose requests hang
        self.watch_lags = False

    async def release(self, target: Target, uid: str, resource_version: str, status: str) -> None:
        await asyncio.sleep(1000 if target.namespace == self.hangs else 0)
        if self.errors:
            raise self.errors.pop(0)
        self.written.append((target.name, resource_version, status))
        if not self.watch_lags:
            self._cache.delete({"metadata": {"namespace": target.namespace, "name": target.name}})


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, bool, str]] = []

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str) -> None:
        self.told.append((target.name, warning, reason))


class Setting:
    def __init__(self, leads: bool = True) -> None:
        self.cache, self.events = ReleasedCache(), Events()
        self.secrets = Secrets(self.cache)
        secrets: Any = self.secrets
        events: Any = self.events
        self.reporter = ReleaseReporter(self.cache, secrets, events, lambda: leads)

    def show(self, obj: dict[str, Any]) -> None:
        self.cache.update(self.cache.transform(obj))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reporter.run())
        try:
            yield
        finally:
            task.cancel()


async def test_secret_that_lost_its_label_gets_a_status_and_an_event() -> None:
    setting = Setting()
    async with setting.running():
        setting.show(released(version=7))
        await asyncio.sleep(0.1)
    ((name, version, status),) = setting.secrets.written
    assert (name, version) == ("db", "7")
    assert status.startswith('NotBound: the label keyturn.dev/bind is not "true" any more: the Secret keeps its values')
    assert setting.events.told == [("db", False, "NotBound")]


async def test_label_that_went_while_nobody_ran_is_found_by_the_first_list() -> None:
    setting = Setting()
    setting.cache.replace([setting.cache.transform(released(name)) for name in ("a", "b")])
    async with setting.running():
        await asyncio.sleep(0.1)
    assert [name for name, _, _ in setting.secrets.written] == ["a", "b"]


async def test_follower_waits_for_the_leader_and_then_acts() -> None:
    setting = Setting(leads=False)
    async with setting.running():
        setting.show(released("mine"))
        setting.show(released("reported"))
        await asyncio.sleep(1.0)
        assert setting.secrets.written == []
        setting.show(bound_object("reported"))  # the label keyturn.dev/bind is back
        await asyncio.sleep(4.0)
    assert [name for name, _, _ in setting.secrets.written] == ["mine"]


@pytest.mark.parametrize("error", [Conflict("changed"), ClusterUnavailable("gone")])
async def test_report_that_fails_is_repeated(error: KeyturnError) -> None:
    setting = Setting()
    setting.secrets.errors.append(error)
    async with setting.running():
        setting.show(released())
        await asyncio.sleep(0.1)
        assert setting.secrets.written == []
        await asyncio.sleep(RETRY_SECONDS + 0.1)
    assert len(setting.secrets.written) == 1


async def test_deleted_secret_is_not_tried_again() -> None:
    setting = Setting()
    setting.secrets.errors += [NotFound("gone")]
    async with setting.running():
        setting.show(released())
        await asyncio.sleep(3 * RETRY_SECONDS)
    assert (setting.secrets.written, setting.events.told) == ([], [])


@pytest.mark.parametrize(
    "obj",
    [
        released(bind="True"),
        released(bind="true"),
        {"metadata": {"namespace": "team", "name": "db", "labels": {"keyturn.dev/state": "ok"}}},
    ],
    ids=["bound, in another spelling", "bound", "never filled"],
)
async def test_other_secrets_are_left_alone(obj: dict[str, Any]) -> None:
    setting = Setting()
    async with setting.running():
        setting.show(obj)
        await asyncio.sleep(0.1)
    assert setting.secrets.written == []


async def test_secret_whose_label_says_no_is_reported() -> None:
    setting = Setting()
    async with setting.running():
        setting.show(released(bind="false"))
        await asyncio.sleep(0.1)
    assert len(setting.secrets.written) == 1


async def test_secrets_of_one_namespace_delay_no_report_of_another() -> None:
    """The owner of 1,000 Secrets sets their labels `keyturn.dev/state` again and again."""
    setting = Setting()
    many = [released(f"hostile-{number}") for number in range(1000)]
    for each in many:
        each["metadata"]["namespace"] = "hostile"
    async with setting.running():
        for version in range(1, 6):
            for each in many:
                each["metadata"]["resourceVersion"] = str(version)
                setting.show(each)
            await asyncio.sleep(1)
        setting.show(released())
        await asyncio.sleep(0.1)
        assert "db" in [name for name, _, _ in setting.secrets.written]
        assert len(setting.secrets.written) <= RELEASE_BURST + 10 * RELEASE_RATE
        await asyncio.sleep(1100 / RELEASE_RATE)
    assert len({name for name, _, _ in setting.secrets.written}) == 1001


async def test_namespace_whose_calls_hang_delays_no_other() -> None:
    setting = Setting()
    setting.secrets.hangs = "hostile"
    async with setting.running():
        for number in range(2 * MAX_REPORTS):
            hanging = released(f"hostile-{number}")
            hanging["metadata"]["namespace"] = "hostile"
            setting.show(hanging)
        setting.show(released())
        await asyncio.sleep(0.1)
    assert [name for name, _, _ in setting.secrets.written] == ["db"]


async def test_report_that_the_watch_does_not_show_yet_is_not_repeated() -> None:
    setting = Setting()
    setting.secrets.watch_lags = True
    async with setting.running():
        setting.show(released())
        await asyncio.sleep(1)
        setting.show(released("other"))
        await asyncio.sleep(1)
        assert [name for name, _, _ in setting.secrets.written] == ["db", "other"]
        setting.show(released(version=2))  # the label keyturn.dev/state is set again
        await asyncio.sleep(1)
    assert [version for name, version, _ in setting.secrets.written if name == "db"] == ["1", "2"]
