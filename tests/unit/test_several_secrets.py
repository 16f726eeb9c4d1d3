"""A Secret of several AWS secrets, in whole reconciles: what happens to one AWS secret concerns only the keys that need
it."""

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn_contract.message import EventType, Notification, NotificationData, Outcome, Result
from keyturn_receiver.core import partial
from keyturn_receiver.core.binding import BIND_LABEL, DATA, SECRET_ID, Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import split_version_key
from keyturn_receiver.errors import (
    ClusterUnavailable,
    InvalidValue,
    KeyturnError,
    NotAllowed,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
    StaleRead,
)
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.source_reader import PATIENCE, Reading, consistent
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.web.notification_handler import NotificationHandler
from support.bindings import ARN
from unit.test_reconciler import DB, Engine

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

SECRETS = "keyturn.dev/secrets"
ALIASES = "db: prod/db\nhost: prod/host\ncache: {id: prod/cache, stage: blue}"
KEYS = (
    "PASSWORD: db.password\n"
    "URL: join('', [db.user, ':', url_encode(db.password), '@', host.address])\n"
    "HOST: host.address\n"
    "CACHE: cache\n"
)
SOURCES = {"db": Source("prod/db"), "host": Source("prod/host"), "cache": Source("prod/cache", "blue")}


class Secrets:
    """AWS secrets behind the port of the stores. ``faults`` maps the name of a secret to a function that delays or
    fails its reads."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "db": {"user": "u", "password": "p/1"},
            "host": {"address": "h1"},
            "cache": "redis://c1",
        }
        self.versions = {name: 1 for name in self.values}
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {}
        self.reads: list[str] = []

    def key(self, *_: str) -> str:
        return "the store"

    def rotate(self, name: str, value: Any) -> str:
        self.values[name] = value
        self.versions[name] += 1
        return f"{name}-{self.versions[name]}"

    def fail(self, name: str, error: KeyturnError) -> None:
        async def fault() -> None:
            raise error

        self.faults[name] = fault

    def delay(self, name: str, seconds: float) -> None:
        self.faults[name] = lambda: asyncio.sleep(seconds)

    async def read(
        self, key: str, source: Source, since: float, background: bool = False, namespace: str = ""
    ) -> SecretVersion:
        name = source.secret_id.partition("/")[2]
        assert source == SOURCES[name]
        self.reads.append(name)
        value = self.values[name]
        version = f"{name}-{self.versions[name]}"
        if fault := self.faults.get(name):
            await fault()
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        return SecretVersion(ARN.format(name), f"prod/{name}", version, text)

    async def describe(self, key: str, secret_id: str, since: float, namespace: str = "") -> SecretMetadata:
        name = secret_id.removeprefix("prod/")
        labels = {f"{name}-{self.versions[name]}": frozenset({SOURCES[name].stage})}
        return SecretMetadata(ARN.format(name), secret_id, labels)


class Several(Engine):
    """The engine with a Secret of three AWS secrets."""

    def __init__(self, aliases: str = ALIASES, keys: str = KEYS) -> None:
        super().__init__()
        self.aws = Secrets()
        for part in (self.reconciler._filler._sources, self.reconciler._filler._sources._resolver):
            part._stores = self.aws
        annotations = self.api.secret["metadata"]["annotations"]
        del annotations[SECRET_ID]
        annotations |= {SECRETS: aliases, DATA: keys}
        self.api.secret["metadata"]["resourceVersion"] = "2"  # or else the caches would not take the edit
        self.api.show()
        self.handler = NotificationHandler(
            self.cache, self.queue, self.drift._access, lambda _: None, self.metrics, lambda: datetime.now(UTC)
        )

    @property
    def data(self) -> dict[str, str]:
        return {key: b64decode(value).decode() for key, value in self.api.secret["data"].items()}

    @property
    def status(self) -> str:
        return " ".join(self.cache.get(DB).record.status.split("\n"))

    @property
    def revisions(self) -> dict[str, str]:
        return dict(self.cache.get(DB).record.revisions)

    @property
    def version_ids(self) -> dict[str, str]:
        pairs = self.cache.get(DB).record.version_ids.items()
        return {split_version_key(key)[0].split("/")[1].split("-")[0]: each for key, each in pairs}

    async def tell(self, name: str, seconds: float = 8.0, label: str | None = None) -> Result:
        """Deliver the notification of a rotation."""
        arn = ARN.format(name)
        label = SOURCES[name].stage if label is None else label
        data = NotificationData("Secret Label Updated", "123456789012", "eu-west-1", f"prod/{name}",
                                f"{name}-{self.aws.versions[name]}", label)  # fmt: skip
        notification = Notification(f"event-{name}", "test", EventType.CHANGED, arn, "2026-11-28T00:00:00Z", data)
        end = time.monotonic() + seconds
        return await self.handler.handle(notification, lambda: end)

    async def poll(self) -> ReconcileResult:
        return await self.queue.submit(DB, Request.now(Cause.POLL))

    async def fill(self) -> None:
        await self.start()
        self.aws.reads.clear()


async def filled() -> Several:
    engine = Several()
    await engine.fill()
    return engine


async def test_all_keys_are_filled_from_their_secrets() -> None:
    engine = await filled()
    assert engine.data == {"PASSWORD": "p/1", "URL": "u:p%2F1@h1", "HOST": "h1", "CACHE": "redis://c1"}
    assert engine.version_ids == {"db": "db-1", "host": "host-1", "cache": "cache-1"}
    assert engine.status == "ok"


@pytest.mark.parametrize(
    ("name", "value", "changed", "read"),
    [
        ("db", {"user": "u", "password": "p2"}, {"PASSWORD": "p2", "URL": "u:p2@h1"}, ["db", "host"]),
        ("host", {"address": "h2"}, {"URL": "u:p%2F1@h2", "HOST": "h2"}, ["db", "host"]),
        ("cache", "redis://c2", {"CACHE": "redis://c2"}, ["cache"]),
    ],
)
async def test_rotation_of_one_reads_what_its_keys_need_and_changes_their_revisions_alone(
    name: str, value: Any, changed: dict[str, str], read: list[str]
) -> None:
    engine = await filled()
    before, revisions = engine.data, engine.revisions
    version = engine.aws.rotate(name, value)
    result = await engine.tell(name)
    assert (result.outcome, result.secrets) == (Outcome.APPLIED, ("team/db",))
    assert engine.data == {**before, **changed}
    assert sorted(engine.aws.reads) == read
    assert {key for key in revisions if engine.revisions[key] != revisions[key]} == changed.keys()
    assert engine.version_ids[name] == version
    assert engine.status == "ok"
    await engine.settle()
    assert len(engine.requests) == 1  # the write does not look like drift
    again = await engine.tell(name)
    assert (again.outcome, sorted(engine.aws.reads)) == (Outcome.UNCHANGED, read)  # the repetition reads nothing


FAILURES = {
    "denied": (SourceRefused("AWS secret prod/host: AWS answered AccessDenied: grant it"), "SourceRefused", True),
    "deleted": (SourceNotFound("AWS secret prod/host does not exist: create it"), "SourceNotFound", True),
    "not allowed": (NotAllowed("namespace team is not allowed to read prod/host"), "NotAllowed", True),
    "throttled": (SourceUnavailable("AWS secret prod/host: throttled: trying again"), "SourceUnavailable", False),
    "its region is ill": (ClusterUnavailable("the Kubernetes API did not answer"), "ClusterUnavailable", False),
}


@pytest.mark.parametrize(("error", "reason", "permanent"), FAILURES.values(), ids=FAILURES)
async def test_secret_that_fails_holds_up_only_the_keys_that_need_it(
    error: KeyturnError, reason: str, permanent: bool
) -> None:
    engine = await filled()
    before, revisions = engine.data, engine.revisions
    engine.aws.fail("host", error)
    engine.aws.rotate("db", {"user": "u2", "password": "p2"})
    result = await engine.tell("db")
    assert engine.data == {**before, "PASSWORD": "p2"}
    assert engine.revisions == {**revisions, "PASSWORD": engine.revisions["PASSWORD"]}
    assert engine.status.startswith(f"{reason}: alias host: {error}; ")
    assert "URL, HOST keep their last values" in engine.status
    assert ("remove them from keyturn.dev/data" in engine.status) is isinstance(error, NotAllowed)
    # URL needs the new password and the host. No delivery waits for the host. If the error is temporary, the work queue
    # tries URL again.
    assert (result.outcome, result.secrets) == (Outcome.APPLIED, ("team/db",))
    assert str(error) in str(result.reason)
    assert result.retrying == (() if permanent else ("team/db",))
    # The rotation of another AWS secret is done, and its reply says so.
    engine.aws.rotate("cache", "redis://c2")
    result = await engine.tell("cache")
    assert (result.outcome, engine.data["CACHE"]) == (Outcome.APPLIED, "redis://c2")
    assert engine.version_ids == {"db": "db-2", "host": "host-1", "cache": "cache-2"}
    engine.aws.faults.clear()
    engine.aws.rotate("host", {"address": "h2"})
    assert (await engine.tell("host")).outcome is Outcome.APPLIED
    assert engine.data == {"PASSWORD": "p2", "URL": "u2:p2@h2", "HOST": "h2", "CACHE": "redis://c2"}
    assert engine.status == "ok"
    await engine.queue.close(0)


async def test_failure_that_changes_nothing_writes_nothing_but_its_status_once() -> None:
    engine = await filled()
    engine.aws.fail("host", SourceRefused("AWS secret prod/host: denied"))
    for _ in range(3):
        assert isinstance((await engine.poll()).error, SourceRefused)
        await engine.settle()
    assert engine.api.calls.count(("PATCH", "secrets")) == 1
    assert engine.status.startswith("SourceRefused: alias host: AWS secret prod/host: denied; URL, HOST keep")
    assert engine.queue.failing() == 1
    engine.forget()
    engine.aws.fail("host", SourceUnavailable("AWS secret prod/host: throttled"))
    assert isinstance((await engine.poll()).error, SourceUnavailable)
    assert engine.api.calls.count(("PATCH", "secrets")) == 0
    await engine.queue.close(0)


async def test_two_failures_are_both_told() -> None:
    engine = await filled()
    engine.aws.fail("host", SourceRefused("AWS secret prod/host: denied"))
    engine.aws.fail("cache", SourceRefused("AWS secret prod/cache: denied"))
    await engine.poll()
    for words in (
        "alias host: AWS secret prod/host: denied",
        "alias cache: AWS secret prod/cache: denied",
        "URL, HOST, CACHE keep their last values",
    ):
        assert words in engine.status


async def test_secret_that_hangs_holds_up_no_other() -> None:
    engine = await filled()
    engine.aws.delay("host", 60)
    engine.aws.rotate("cache", "redis://c2")
    started = time.monotonic()
    assert (await engine.tell("cache")).outcome is Outcome.APPLIED
    assert time.monotonic() - started < 0.5  # AWS is not even asked for the host
    engine.aws.rotate("db", {"user": "u", "password": "p2"})
    result = await engine.tell("db")
    assert (result.outcome, engine.data["PASSWORD"], engine.data["URL"]) == (Outcome.APPLIED, "p2", "u:p%2F1@h1")
    assert time.monotonic() - started < PATIENCE + 1
    assert "alias host: AWS secret prod/host: AWS is slow to answer" in engine.status
    await engine.queue.close(0)


@pytest.mark.parametrize("seconds", [PATIENCE * 1.5, PATIENCE * 5])
async def test_secret_that_is_always_slow_is_waited_for_once_the_others_are_written(seconds: float) -> None:
    engine = await filled()
    engine.aws.delay("host", seconds)
    engine.aws.rotate("db", {"user": "u", "password": "p2"})
    await engine.tell("db", seconds=1)
    await asyncio.sleep(seconds + 3 * PATIENCE)  # the retry has nothing else to write, so it waits
    assert (engine.data["URL"], engine.status) == ("u:p2@h1", "ok")


async def test_run_that_waits_for_a_slow_secret_is_cut_short_by_the_next_delivery() -> None:
    engine = await filled()
    engine.aws.delay("host", 60)
    version = engine.aws.rotate("host", {"address": "h2"})
    patient = engine.queue.submit(DB, Request.now(Cause.POLL, {version}, about={SOURCES["host"]}))
    await asyncio.sleep(3 * PATIENCE)
    assert not patient.done()  # no delivery waits, so the run still waits for the host
    engine.aws.rotate("cache", "redis://c2")
    started = time.monotonic()
    result = await engine.tell("cache")
    assert (result.outcome, engine.data["CACHE"]) == (Outcome.APPLIED, "redis://c2")
    assert time.monotonic() - started < PATIENCE + 1
    assert isinstance((await patient).error, SourceUnavailable)
    await engine.queue.close(0)


async def test_delivery_for_a_secret_that_was_never_filled_does_not_fail_because_of_another_one() -> None:
    """The first fill waits for all AWS secrets. Deliveries that come meanwhile are answered in time, and retried."""
    engine = Several()
    engine.aws.delay("host", 60)
    engine.drift.start()
    await asyncio.sleep(0.1)
    started = time.monotonic()
    result = await engine.tell("db")
    assert (result.outcome, result.retrying) == (Outcome.RETRYING, ("team/db",))
    assert "alias host: AWS secret prod/host: AWS is slow to answer" in str(result.reason)
    assert time.monotonic() - started < 8
    assert engine.data == {}
    engine.aws.faults.clear()
    await asyncio.sleep(10)
    assert (set(engine.data), engine.status) == ({"PASSWORD", "URL", "HOST", "CACHE"}, "ok")


async def test_deliveries_that_are_served_together_are_answered_each_for_its_own_secret() -> None:
    engine = await filled()
    engine.aws.delay("cache", 0.5)
    engine.aws.fail("host", SourceUnavailable("AWS secret prod/host: throttled"))
    engine.aws.rotate("cache", "redis://c2")
    engine.aws.rotate("db", {"user": "u", "password": "p2"})
    engine.aws.rotate("host", {"address": "h2"})
    cache, db, host = await asyncio.gather(engine.tell("cache"), engine.tell("db"), engine.tell("host"))
    assert len(engine.requests) == 2  # the other two came while the first one ran, and were served together
    assert cache.outcome is Outcome.APPLIED
    assert (db.outcome, db.retrying) == (Outcome.APPLIED, ("team/db",))
    assert (host.outcome, host.retrying) == (Outcome.FAILED, ())
    assert engine.data["PASSWORD"] == "p2"
    await engine.queue.close(0)


async def test_delivery_fails_if_its_own_secret_cannot_be_read() -> None:
    engine = await filled()
    engine.aws.fail("db", SourceUnavailable("AWS secret prod/db: throttled"))
    engine.aws.rotate("db", {"user": "u", "password": "p2"})
    result = await engine.tell("db")
    assert (result.outcome, result.retrying) == (Outcome.FAILED, ())
    await engine.queue.close(0)


async def test_secret_that_is_in_a_region_that_bindings_may_not_name_holds_up_no_other() -> None:
    engine = await filled()
    before = engine.data
    arn = ARN.format("host").replace("eu-west-1", "mars-east-1")
    metadata = engine.api.secret["metadata"]
    metadata["annotations"][SECRETS] = ALIASES.replace("prod/host", arn)
    metadata["resourceVersion"] = "50"
    engine.api.show()
    await engine.settle()
    assert engine.status.startswith("InvalidBinding: alias host: ")
    assert "mars-east-1" in engine.status
    engine.aws.rotate("cache", "redis://c2")
    assert (await engine.tell("cache")).outcome is Outcome.APPLIED
    assert engine.data == {**before, "CACHE": "redis://c2"}
    assert set(engine.aws.reads) == {"db", "cache"}  # AWS is not asked for the host


async def test_kept_values_count_towards_the_size_of_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "MAX_DATA", 100)
    engine = Several("host: prod/host\ncache: {id: prod/cache, stage: blue}", "HOST: host\nCACHE: cache")
    large = "x" * 60
    engine.aws.values["host"] = large
    await engine.fill()
    before = engine.data
    engine.aws.fail("host", SourceRefused("AWS secret prod/host: denied"))
    engine.aws.rotate("cache", large)
    result = await engine.tell("cache")
    assert (result.outcome, engine.data) == (Outcome.IGNORED, before)
    told = "its keys hold more than 100 bytes, a Secret's limit: take fewer of them with keyturn.dev/data"
    assert engine.status == f"InvalidValue: {told}"


async def test_value_that_the_type_of_the_secret_forbids_holds_up_only_its_own_key() -> None:
    engine = Several("db: prod/db\nhost: prod/host", ".dockerconfigjson: db\nHOST: host.address")
    engine.api.secret["type"] = "kubernetes.io/dockerconfigjson"
    engine.aws.values["db"] = {"auths": {}}
    await engine.fill()
    engine.aws.rotate("db", "hunter2")
    engine.aws.rotate("host", {"address": "h2"})
    assert isinstance((await engine.poll()).error, InvalidValue)
    assert engine.data == {".dockerconfigjson": '{"auths": {}}', "HOST": "h2"}
    assert "AWS secret prod/db: key .dockerconfigjson: the value is not Docker's JSON" in engine.status
    assert ".dockerconfigjson keeps its last value" in engine.status


@pytest.mark.parametrize("between", [True, False])
async def test_two_ids_of_one_secret_give_one_version(between: bool) -> None:
    """A name and an ARN are two reads. If the secret is rotated between them, neither is believed."""
    sources = Source("prod/db"), Source(ARN.format("db"))
    read = {source: SecretVersion(ARN.format("db"), "prod/db", "db-1", "x") for source in sources}
    if between:
        read[sources[1]] = SecretVersion(ARN.format("db"), "prod/db", "db-2", "y")
    reading = consistent(Reading(read, {}))
    assert reading.versions == ({} if between else read)
    assert {source: type(error) for source, error in reading.errors.items()} == (
        dict.fromkeys(sources, StaleRead) if between else {}
    )


async def test_value_that_does_not_fit_holds_up_the_keys_of_its_own_secrets_together() -> None:
    """The keys of one AWS secret are a pair, such as a user and a password. They change together or not at all."""
    engine = Several("db: prod/db\nhost: prod/host", "USER: db.user\nPASSWORD: db.password\nHOST: host.address")
    await engine.fill()
    engine.aws.rotate("db", {"password": "p2"})
    engine.aws.rotate("host", {"address": "h2"})
    result = await engine.poll()
    assert isinstance(result.error, InvalidValue)
    assert engine.data == {"USER": "u", "PASSWORD": "p/1", "HOST": "h2"}
    assert engine.status.startswith(
        "InvalidValue: AWS secret prod/db: key USER (expression 'db.user'): there is no such"
    )
    assert "USER, PASSWORD keep their last values" in engine.status
    assert "p2" not in engine.status


async def test_first_fill_is_whole_or_not_at_all() -> None:
    engine = Several()
    engine.aws.fail("cache", SourceRefused("AWS secret prod/cache: denied"))
    engine.drift.start()
    await engine.settle()
    assert engine.data == {}
    assert engine.status.startswith("SourceRefused: alias cache: AWS secret prod/cache: denied")
    engine.aws.faults.clear()
    await engine.poll()
    assert set(engine.data) == {"PASSWORD", "URL", "HOST", "CACHE"}


async def test_key_that_is_new_and_cannot_be_made_does_not_hold_up_the_others() -> None:
    engine = Several("db: prod/db", "PASSWORD: db.password")
    await engine.fill()
    engine.aws.fail("host", SourceRefused("AWS secret prod/host: denied"))
    engine.aws.rotate("db", {"user": "u", "password": "p2"})
    metadata = engine.api.secret["metadata"]
    metadata["annotations"] |= {SECRETS: "db: prod/db\nhost: prod/host", DATA: "PASSWORD: db.password\nHOST: host"}
    metadata["resourceVersion"] = "50"
    engine.api.show()
    await engine.settle()
    assert engine.data == {"PASSWORD": "p2"}
    assert "HOST has no value yet" in engine.status


async def test_edit_takes_no_key_away_while_one_of_the_sources_fails() -> None:
    """Otherwise an edit that renames a key while its source fails would leave pods without either name."""
    engine = await filled()
    before, versions = engine.data, engine.version_ids
    engine.aws.rotate("cache", "redis://c2")
    metadata = engine.api.secret["metadata"]
    engine.aws.fail("db", SourceNotFound("AWS secret prod/db does not exist"))
    metadata["annotations"] |= {
        SECRETS: "db: prod/db\ncache: {id: prod/cache, stage: blue}",
        DATA: "PASS: db.password\nCACHE: cache",
    }
    metadata["resourceVersion"] = "50"
    engine.api.show()
    await engine.settle()
    assert engine.data == {**before, "CACHE": "redis://c2"}
    assert "PASS has no value yet; HOST, PASSWORD, URL go once this is mended" in engine.status
    assert engine.version_ids == {**versions, "cache": "cache-2"}
    engine.aws.faults.clear()
    await engine.poll()
    assert (engine.revisions.keys(), engine.status) == ({"PASS", "CACHE"}, "ok")
    assert engine.version_ids == {"db": "db-1", "cache": "cache-2"}


async def test_edited_secret_is_not_taken_for_good_while_one_of_its_sources_fails() -> None:
    engine = await filled()
    before = engine.data
    engine.aws.fail("host", SourceRefused("AWS secret prod/host: denied"))
    metadata = engine.api.secret["metadata"]
    metadata["managedFields"], metadata["resourceVersion"] = [], "70"
    engine.api.secret["data"]["HOST"] = "ZXZpbA=="
    engine.api.show()
    await engine.settle()
    written = [call for call in engine.api.calls if call == ("PATCH", "secrets")]
    assert len(written) == 1  # only the status was written, so Keyturn has not taken over the edited value
    engine.aws.faults.clear()
    await engine.poll()
    assert engine.data == before
    assert engine.status == "ok"


async def test_name_of_one_among_several_that_is_gone_deletes_nothing() -> None:
    engine = await filled()
    engine.api.secret["metadata"]["annotations"]["keyturn.dev/on-delete"] = "delete"
    engine.api.secret["metadata"]["resourceVersion"] = "50"
    engine.api.show()
    for name in ("host", "cache"):
        engine.aws.fail(name, SourceNotFound(f"AWS secret prod/{name} does not exist"))
    await engine.poll()
    assert engine.status.startswith("SourceNotFound: alias host: AWS secret prod/host does not exist; alias cache: AWS")
    engine.aws.fail("db", SourceNotFound("AWS secret prod/db does not exist"))
    await engine.poll()  # now all of them are gone, so the Secret may go
    assert "this receiver deletes none" in engine.status
    assert set(engine.data) == {"PASSWORD", "URL", "HOST", "CACHE"}


async def test_crash_after_a_partial_write_leaves_a_secret_that_asks_for_work() -> None:
    """Only the status shows another replica that the Secret is not whole, because all its hashes fit."""
    engine = await filled()
    engine.aws.fail("host", SourceUnavailable("AWS secret prod/host: throttled"))
    engine.aws.rotate("db", {"user": "u", "password": "p2"})
    await engine.tell("db", seconds=0.5)
    await engine.queue.close(0)
    engine.aws.faults.clear()
    other = Several()
    other.api.secret, other.aws = engine.api.secret, other.aws
    other.aws.values, other.aws.versions = engine.aws.values, engine.aws.versions
    other.api.show()
    other.drift.start()
    await other.settle()
    assert (other.data["URL"], other.status) == ("u:p2@h1", "ok")


async def test_notification_of_another_label_reads_again_and_applies_what_is_there() -> None:
    engine = await filled()
    engine.aws.values["cache"], engine.aws.versions["cache"] = "redis://c2", 2
    assert (await engine.tell("cache", label="AWSCURRENT")).outcome is Outcome.APPLIED
    assert engine.data["CACHE"] == "redis://c2"


async def test_secret_with_the_bind_label_names_all_its_sources() -> None:
    engine = await filled()
    assert engine.api.secret["metadata"]["labels"][BIND_LABEL] == "true"
    for name in SOURCES:
        assert engine.cache.by_secret_id(ARN.format(name)) == engine.cache.by_secret_id(f"prod/{name}") == [DB]
    # The binding has the bare name of the secret, which fits an ARN of any account.
    assert engine.cache.by_secret_id(ARN.format("db").replace("123456789012", "999999999999")) != []
    assert engine.cache.by_secret_id("prod/other") == []
