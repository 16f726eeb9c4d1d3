"""The sweep: the leader finds stale bindings without reading any value, either with one list or secret by secret."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceView
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.binding import SECRET_ID, Source, Target
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.core.revision import RECORD_HASH, record_hash
from keyturn_receiver.errors import SourceNotFound, SourceRefused, SourceUnavailable
from keyturn_receiver.poller.poller import (
    FULL_SWEEP_SECONDS,
    LANES_PER_NAMESPACE,
    MAX_INTERVAL_WITHOUT_EVENTS,
    SWEEP_TIMEOUT,
    Poller,
)
from keyturn_receiver.poller.sweep import DESCRIBE_UP_TO, Interrupted, Sweeper
from keyturn_receiver.poller.turns import MAX_DESCRIBED
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.resilience.single_flight import RESULT_TTL
from keyturn_receiver.settings import PollMode
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import Identity, Store, StoreKey, Stores
from keyturn_receiver.telemetry.metrics import Metrics
from support.bindings import ARN, KEYED, bound_object
from support.clock import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def listed(
    name: str, version_id: str | None, changed: datetime = NOW, pending_deletion: bool = False
) -> SecretMetadata:
    stages = {version_id: frozenset({"AWSCURRENT"})} if version_id else {}
    return SecretMetadata(ARN.format(name), f"prod/{name}", stages, changed, pending_deletion)


class Aws:
    """A fake Secrets Manager that lists secrets in pages of 2, in the order in which the test gives them."""

    def __init__(self, *secrets: SecretMetadata, may_list: bool = True) -> None:
        self.secrets = {secret.name: secret for secret in secrets}
        self.may_list = may_list
        self.pages_read = 0
        self.asked = asyncio.Event()
        self.described: list[str] = []

    async def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
        if not self.may_list:
            raise SourceRefused("ListSecrets may not be called")
        secrets = list(self.secrets.values())
        for begin in range(0, max(1, len(secrets)), 2):
            self.pages_read += 1
            self.asked.set()
            yield secrets[begin : begin + 2]

    async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
        assert background
        self.described.append(secret_id)
        if secret_id == "prod/hung":
            raise SourceUnavailable("AWS did not answer")
        if secret_id not in self.secrets:
            raise SourceNotFound("no such secret")
        return self.secrets[secret_id]


class Setting:
    """A poller and its fakes. ``asked`` has the requests of the last sweep.

    ``bindings`` are objects from ``bound_object``.
    """

    def __init__(
        self,
        aws: Aws,
        *bindings: dict,
        mode: PollMode = PollMode.LIST,
        globs: str = "*",
        changed: bool = True,
        notifications: bool = True,
    ) -> None:
        self.bound = SecretCache(KEYED)
        for each in bindings:
            self.bound.update(self.bound.transform(each))
        self.asked: dict[Target, Request] = {}
        self.requests: list[Request] = []  # the requests of all sweeps
        self.clock = FakeClock()
        self.is_leader = True
        self.uids: dict[str, str] = {}  # the UIDs of ServiceAccounts that were created again
        self.event_path_healthy = False
        self.metrics = Metrics()
        self.aws = aws
        self.namespaces = namespaces = NamespaceCache()
        namespaces.update(NamespaceView("team", {"keyturn.dev/allow-secrets": globs}))

        async def work(target: Target, request: Request) -> ReconcileResult:
            self.asked[target] = request
            self.requests.append(request)
            return ReconcileResult(True, changed=changed)

        self.made: list[str] = []  # the account, or else the region, of each store, in order of first use
        self.hanging: set[str] = set()

        async def make(key: StoreKey, identity: Identity) -> Store:
            self.made.append(key.account or key.region)
            if self.made[-1] in self.hanging:
                await asyncio.sleep(3600)
            if key.account.startswith("team/broken"):
                raise SourceRefused("its role cannot be assumed")
            return Store.of(key, aws, identity=identity)

        async def identify(key: StoreKey) -> Identity:
            return Identity(self.uids.get(key.account, "uid"), f"role of {key.account}")

        self.queue = WorkQueue(work, 8, self.metrics, now=time.monotonic)
        access_policy = AccessPolicy(
            namespaces, Default.DENY, True, Regions("aws", frozenset({"eu-west-1", "eu-central-1"}))
        )
        self.poller = Poller(
            Sweeper(Stores(make, "eu-west-1", identify), self.bound, access_policy, mode, 300),
            self.queue,
            is_leader=lambda: self.is_leader,
            event_path_healthy=lambda: self.event_path_healthy,
            metrics=self.metrics,
            now=self.clock,
            notifications=notifications,
        )

    def put(self, obj: dict) -> None:
        """Show a Secret to the cache, as the watch would do."""
        self.bound.update(self.bound.transform(obj))

    async def sweep(self) -> list[str]:
        """Sweep once. Return the names of the bindings for which the sweep requested a reconcile."""
        self.asked.clear()
        await self.poller.sweep()
        await self.queue.close(1)
        return sorted(target.name for target in self.asked)

    def sweeps(self, outcome: str, kind: str = "full", store: str = "own") -> float | None:
        labels = {"kind": kind, "store": store, "outcome": outcome}
        return self.metrics.registry.get_sample_value("keyturn_sweeps_total", labels)

    @property
    def recovered(self) -> float | None:
        return self.metrics.registry.get_sample_value("keyturn_recovered_by_poll_total")


def several_object(status: str = "ok") -> dict:
    """Return a Secret that was filled from the AWS secrets prod/db and prod/host."""
    several = bound_object("db", "v1")
    annotations = several["metadata"]["annotations"]
    del annotations["keyturn.dev/secret-id"]
    annotations |= {
        "keyturn.dev/secrets": "db: prod/db\nhost: prod/host",
        "keyturn.dev/data": "A: db\nB: host",
        "keyturn.dev/version-ids": json.dumps({f"{ARN.format(name)}#AWSCURRENT": "v1" for name in ("db", "host")}),
        "keyturn.dev/status": status,
    }
    annotations[RECORD_HASH] = record_hash(KEYED, several["metadata"]["uid"], annotations)
    return several


@pytest.mark.parametrize("mode", PollMode)
async def test_sweep_queues_stale_bindings_alone(mode: PollMode) -> None:
    aws = Aws(listed("same", "v1"), listed("moved", "v2"), listed("new", "v1"), listed("unbound", "v9"))
    setting = Setting(aws, bound_object("same", "v1"), bound_object("moved", "v1"), bound_object("new"), mode=mode)
    assert await setting.sweep() == ["moved", "new"]
    assert setting.recovered == 2
    request = setting.asked[Target("team", "moved")]
    assert request.causes == {Cause.POLL}
    assert request.expected == {"v2"}  # the expected version is needed to recognize a stale read


@pytest.mark.parametrize("mode", PollMode)
@pytest.mark.parametrize(
    ("versions", "globs", "about"),
    [
        ({"db": "v1", "host": "v1"}, "*", None),
        ({"db": "v2", "host": "v1"}, "*", {Source("prod/db"): {"v2"}}),
        ({"db": "v1", "host": "v2"}, "*", {Source("prod/host"): {"v2"}}),
        ({"db": "v1"}, "*", {Source("prod/host"): set()}),
        ({"db": "v2", "host": "v2"}, "*", {Source("prod/db"): {"v2"}, Source("prod/host"): {"v2"}}),
        # The namespace may not learn anything of prod/host.
        ({"db": "v2", "host": "v2"}, "prod/db", {Source("prod/db"): {"v2"}}),
    ],
)
async def test_each_of_several_secrets_is_compared_by_itself(
    mode: PollMode, versions: dict[str, str], globs: str, about: dict[Source, set[str]] | None
) -> None:
    aws = Aws(*(listed(name, version_id) for name, version_id in versions.items()))
    setting = Setting(aws, several_object(), mode=mode, globs=globs)
    assert await setting.sweep() == (["db"] if about else [])
    told = {source: expected for request in setting.requests for source, expected in request.about.items()}
    assert told == (about or {})


@pytest.mark.parametrize("mode", PollMode)
@pytest.mark.parametrize(
    ("status", "stale"),
    [
        ("SourceNotFound: alias host: AWS secret prod/host does not exist", ["db"]),
        ("SourceNotFound: alias db: AWS secret prod/db does not exist; alias host: AWS secret prod/host does not", []),
    ],
)
async def test_each_of_several_secrets_that_are_gone_is_reported(mode: PollMode, status: str, stale: list[str]) -> None:
    """The Secret is deleted once all of them are gone, so each has to be noticed."""
    setting = Setting(Aws(), several_object(status), mode=mode)
    assert await setting.sweep() == stale


async def test_role_without_list_permission_describes_secret_by_secret() -> None:
    aws = Aws(listed("same", "v1"), listed("moved", "v2"), may_list=False)
    assert await Setting(aws, bound_object("same", "v1"), bound_object("moved", "v1")).sweep() == ["moved"]
    assert aws.described == ["prod/moved", "prod/same"]


async def test_role_that_may_not_list_is_reported_once_with_its_calls_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(Aws(listed("a", "v1"), listed("b", "v1"), may_list=False), bound_object("a"), bound_object("b"))
    await setting.sweep()
    await setting.sweep()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "listing is refused" in warning.getMessage()
    assert warning.__dict__["fields"]["calls_per_hour"] == 24  # two secrets are described every 300 s


@pytest.mark.parametrize("own", [["own"], []])
async def test_secret_of_another_account_is_described_by_each_sweep(own: list[str]) -> None:
    """A list of this account never contains the secret, whether or not the account has secrets of its own."""
    foreign = "arn:aws:secretsmanager:eu-west-1:999988887777:secret:shared/ca-a1B2c3"
    aws = Aws(*(listed(name, "v1") for name in own))
    bindings = [bound_object(name, "v1") for name in own]
    setting = Setting(aws, bound_object("theirs", **{SECRET_ID: foreign}), *bindings)
    for _ in range(3):  # one full sweep, then sweeps of changes only
        assert await setting.sweep() == ["theirs"]
    assert aws.described == [foreign] * 3


async def test_reconcile_without_a_change_is_not_counted_as_recovered() -> None:
    # The list lags behind: the Secret already has a later version.
    setting = Setting(Aws(listed("moved", "v1")), bound_object("moved", "v2"), changed=False)
    assert await setting.sweep() == ["moved"]
    assert setting.recovered == 0


async def test_secret_that_cannot_be_described_delays_no_other() -> None:
    aws = Aws(listed("moved", "v2"), may_list=False)
    assert await Setting(aws, bound_object("hung", "v1"), bound_object("moved", "v1")).sweep() == ["moved"]


async def test_binding_in_error_is_described_by_each_sweep() -> None:
    """AWS reports no change of the binding's secret, and a list of recent changes does not reach back to its last
    change."""
    others = [listed(f"other-{number}", "v1", NOW - timedelta(hours=number)) for number in range(4)]
    aws = Aws(*others, listed("denied", "v1", NOW - timedelta(days=9)))
    setting = Setting(aws, bound_object("denied", "v1"), bound_object("other-0", "v1"))
    assert await setting.sweep() == []
    setting.put(bound_object("denied", "v1", status="SourceRefused: AWS denies it", version=2))
    assert await setting.sweep() == ["denied"]
    assert aws.described == ["prod/denied"]


@pytest.mark.parametrize("mode", PollMode)
async def test_sweep_without_any_answer_counts_as_failed(mode: PollMode) -> None:
    setting = Setting(Aws(may_list=False), bound_object("hung", "v1"), mode=mode)
    assert await setting.sweep() == []
    assert [setting.sweeps(outcome) for outcome in ("failed", "ok")] == [1, None]


@pytest.mark.parametrize("mode", PollMode)
async def test_deletion_and_restoration_are_queued_once_each(mode: PollMode) -> None:
    aws = Aws(listed("scheduled", "v1", pending_deletion=True), listed("restored", "v1"))
    told = {"status": "SourcePendingDeletion: it is scheduled for deletion"}
    setting = Setting(
        aws,
        bound_object("scheduled", "v1"),
        bound_object("restored", "v1", **told),
        bound_object("gone", "v1"),
        mode=mode,
    )
    assert await setting.sweep() == ["gone", "restored", "scheduled"]
    setting.put(bound_object("scheduled", "v1", version=2, **told))
    setting.put(bound_object("restored", "v1", version=2))
    setting.put(bound_object("gone", "v1", status="SourceNotFound: it does not exist", version=2))
    assert await setting.sweep() == []


async def test_binding_in_error_is_queued_again() -> None:
    aws = Aws(listed("broken", "v1"))
    assert await Setting(aws, bound_object("broken", "v1", status="SourceRefused: access denied")).sweep() == ["broken"]


async def test_sweep_between_full_ones_lists_changes_alone() -> None:
    hours = [listed(f"s{age}", "v1", NOW - timedelta(hours=age)) for age in range(10)]
    aws = Aws(*hours)
    setting = Setting(aws, *(bound_object(f"s{age}", "v1") for age in range(10)))
    assert await setting.sweep() == []
    assert aws.pages_read == 5
    assert await setting.sweep() == []
    assert aws.pages_read == 6
    del aws.secrets["prod/s9"]
    aws.secrets = {"prod/s9": listed("s9", "v2", NOW + timedelta(minutes=1)), **aws.secrets}
    assert await setting.sweep() == ["s9"]
    assert aws.pages_read == 8
    setting.clock.advance(FULL_SWEEP_SECONDS)
    await setting.sweep()
    assert aws.pages_read == 13


async def test_service_account_that_was_created_again_is_swept_in_full() -> None:
    hours = [listed(f"s{age}", "v1", NOW - timedelta(hours=age)) for age in range(10)]
    aws = Aws(*hours)
    account = {"keyturn.dev/service-account": "app"}
    setting = Setting(aws, *(bound_object(f"s{age}", "v1", **account) for age in range(10)))
    assert await setting.sweep() == []
    assert await setting.sweep() == []
    assert aws.pages_read == 6
    setting.uids["team/app"] = "another"
    assert await setting.sweep() == []
    assert aws.pages_read == 11


def bound_with_roles(count: int, per_role: int = 1) -> list[dict]:
    """Return bindings of ``count`` secrets, ``per_role`` of them with each role."""
    return [
        bound_object(f"s{number}", "v1", **{"keyturn.dev/service-account": f"app{number // per_role}"})
        for number in range(count)
    ]


def secrets_of_an_account(count: int) -> Aws:
    return Aws(*(listed(f"s{number}", "v1", NOW - timedelta(hours=number)) for number in range(count)))


async def test_sweep_of_many_roles_costs_one_call_for_each_binding() -> None:
    aws = secrets_of_an_account(500)
    setting = Setting(aws, *bound_with_roles(100))
    for sweeps in range(1, 4):  # a full one, and two of changes
        assert await setting.sweep() == []
        assert (aws.pages_read, len(aws.described)) == (0, 100 * sweeps)
    aws.secrets["prod/s7"] = listed("s7", "v2", NOW + timedelta(minutes=1))
    assert await setting.sweep() == ["s7"]
    assert len(setting.made) == 100  # each store is made once


@pytest.mark.parametrize("count", [DESCRIBE_UP_TO, DESCRIBE_UP_TO + 1, 20])
async def test_sweep_of_a_role_costs_at_most_two_calls_for_each_binding(count: int) -> None:
    """The account of the role has far more secrets than the role's bindings name, and AWS does not sort them."""
    aws = secrets_of_an_account(500)
    aws.secrets = dict(reversed(aws.secrets.items()))
    setting = Setting(aws, *bound_with_roles(count, per_role=count))
    aws.secrets["prod/s0"] = listed("s0", "v2")
    for sweeps in range(1, 4):
        assert await setting.sweep() == ["s0"]
        assert aws.pages_read + len(aws.described) <= 2 * count * sweeps


async def test_changes_of_a_role_with_many_bindings_take_one_page() -> None:
    aws = secrets_of_an_account(40)
    setting = Setting(aws, *bound_with_roles(40, per_role=40))
    assert await setting.sweep() == []
    assert (aws.pages_read, aws.described) == (20, [])
    assert await setting.sweep() == []
    assert (aws.pages_read, aws.described) == (21, [])


async def test_role_that_may_list_but_not_describe_is_swept_by_its_list() -> None:
    class ListsAlone(Aws):
        async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
            raise SourceRefused("AWS denies it")

    aws = ListsAlone(listed("s0", "v2"))
    assert await Setting(aws, *bound_with_roles(1)).sweep() == ["s0"]
    assert aws.pages_read == 1


async def test_role_that_may_do_neither_finds_nothing_and_fails_nothing() -> None:
    class Refusing(Aws):
        async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
            raise SourceRefused("AWS denies it")

    setting = Setting(Refusing(listed("s0", "v2"), may_list=False), *bound_with_roles(1))
    assert await setting.sweep() == []
    assert setting.sweeps("ok", store="other") == 1


async def test_sweeps_that_find_nothing_in_stores_of_bindings_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    aws = secrets_of_an_account(3)
    setting = Setting(aws, *bound_with_roles(3))
    aws.secrets["prod/s1"] = listed("s1", "v2")
    await setting.sweep()
    swept = [record for record in caplog.records if record.getMessage() == "swept"]
    assert sorted(record.levelno for record in swept) == [logging.DEBUG, logging.DEBUG, logging.INFO]


@pytest.mark.parametrize("mode", PollMode)
async def test_forged_record_does_not_tell_whether_a_secret_exists(mode: PollMode) -> None:
    told = {"status": "SourceNotFound: it does not exist"}
    aws = Aws(listed("theirs", "v1"))
    forged = [bound_object(name, "v1", **told) for name in ("there", "absent")]
    for each, names in zip(forged, ("theirs", "nothing"), strict=True):
        annotations = each["metadata"]["annotations"]
        annotations["keyturn.dev/version-ids"] = json.dumps({f"{ARN.format(names)}#AWSCURRENT": "v0"})
    setting = Setting(aws, *forged, mode=mode, globs="prod/there, prod/absent")
    for _ in range(3):
        assert await setting.sweep() == []


@pytest.mark.parametrize("mode", PollMode)
async def test_secret_under_a_forbidden_name_looks_like_a_missing_one(mode: PollMode) -> None:
    # The id may be the whole ARN of prod/db, which is allowed, or a partial ARN of prod/db-master, which is not.
    place = ARN.format("x").partition("prod/")[0]
    told = {"status": "SourceNotFound: it does not exist"}
    hidden = SecretMetadata(f"{place}prod/db-master-AbCdEf", "prod/db-master", {"v1": frozenset({"AWSCURRENT"})}, NOW)

    class Partial(Aws):
        async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
            return hidden if secret_id == f"{place}prod/db-master" else await super().describe(secret_id, background)

    aws = Partial()
    aws.secrets = {"prod/db-master": hidden}
    bindings = [
        bound_object(name, "v1", **told, **{SECRET_ID: f"{place}prod/db-{name}"}) for name in ("master", "absent")
    ]
    setting = Setting(aws, *bindings, mode=mode, globs="prod/db")
    for _ in range(3):
        assert await setting.sweep() == []


async def test_unsorted_list_is_read_to_its_end() -> None:
    # A list may be unsorted. For example, moto ignores the order that is requested.
    aws = Aws(*(listed(f"s{age}", "v1", NOW - timedelta(hours=10 - age)) for age in range(10)))
    setting = Setting(aws, *(bound_object(f"s{age}", "v1") for age in range(10)))
    await setting.sweep()
    aws.secrets["prod/s9"] = listed("s9", "v2", NOW)
    assert await setting.sweep() == ["s9"]


async def test_sweep_stops_when_the_lead_is_lost() -> None:
    setting: Setting

    class Losing(Aws):
        async def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
            async for page in super().list_secrets():
                setting.is_leader = False
                yield page

    aws = Losing(*(listed(f"s{number}", "v2") for number in range(10)))
    setting = Setting(aws, *(bound_object(f"s{number}", "v1") for number in range(10)))
    with pytest.raises(Interrupted):
        await setting.sweep()
    assert aws.pages_read == 1
    assert setting.asked == {}


def bound_in(region: str, name: str, version_id: str) -> dict:
    return bound_object(name, version_id, **{SECRET_ID: ARN.format(name).replace("eu-west-1", region)})


async def test_own_store_is_swept_first_and_hanging_ones_delay_nobody() -> None:
    theirs = [
        bound_object(f"t{number}", "v1", **{"keyturn.dev/service-account": f"app{number}"}) for number in range(20)
    ]
    setting = Setting(Aws(listed("own", "v2")), *theirs, bound_object("own", "v1"))
    setting.hanging = {f"team/app{number}" for number in range(19)}
    running = asyncio.create_task(setting.poller.run())
    await asyncio.sleep(0.5)
    assert setting.made[0] == "eu-west-1"
    assert set(setting.asked) == {Target("team", "own")}
    assert len(setting.made) == 1 + LANES_PER_NAMESPACE
    setting.asked.clear()
    setting.put(bound_object("own", "v1", version=2))
    setting.clock.advance(600)
    await asyncio.sleep(40)  # a sweep of the own store, while those of the others hang
    assert set(setting.asked) == {Target("team", "own")}
    await asyncio.sleep(10 * SWEEP_TIMEOUT)  # the sweeps that hang are given up, and the last store has its turn
    assert setting.made[-1] == "team/app19"
    assert (setting.sweeps("failed", store="other") or 0) >= 19
    running.cancel()


async def test_failing_store_rests_longer_each_time_and_the_own_one_never() -> None:
    theirs = bound_object("theirs", "v1", **{"keyturn.dev/service-account": "broken"})
    setting = Setting(Aws(listed("own", "v1")), theirs, bound_object("own", "v1"))
    tried = []
    for _ in range(12):
        before = len(setting.made)
        await setting.sweep()
        tried.append("team/broken" in setting.made[before:])
        setting.clock.advance(300)
        await asyncio.sleep(RESULT_TTL + 1)
    assert tried[0]
    assert 3 <= sum(tried) <= 7
    assert setting.sweeps("ok") + setting.sweeps("ok", "changes") == len(tried)
    assert setting.sweeps("failed", store="other") == sum(tried)


async def test_nothing_is_kept_of_stores_that_no_binding_names() -> None:
    setting = Setting(Aws(), *(bound_in("eu-west-1", f"s{number}", "v1") for number in range(3)))
    for number in range(50):
        account = {"keyturn.dev/service-account": f"broken{number}"}
        setting.put(bound_object("theirs", "v1", version=number + 2, **account))
        await setting.sweep()
    kept = (setting.poller._last_sweep, setting.poller._last_full_sweep, setting.poller._failures)
    assert all(len(each) <= 2 for each in kept)
    assert setting.poller._running == {}


async def test_broken_role_of_a_tenant_affects_no_other() -> None:
    aws = Aws(listed("moved", "v2"), listed("theirs", "v2"))
    theirs = bound_object("theirs", "v1", **{"keyturn.dev/service-account": "broken"})
    setting = Setting(aws, theirs, bound_object("moved", "v1"))
    assert await setting.sweep() == ["moved"]
    assert await setting.sweep() == ["moved"]


@pytest.mark.parametrize("mode", PollMode)
async def test_disallowed_binding_is_not_described(mode: PollMode) -> None:
    aws = Aws(listed("ours", "v2"))
    setting = Setting(aws, bound_object("ours", "v1"), bound_object("theirs", "v1"), globs="prod/ours", mode=mode)
    assert await setting.sweep() == ["ours"]
    assert "prod/theirs" not in aws.described


async def test_recent_change_is_left_to_its_notification_while_events_arrive() -> None:
    young = listed("moved", "v2", datetime.now(UTC))
    setting = Setting(Aws(young), bound_object("moved", "v1"))
    setting.event_path_healthy = True
    assert await setting.sweep() == []
    setting.event_path_healthy = False
    assert await setting.sweep() == ["moved"]


@pytest.mark.parametrize("event_path_healthy", [True, False])
async def test_poller_alone_waits_for_no_notification_and_keeps_its_interval(event_path_healthy: bool) -> None:
    aws = Aws(listed("moved", "v2", changed=datetime.now(UTC)))
    setting = Setting(aws, bound_object("moved", "v1"), notifications=False)
    setting.event_path_healthy = event_path_healthy
    assert setting.poller.interval == 300
    assert await setting.sweep() == ["moved"]


async def test_interval_is_a_tenth_while_no_events_arrive() -> None:
    setting = Setting(Aws(listed("a", "v1")), bound_object("a", "v1"))
    setting.event_path_healthy = True
    assert setting.poller.interval == 300
    setting.event_path_healthy = False
    assert setting.poller.interval == 30


async def test_sweep_starts_on_taking_the_lead_and_never_before() -> None:
    aws = Aws(listed("a", "v1"))
    setting = Setting(aws, bound_object("a", "v1"))
    setting.is_leader = False
    running = asyncio.create_task(setting.poller.run())
    await asyncio.sleep(0.05)
    assert aws.pages_read == 0
    setting.is_leader = True
    await asyncio.wait_for(aws.asked.wait(), 5)
    running.cancel()


async def test_failed_sweep_does_not_count_as_the_last_one() -> None:
    """The status page says how long ago the last sweep was. A poller that fails must not look as if it works."""

    class Unreliable(Aws):
        fails = False

        def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
            if self.fails:
                raise SourceUnavailable("throttled")
            return super().list_secrets()

    aws = Unreliable(listed("a", "v1"))
    setting = Setting(aws, bound_object("a", "v1"))
    running = asyncio.create_task(setting.poller.run())
    await asyncio.sleep(2)
    assert setting.poller.seconds_since_sweep() == 0
    aws.fails = True
    for _ in range(3):
        setting.clock.advance(400)
        await asyncio.sleep(2)
    assert setting.sweeps("failed", "changes") == 3
    assert setting.poller.seconds_since_sweep() == 1200
    running.cancel()


async def test_sweeps_that_fail_for_long_are_overdue_on_the_leader() -> None:
    setting = Setting(Aws(listed("db", "v1")), bound_object("db", "v1"))
    setting.is_leader = False
    setting.event_path_healthy = True

    async def failing(*_: object) -> None:
        raise SourceUnavailable("AWS did not answer")

    running = asyncio.create_task(setting.poller.run())
    await asyncio.sleep(2)
    setting.clock.advance(5000)
    assert setting.poller.overdue_for() is None  # it does not lead
    setting.is_leader = True
    await asyncio.sleep(2)
    assert (setting.poller.overdue_for(), setting.poller.failure()) == (None, None)
    sweep, setting.poller._sweeper.sweep = setting.poller._sweeper.sweep, failing  # type: ignore[assignment]
    for seconds in (350, 350, 200):
        setting.clock.advance(seconds)
        await asyncio.sleep(2)
    assert setting.poller.overdue_for() is None
    assert isinstance(setting.poller.failure(), SourceUnavailable)
    setting.clock.advance(100)
    assert setting.poller.overdue_for() == 1000
    setting.is_leader = False
    assert setting.poller.overdue_for() is None
    await asyncio.sleep(2)
    setting.is_leader = True
    await asyncio.sleep(2)
    assert setting.poller.overdue_for() is None  # it has just begun to lead
    setting.clock.advance(901)
    assert setting.poller.overdue_for() == 901
    setting.poller._sweeper.sweep = sweep  # type: ignore[method-assign]
    await asyncio.sleep(2)
    assert (setting.poller.overdue_for(), setting.poller.failure()) == (None, None)
    running.cancel()
    await asyncio.wait([running])


async def test_failed_list_is_counted_as_a_failed_sweep() -> None:
    class Throttled(Aws):
        def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
            raise SourceUnavailable("throttled")

    setting = Setting(Throttled(), bound_object("a", "v1"))
    assert await setting.sweep() == []
    assert setting.sweeps("failed") == 1


class Switchable(Aws):
    """A fake Secrets Manager in which the calls of the receiver's own store can fail, or all calls."""

    def __init__(self, *secrets: SecretMetadata) -> None:
        super().__init__(*secrets)
        self.own_fails = False
        self.all_fail = False

    async def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
        if self.own_fails or self.all_fail:
            raise SourceUnavailable("AWS did not answer")
        async for page in super().list_secrets():
            yield page

    async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
        if self.all_fail or (self.own_fails and secret_id == "prod/own"):
            raise SourceUnavailable("AWS did not answer")
        return await super().describe(secret_id, background, namespace)


ELSEWHERE = ARN.format("elsewhere").replace("eu-west-1", "eu-central-1")
OTHER_STORES = [
    pytest.param({SECRET_ID: ELSEWHERE}, id="another region"),
    pytest.param({"keyturn.dev/service-account": "app"}, id="a tenant"),
]


def with_another_store(annotations: dict[str, str], *own: dict) -> tuple[Setting, Switchable]:
    """Return a setting with a binding of another store, whose sweeps succeed. ``own`` has the bindings of the
    receiver's own store."""
    aws = Switchable(listed("own", "v1"), listed("elsewhere", "v1"))
    aws.secrets[ELSEWHERE] = listed("elsewhere", "v1")
    setting = Setting(aws, *own, bound_object("elsewhere", "v1", **annotations))
    return setting, aws


@pytest.mark.parametrize("annotations", OTHER_STORES)
async def test_sweeps_of_other_stores_do_not_hide_that_the_own_one_fails(annotations: dict[str, str]) -> None:
    """Until now the alert KeyturnCutOff summed the sweeps of all stores, so it stayed silent."""
    setting, aws = with_another_store(annotations, bound_object("own", "v1"))
    await setting.sweep()
    assert setting.poller.sweep_age() == 0
    aws.own_fails = True
    for _ in range(3):
        setting.clock.advance(300)
        await setting.poller.sweep()
    assert setting.sweeps("ok", "changes", "other") == 3
    assert setting.sweeps("failed", "changes", "own") == 3
    assert setting.poller.sweep_age() == 900
    aws.own_fails = False
    await setting.poller.sweep()
    assert setting.poller.sweep_age() == 0


@pytest.mark.parametrize("annotations", OTHER_STORES)
async def test_any_store_counts_if_no_binding_is_of_the_own_one(annotations: dict[str, str]) -> None:
    """A sweep of the receiver's own store would prove nothing there, because it has nothing to compare."""
    setting, aws = with_another_store(annotations)
    await setting.poller.sweep()
    assert setting.poller.sweep_age() == 0
    setting.clock.advance(300)
    assert setting.poller.sweep_age() == 300
    aws.all_fail = True
    await setting.poller.sweep()
    assert setting.poller.sweep_age() == 300


async def test_sweep_without_bindings_has_nothing_to_miss() -> None:
    setting = Setting(Aws())
    await setting.poller.sweep()
    assert setting.poller.sweep_age() == 0


async def test_age_of_a_replica_that_stops_leading_does_not_count_beside_the_next_leader() -> None:
    """The alert takes the minimum of all replicas. So the age of the cluster goes on while the lead changes hands."""
    first, second = (Setting(Switchable(listed("own", "v1")), bound_object("own", "v1")) for _ in range(2))
    second.is_leader = False
    running = [asyncio.create_task(each.poller.run()) for each in (first, second)]

    async def age_after(seconds: float) -> float:
        for each in (first, second):
            each.clock.advance(seconds)
        await asyncio.sleep(2)
        return min(each.poller.sweep_age() for each in (first, second))

    assert await age_after(0) == 0
    assert second.poller.sweep_age() == float("inf")  # a replica that never led says nothing
    first.is_leader = False
    second.aws.own_fails = True
    second.is_leader = True
    assert await age_after(400) == 400  # the new leader has not swept yet, so the sweep of the old leader counts
    second.aws.own_fails = False
    assert await age_after(400) == 0
    assert first.poller.sweep_age() == 800
    for each in running:
        each.cancel()


async def test_interrupted_sweep_is_none() -> None:
    setting = Setting(Aws(listed("own", "v1")), bound_object("own", "v1"))
    setting.is_leader = False
    with pytest.raises(Interrupted):
        await setting.poller.sweep()
    assert setting.poller.sweep_age() == float("inf")


def in_namespace(namespace: str, obj: dict) -> dict:
    obj["metadata"]["namespace"] = namespace
    return obj


@pytest.mark.parametrize("mode", PollMode)
async def test_stale_binding_is_queued_before_a_thousand_missing_secrets_of_another_namespace(mode: PollMode) -> None:
    class Slow(Aws):
        async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
            await asyncio.sleep(0.1)
            return await super().describe(secret_id, background)

    missing = [in_namespace("greedy", bound_object(f"missing-{number}", "v1")) for number in range(1000)]
    setting = Setting(Slow(listed("moved", "v2")), *missing, bound_object("moved", "v1"), mode=mode)
    setting.namespaces.update(NamespaceView("greedy", {"keyturn.dev/allow-secrets": "*"}))
    sweeping = asyncio.create_task(setting.poller.sweep())
    await asyncio.sleep(1)
    assert Target("team", "moved") in setting.asked
    assert not sweeping.done()
    await sweeping


FOREIGN = "arn:aws:secretsmanager:eu-west-1:999999999999:secret:prod/{}"
OTHERS = [listed(f"other-{number}", "v1", NOW - timedelta(hours=number)) for number in range(4)]


@pytest.mark.parametrize(
    "annotations",
    [{"status": "SourceNotFound: it does not exist"}, {}, {SECRET_ID: FOREIGN}],
    ids=["in error", "missing", "of another account"],
)
async def test_secrets_of_a_namespace_are_described_in_parts_that_take_turns(annotations: dict[str, str]) -> None:
    count = 2 * MAX_DESCRIBED + 50
    objects = [
        bound_object(f"s{number}", "v1", **{key: text.format(number) for key, text in annotations.items()})
        for number in range(count)
    ]
    setting = Setting(Aws(*OTHERS), *objects)
    for _ in range(3):  # a full sweep, and two of changes
        before = len(setting.aws.described)
        await setting.sweep()
        assert len(setting.aws.described) - before <= MAX_DESCRIBED
    assert len(set(setting.aws.described)) == count


class Slow(Aws):
    """A fake AWS that takes ``seconds`` to describe a secret. For a secret of another account it takes ``foreign``
    seconds, and the call fails if that is more than 1."""

    def __init__(self, *secrets: SecretMetadata, seconds: float = 0.0, foreign: float = 0.0) -> None:
        super().__init__(*secrets)
        self.seconds, self.foreign = seconds, foreign

    async def describe(self, secret_id: str, background: bool, namespace: str = "") -> SecretMetadata:
        is_foreign = secret_id.startswith(FOREIGN.partition(":secret")[0])
        await asyncio.sleep(self.foreign if is_foreign else self.seconds)
        if is_foreign and self.foreign > 1:
            raise SourceUnavailable("AWS did not answer")
        return await super().describe(secret_id, background)


async def test_sweep_of_thousands_of_foreign_secrets_ends_in_time_and_leaves_none_out() -> None:
    """Each call takes long, so that not even the share of the namespace is described within one interval."""
    count = 250
    setting = Setting(
        Slow(*OTHERS, foreign=0.9),
        *(bound_object(f"s{number}", "v1", **{SECRET_ID: FOREIGN.format(number)}) for number in range(count)),
        bound_object("other-0", "v1"),
    )
    assert setting.poller.interval == MAX_INTERVAL_WITHOUT_EVENTS
    for _ in range(11):
        begun = time.monotonic()
        await setting.sweep()
        assert time.monotonic() - begun < MAX_INTERVAL_WITHOUT_EVENTS
    assert len(set(setting.aws.described)) == count


async def test_secrets_of_a_namespace_that_hang_delay_those_of_another_by_two_calls() -> None:
    hanging = [
        in_namespace("greedy", bound_object(f"h{n}", "v1", **{SECRET_ID: FOREIGN.format(f"h{n}")})) for n in range(100)
    ]
    missing = [bound_object(f"s{number}", "v1") for number in range(100)]
    setting = Setting(Slow(*OTHERS, foreign=8.0), *hanging, *missing)
    setting.namespaces.update(NamespaceView("greedy", {"keyturn.dev/allow-secrets": "*"}))
    begun = time.monotonic()
    assert len(await setting.sweep()) == 100
    assert time.monotonic() - begun < 20
    assert not any(name.startswith("h") for name in await setting.sweep())


async def test_roles_of_a_namespace_that_hang_delay_the_sweep_of_no_other() -> None:
    """Without a share for each namespace, the roles that hang would take all lanes before the other namespace has a
    role. Turns would not help then."""
    hanging = [
        in_namespace("greedy", bound_object(f"s{n}", "v1", **{"keyturn.dev/service-account": f"app{n}"}))
        for n in range(50)
    ]
    setting = Setting(Aws(listed("moved", "v2")), *hanging)
    setting.namespaces.update(NamespaceView("greedy", {"keyturn.dev/allow-secrets": "*"}))
    setting.hanging = {f"greedy/app{n}" for n in range(50)}
    first = asyncio.create_task(setting.poller.sweep())
    await asyncio.sleep(1)
    assert len(setting.made) == LANES_PER_NAMESPACE
    setting.put(bound_object("moved", "v1", **{"keyturn.dev/service-account": "app"}))
    second = asyncio.create_task(setting.poller.sweep())
    await asyncio.sleep(1)
    assert Target("team", "moved") in setting.asked
    await asyncio.gather(first, second)
    assert len(setting.poller._lane_shares) == 0
