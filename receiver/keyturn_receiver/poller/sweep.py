"""What one sweep does: it lists or describes secrets, and finds the stale bindings (docs/design.md#poller)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import OK, version_key
from keyturn_receiver.errors import KeyturnError, SourceNotFound, SourcePendingDeletion, SourceRefused, Temporary
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.settings import PollMode
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import Store, StoreKey, Stores

# ListSecrets may lag by five minutes: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html
LIST_OVERLAP = timedelta(minutes=10)
ITEMS_PER_TURN = 20  # handled in some tenths of a millisecond, then other tasks have their turn
PAGE_PAUSE = 0.1  # seconds between two pages; parsing one blocks the event loop for some milliseconds

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Interrupted(Exception):
    """This replica is no longer the leader: another one sweeps."""


@dataclass(frozen=True, slots=True)
class StaleBinding:
    """A binding to reconcile, and the metadata of its secret in AWS; None: there is no such secret."""

    bound: BoundSecret
    metadata: SecretMetadata | None

    @property
    def target(self) -> Target:
        """The Secret to fill."""
        return self.bound.target

    @property
    def version_ids(self) -> frozenset[str]:
        """The version that the Secret should be made from; none if AWS names none."""
        version_id = self.metadata.current(self.bound.spec.stage) if self.metadata else None
        return frozenset({version_id} if version_id else ())


@dataclass(slots=True)
class SweepResult:
    """The stale bindings, and the watermark: the latest change in AWS that the sweep has seen."""

    stale: dict[Target, StaleBinding] = field(default_factory=dict)
    watermark: datetime | None = None


async def yield_to_loop(items: Sequence[T]) -> AsyncIterator[T]:
    """Iterate over many items, and let other tasks run in between, so that no notification waits for a sweep."""
    for number, item in enumerate(items, 1):
        yield item
        if number % ITEMS_PER_TURN == 0:
            await asyncio.sleep(0)


def is_stale(bound: BoundSecret, metadata: SecretMetadata | None) -> bool:
    """Whether a binding differs from what AWS reports.

    This compares versions, not times: the label is on another version than the Secret was made from, or the Secret's
    status reports an error that may be over.
    """
    record = bound.record
    if metadata is None:
        return not record.has_reason(SourceNotFound.reason)
    if metadata.pending_deletion:
        return not record.has_reason(SourcePendingDeletion.reason)
    applied = record.version_ids.get(version_key(metadata.arn, bound.spec.stage))
    return record.status != OK or applied != metadata.current(bound.spec.stage)


class Sweeper:
    """Sweeper: groups the bindings by store, and sweeps one store at a time. ``mode``: list or describe."""

    def __init__(self, stores: Stores, secrets: SecretCache, access_policy: AccessPolicy, mode: PollMode) -> None:
        self._stores = stores
        self._secrets = secrets
        self._access_policy = access_policy
        self._mode = mode

    async def bindings_by_store(self) -> Mapping[StoreKey, Sequence[BoundSecret]]:
        """Group the bindings by the store that reads for them, without those that the access policy forbids."""
        by_store: dict[StoreKey, list[BoundSecret]] = {}
        async for bound in yield_to_loop(self._secrets.all()):
            if not self._access_policy.allows(bound):
                continue
            key = self._stores.key(bound.spec.secret_id, bound.target.namespace, bound.spec.account)
            by_store.setdefault(key, []).append(bound)
        return by_store

    async def sweep(
        self,
        key: StoreKey,
        bindings: Sequence[BoundSecret],
        since: datetime | None,
        may_continue: Callable[[], bool],
    ) -> SweepResult:
        """Compare the bindings of one store with AWS: all of them, or those whose secret has changed after ``since``.

        Where the role may not list, it describes. Raises Interrupted once ``may_continue`` returns False.
        """
        store = await self._stores.get(key)
        if self._mode is PollMode.LIST:
            try:
                return await StoreSweep(store, self._secrets, may_continue).by_list(bindings, since)
            except SourceRefused as error:
                _log.info("describing each secret, since listing is refused: %s", error)
        return await StoreSweep(store, self._secrets, may_continue).by_description(bindings)

    def is_current(self, stale: StaleBinding) -> bool:
        """Whether the Secret is still as the sweep saw it."""
        bound = self._secrets.get(stale.target)
        return bound is not None and bound.resource_version == stale.bound.resource_version


class StoreSweep:
    """One sweep over one store, used once. ``may_continue`` is asked around each call to AWS."""

    def __init__(self, store: Store, secrets: SecretCache, may_continue: Callable[[], bool]) -> None:
        self._store = store
        self._secrets = secrets
        self._may_continue = may_continue
        self._result = SweepResult()

    async def by_list(self, bindings: Sequence[BoundSecret], since: datetime | None) -> SweepResult:
        """List what has changed after ``since``, or everything, and describe what the list cannot tell.

        That is each secret that a full list lacks, and always each one whose binding reports an error. Raises
        SourceRefused where the role may not list.
        """
        targets = {bound.target for bound in bindings}
        seen: set[Target] = set()
        async for page in self._pages(since):
            async for metadata in yield_to_loop(page):
                for target in self._secrets.by_secret_id(metadata.arn, metadata.name):
                    bound = self._secrets.get(target)
                    if bound and target in targets:
                        seen.add(target)
                        self._record(bound, metadata)
            await asyncio.sleep(PAGE_PAUSE)
        unseen = [bound for bound in bindings if bound.target not in seen]
        # An error can end without a change of the secret, such as one in its permissions: the list does not show that.
        await self._describe([bound for bound in unseen if since is None or bound.record.status != OK])
        return self._result

    async def by_description(self, bindings: Sequence[BoundSecret]) -> SweepResult:
        """Describe each secret, for a role that may not list.

        Raises Temporary if every call failed with it: then the cause is not one secret.
        """
        if error := await self._describe(bindings):
            raise error
        return self._result

    async def _pages(self, since: datetime | None) -> AsyncIterator[Sequence[SecretMetadata]]:
        last: datetime | None = None
        is_sorted = True
        async for page in self._store.secrets_manager.list_secrets():
            self._check()
            yield page
            for metadata in page:
                changed_at = metadata.changed_at
                if changed_at is None or (last and changed_at > last):
                    is_sorted = False  # not sorted by the last change, as asked: then every page has to be read
                last = changed_at or last
                if changed_at and (self._result.watermark is None or changed_at > self._result.watermark):
                    self._result.watermark = changed_at
            if since and is_sorted and last and last < since - LIST_OVERLAP:
                return
            self._check()

    async def _describe(self, bindings: Sequence[BoundSecret]) -> Temporary | None:
        """Describe the secret of each binding. Returns the last error if every call failed with a Temporary."""
        by_id: dict[str, list[BoundSecret]] = {}
        for bound in bindings:
            by_id.setdefault(bound.spec.secret_id, []).append(bound)
        last_error, failures = None, 0
        for secret_id, same_secret in by_id.items():
            self._check()
            metadata: SecretMetadata | None = None
            try:
                metadata = await self._store.secrets_manager.describe(secret_id, background=True)
            except SourceNotFound:
                pass
            except Temporary as error:
                last_error, failures = error, failures + 1
                continue  # the call itself has counted it; go on with the others
            except KeyturnError:
                continue
            for bound in same_secret:
                self._record(bound, metadata)
        self._check()  # the last answer came after a wait: another replica may be the leader by now
        return last_error if failures == len(by_id) else None

    def _record(self, bound: BoundSecret, metadata: SecretMetadata | None) -> None:
        if is_stale(bound, metadata):
            self._result.stale[bound.target] = StaleBinding(bound, metadata)

    def _check(self) -> None:
        if not self._may_continue():
            raise Interrupted
