"""One sweep: it lists or describes secrets, and finds the stale bindings (docs/design.md#poller)."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.arn import account_scope, refers_to
from keyturn_receiver.core.binding import Source, Target
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.revision import OK, version_key
from keyturn_receiver.errors import (
    KeyturnError,
    SourceNotFound,
    SourcePendingDeletion,
    SourceRefused,
    SourceUnavailable,
    Temporary,
)
from keyturn_receiver.poller.bound_source import BoundSource
from keyturn_receiver.poller.turns import MAX_DESCRIBED, Turns
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.settings import PollMode
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import MAX_STORES, Identity, Store, StoreKey, Stores
from keyturn_receiver.sources.thread_pools import SEVERAL

# ListSecrets may lag by five minutes: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html
LIST_OVERLAP = timedelta(minutes=10)
# If bindings name at most this number of AWS secrets of a store that is not the receiver's own, a sweep describes each
# of these secrets first. To list the store could take more calls.
DESCRIBE_UP_TO = 4
ITEMS_PER_TURN = 20  # items processed before other tasks get a turn; 20 items take a few tenths of a millisecond
# If a sweep describes secrets of several namespaces, the turn of a namespace ends after this number of failed calls.
# The next sweep continues with the other secrets of the namespace.
MAX_FAILURES = 2
LAST_CALL_SECONDS = 5.0  # the call that runs when the time for descriptions ends gets at most this many more seconds
# The additional time of this last call is also at most this share of the time for descriptions. So the descriptions of
# the receiver's own store take no longer than the interval (poller.DESCRIBE_SHARE).
LAST_CALL_SHARE = 1 / 3
PAGE_PAUSE = 0.1  # seconds between two pages; parsing one page blocks the event loop for a few milliseconds

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Interrupted(Exception):
    """This replica is no longer the leader, so its sweep stops."""


@dataclass(frozen=True, slots=True)
class StaleBinding:
    """A binding to reconcile. ``metadata`` describes the AWS secret of the binding, and is None if the secret does not
    exist."""

    bound: BoundSource
    metadata: SecretMetadata | None

    @property
    def target(self) -> Target:
        """The Secret to fill."""
        return self.bound.target

    @property
    def about(self) -> frozenset[Source]:
        """The AWS secret of this binding, if the Secret is made from several AWS secrets. Otherwise the set is
        empty."""
        return frozenset({self.bound.source} if len(self.bound.secret.spec.sources) > 1 else ())

    @property
    def moved_at(self) -> int | None:
        """The time of the last change in AWS, in seconds since 1970, or None. The staging label moved at this time or
        earlier."""
        changed_at = self.metadata.changed_at if self.metadata else None
        return int(changed_at.timestamp()) if changed_at else None

    @property
    def version_ids(self) -> frozenset[str]:
        """The id of the version that the Secret should be made from. The set is empty if AWS reports no such
        version."""
        version_id = self.metadata.current(self.bound.source.stage) if self.metadata else None
        return frozenset({version_id} if version_id else ())


@dataclass(slots=True)
class SweepResult:
    """Result of a sweep. ``identity`` is the AWS identity that the sweep used. ``watermark`` is the time of the latest
    change in AWS that the sweep saw.

    ``owed`` has the bindings whose secret still has to be described, because it was missing in a list of all secrets,
    or in a list that ended early.
    """

    identity: Identity
    stale: dict[tuple[Target, Source], StaleBinding] = field(default_factory=dict)
    watermark: datetime | None = None
    owed: frozenset[tuple[Target, Source]] = frozenset()


async def yield_to_loop(items: Sequence[T]) -> AsyncIterator[T]:
    """Iterate over many items and let other tasks run in between, so that no notification has to wait for a sweep."""
    for number, item in enumerate(items, 1):
        yield item
        if number % ITEMS_PER_TURN == 0:
            await asyncio.sleep(0)


def is_stale(bound: BoundSource, metadata: SecretMetadata | None) -> bool:
    """Return whether a binding is out of date, according to the metadata that AWS reports.

    If the AWS secret does not exist (``metadata`` is None) or is scheduled for deletion, the binding is stale until the
    Secret's status reports this. Otherwise the binding is stale in each of these cases:

    - The Secret was made from another version than the one that now has the binding's staging label. Versions are
      compared, not times.
    - The Secret's status reports an error, because the cause of the error may be gone.
    - The Secret is not as Keyturn wrote it.
    - An old release of Keyturn wrote the Secret with a hash that has no key, so the hash proves nothing.
    """
    record = bound.record
    if metadata is None:
        return not bound.is_reported(SourceNotFound.reason)
    if metadata.pending_deletion:
        return not bound.is_reported(SourcePendingDeletion.reason)
    applied = record.version_ids.get(version_key(metadata.arn, bound.source.stage))
    return not_proven(bound) or record.status != OK or applied != metadata.current(bound.source.stage)


def not_proven(bound: BoundSource) -> bool:
    """Return True unless there is proof that the Secret is unchanged since Keyturn wrote it."""
    return bound.secret.integrity is not Integrity.INTACT


class Sweeper:
    """Sweeper. Groups the bindings by store, and sweeps one store at a time.

    ``mode`` says whether secrets are listed or described. ``interval`` is the number of seconds between two sweeps.
    """

    def __init__(
        self, stores: Stores, secrets: SecretCache, access_policy: AccessPolicy, mode: PollMode, interval: float
    ) -> None:
        self._stores = stores
        self._secrets = secrets
        self._access_policy = access_policy
        self._mode = mode
        self.interval = interval
        self._turns = Turns()
        self._refusing: BoundedMap[StoreKey, bool] = BoundedMap(MAX_STORES)  # stores whose role may not list secrets

    @property
    def own_key(self) -> StoreKey:
        """The key of the receiver's own store in its own region."""
        return self._stores.key()

    async def bindings_by_store(self) -> Mapping[StoreKey, Sequence[BoundSource]]:
        """Group the bindings by the store that reads their secret. A binding of several secrets can be in several
        groups. Secrets that the access policy forbids are left out."""
        by_store: dict[StoreKey, list[BoundSource]] = {}
        async for bound in yield_to_loop(self._secrets.all()):
            for source in bound.spec.sources:
                if self._access_policy.allows_source(bound, source):
                    key = self._stores.key(source.secret_id, bound.target.namespace, bound.spec.account)
                    by_store.setdefault(key, []).append(BoundSource(bound, source))
        return by_store

    async def sweep(
        self,
        key: StoreKey,
        bindings: Sequence[BoundSource],
        last: SweepResult | None,
        seconds: float,
        may_continue: Callable[[], bool],
        on_stale: Callable[[Sequence[StaleBinding]], None],
    ) -> SweepResult:
        """Compare the bindings of one store with AWS. If ``last`` is given, and if the secrets are listed, compare only
        the bindings whose secret has changed since that sweep, and the bindings that such a list cannot judge
        (``StoreSweep.by_list``).

        If ``last`` was made with another identity, all bindings are compared, because two identities may list different
        secrets. If the role may not list secrets, each secret is described instead. No description begins after
        ``seconds`` have passed, and the next sweep continues with the rest. ``on_stale`` is called with stale bindings
        as soon as they are found. Raises Interrupted when ``may_continue`` returns False.

        A binding can name a store of another region or of a ServiceAccount. The cost of such a store depends on its
        bindings, and not on the size of its account, because the number of AWS secrets that the bindings name limits
        the calls of a sweep. The sweep usually makes at most two calls for each of these secrets, and only one if the
        secrets are few. If the secrets are few and the role may describe none of them, the sweep also tries a list, and
        then makes at most three calls for each.
        """
        store = await self._stores.get(key)
        last = last if last and last.identity == store.identity else None
        since, owed = (last.watermark, last.owed) if last else (None, frozenset())
        named = len({bound.source.secret_id for bound in bindings})
        max_pages = math.inf if key == self.own_key else named
        if self._mode is PollMode.LIST and max_pages > DESCRIBE_UP_TO:
            try:
                return await self._sweep_of(store, seconds, may_continue, on_stale).by_list(
                    bindings, since, owed, max_pages
                )
            except SourceRefused as error:
                self._warn_of_calls(key, bindings, error)
        sweep = self._sweep_of(store, seconds, may_continue, on_stale)
        result = await sweep.by_description(bindings)
        if self._mode is PollMode.LIST and sweep.refused == named <= DESCRIBE_UP_TO:
            # The role is not allowed to describe these secrets, but it may be allowed to list them.
            with suppress(SourceRefused):
                return await self._sweep_of(store, seconds, may_continue, on_stale).by_list(
                    bindings, since, owed, max_pages
                )
        return result

    def _sweep_of(
        self,
        store: Store,
        seconds: float,
        may_continue: Callable[[], bool],
        on_stale: Callable[[Sequence[StaleBinding]], None],
    ) -> "StoreSweep":
        return StoreSweep(store, self._secrets, self._may_know, may_continue, on_stale, self._turns, seconds)

    def _may_know(self, bound: BoundSource, secret_name: str) -> bool:
        """Return whether the owner of a binding may learn that the AWS secret with exactly this name exists."""
        return self._access_policy.could_apply(bound.secret, bound.source, (secret_name,))

    def _warn_of_calls(self, key: StoreKey, bindings: Sequence[BoundSource], error: SourceRefused) -> None:
        """Log that each secret is described, because AWS bills each call (docs/cost.md). The level is WARNING the first
        time for each store, and INFO after that."""
        calls = round(len({bound.source.secret_id for bound in bindings}) * 3600 / self.interval)
        fields = {"account": key.account, "region": key.region, "calls_per_hour": calls}
        level = logging.INFO if key in self._refusing else logging.WARNING
        self._refusing.put(key, True)
        _log.log(level, "describing each secret, since listing is refused: %s", error, extra={"fields": fields})

    def is_current(self, stale: StaleBinding) -> bool:
        """Return whether the Secret has not changed since the sweep saw it."""
        bound = self._secrets.get(stale.target)
        return bound is not None and bound.resource_version == stale.bound.secret.resource_version


class StoreSweep:
    """One sweep over one store. Each instance is used once. ``may_continue`` is called before or after each call to
    AWS. ``may_know`` returns whether a binding's owner may learn that an AWS secret with the given name exists.
    ``on_stale`` is called with stale bindings as soon as they are found. ``turns`` gives the order in which secrets are
    described. No description begins after ``seconds`` have passed. ``refused`` is the number of secrets that AWS
    refused to describe."""

    def __init__(
        self,
        store: Store,
        secrets: SecretCache,
        may_know: Callable[[BoundSource, str], bool],
        may_continue: Callable[[], bool],
        on_stale: Callable[[Sequence[StaleBinding]], None],
        turns: Turns,
        seconds: float,
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._may_know = may_know
        self._may_continue = may_continue
        self._on_stale = on_stale
        self._turns = turns
        self._seconds = seconds
        self._fresh: list[StaleBinding] = []  # stale bindings that were not yet passed to ``on_stale``
        self._result = SweepResult(store.identity)
        self._described: set[tuple[Target, Source]] = set()  # bindings for whose secret AWS has answered a call
        self.refused = 0
        self._ended_early = False  # whether the list was left after ``max_pages`` pages

    async def by_list(
        self,
        bindings: Sequence[BoundSource],
        since: datetime | None,
        owed: Set[tuple[Target, Source]],
        max_pages: float = math.inf,
    ) -> SweepResult:
        """List the secrets that have changed after ``since``, or all secrets if ``since`` is None. Compare the bindings
        with the list.

        Secrets that are missing in the list are then described. After a list of all secrets, every missing secret is
        described. This is also done if the list was left after ``max_pages`` pages. After a list of changes, only three
        kinds of missing secrets are described: secrets of other accounts, which no list contains; secrets of bindings
        whose Secret reports an error or has been edited; and secrets that earlier sweeps ``owed``.

        A sweep describes at most MAX_DESCRIBED missing secrets of each namespace. In the store of a ServiceAccount,
        which belongs to one namespace, this limit applies only after a list of changes that was not left early. Raises
        SourceRefused if the role is not allowed to list secrets.
        """
        by_target: dict[Target, list[BoundSource]] = {}
        for bound in bindings:
            by_target.setdefault(bound.target, []).append(bound)
        # The account and region of the secrets in the list. The set is empty if the account has no secrets.
        own_accounts: set[str] = set()
        seen: set[tuple[Target, Source]] = set()
        async for page in self._pages(since, max_pages):
            async for metadata in yield_to_loop(page):
                own_accounts.add(account_scope(metadata.arn))
                for target in self._secrets.by_secret_id(metadata.arn, metadata.name):
                    secret = self._secrets.get(target)
                    for bound in by_target.get(target, ()):
                        # The cache also finds a binding by the names in its record. The owner of the binding can edit
                        # the record, so the names are checked again here.
                        if secret and self._concerns(bound, metadata):
                            seen.add((target, bound.source))
                            self._record(BoundSource(secret, bound.source), metadata)
            await asyncio.sleep(PAGE_PAUSE)
        self._report()
        unseen = [bound for bound in bindings if (bound.target, bound.source) not in seen]
        own_accounts.add("")  # a bare name has an empty scope, and is in the identity's own account
        limit: int | None = MAX_DESCRIBED
        if since is None or self._ended_early:
            owed = {(bound.target, bound.source) for bound in unseen}
            limit = None if self._store.key.account else MAX_DESCRIBED
        # A list of changes in AWS does not show everything. An error can end without a change of its AWS secret, for
        # example when a permission is granted. Somebody can also edit a Secret.
        extra = [
            bound
            for bound in unseen
            if (bound.target, bound.source) in owed
            or account_scope(bound.source.secret_id) not in own_accounts
            or bound.record.status != OK
            or not_proven(bound)
        ]
        await self._describe(extra, limit)
        self._result.owed = frozenset({(bound.target, bound.source) for bound in extra} & owed - self._described)
        return self._result

    async def by_description(self, bindings: Sequence[BoundSource]) -> SweepResult:
        """Describe the secret of each binding, and compare the binding with the description.

        If every call failed with a ``Temporary`` error, raises the last error, because the cause then probably concerns
        the whole store.
        """
        if error := await self._describe(bindings, limit=None):
            raise error
        return self._result

    async def _pages(self, since: datetime | None, max_pages: float) -> AsyncIterator[Sequence[SecretMetadata]]:
        last: datetime | None = None
        is_sorted = True
        pages = 0
        async for page in self._store.secrets_manager.list_secrets():
            self._check()
            yield page
            pages += 1
            for metadata in page:
                changed_at = metadata.changed_at
                if changed_at is None or (last and changed_at > last):
                    # AWS did not sort by the last change, although the request asked for this order. So every page has
                    # to be read.
                    is_sorted = False
                last = changed_at or last
                if changed_at and (self._result.watermark is None or changed_at > self._result.watermark):
                    self._result.watermark = changed_at
            if since and is_sorted and last and last < since - LIST_OVERLAP:
                return
            if pages >= max_pages:
                self._ended_early = True
                return
            self._check()

    async def _describe(self, bindings: Sequence[BoundSource], limit: int | None) -> Temporary | None:
        """Describe the secrets of the bindings, but at most ``limit`` secrets per namespace. Begin no description after
        the ``seconds`` of this sweep have passed. If every call failed with a ``Temporary`` error, return the last
        error."""
        turn = self._turns.next(self._store.key, bindings, limit)
        alone = len(turn.by_namespace) == 1  # if there is only one namespace, its failures delay no other namespace
        tried: set[str] = set()
        failures: Counter[str] = Counter()  # by namespace
        last_error, failed = None, 0
        deadline = time.monotonic() + self._seconds
        try:
            async with asyncio.timeout(self._seconds + min(LAST_CALL_SECONDS, self._seconds * LAST_CALL_SHARE)):
                for secret_id, same_secret in turn.by_id.items():
                    self._check()
                    if time.monotonic() >= deadline:
                        break
                    namespaces = {bound.target.namespace for bound in same_secret}
                    willing = [each for each in namespaces if alone or failures[each] < MAX_FAILURES]
                    if not willing:
                        continue
                    tried.add(secret_id)
                    try:
                        owner = willing[0] if len(namespaces) == 1 else SEVERAL
                        await self._describe_one(secret_id, same_secret, owner)
                    except Temporary as error:
                        last_error, failed = error, failed + 1
                        failures.update(namespaces)  # the call itself has already counted the failure in the metrics
        except TimeoutError:
            last_error, failed = SourceUnavailable("DescribeSecret: the time of this sweep is over"), failed + 1
        finally:
            self._turns.end(self._store.key, turn, tried)
        self._check()  # another replica may have become the leader during the last call
        return last_error if failed == len(tried) else None

    async def _describe_one(self, secret_id: str, same_secret: Sequence[BoundSource], namespace: str) -> None:
        """Describe a secret, and compare its bindings with the description. Raises a ``Temporary`` error if the call
        should be repeated later."""
        metadata: SecretMetadata | None = None
        try:
            metadata = await self._store.secrets_manager.describe(secret_id, background=True, namespace=namespace)
        except SourceNotFound:
            pass
        except Temporary:
            raise
        except KeyturnError:
            self.refused += 1
            self._described.update((bound.target, bound.source) for bound in same_secret)
            return
        for bound in same_secret:
            # If the binding's owner must not learn that the secret exists, the secret is treated as missing.
            self._record(bound, metadata if metadata and self._concerns(bound, metadata) else None)
            self._described.add((bound.target, bound.source))
        self._report()

    def _report(self) -> None:
        self._check()
        if self._fresh:
            self._on_stale(self._fresh)
            self._fresh = []

    def _concerns(self, bound: BoundSource, metadata: SecretMetadata) -> bool:
        named = bound.source.secret_id
        return refers_to(named, metadata.arn, metadata.name) and self._may_know(bound, metadata.name)

    def _record(self, bound: BoundSource, metadata: SecretMetadata | None) -> None:
        if is_stale(bound, metadata):
            self._result.stale[bound.target, bound.source] = StaleBinding(bound, metadata)
            self._fresh.append(self._result.stale[bound.target, bound.source])

    def _check(self) -> None:
        if not self._may_continue():
            raise Interrupted
