"""One sweep over the bindings of one store: which are behind, by list or secret by secret (docs/design.md#poller)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import OK, version_key
from keyturn_receiver.errors import KeyturnError, SourceNotFound, SourcePendingDeletion, Temporary
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import Store, StoreKey, Stores

# ListSecrets may lag by five minutes: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html
OVERLAP = timedelta(minutes=10)
GENTLY = 20  # items, some tenths of a millisecond
PAUSE = 0.1  # seconds between two pages, each of which takes some milliseconds of everybody's time to read

T = TypeVar("T")


class Interrupted(Exception):
    """This replica does not lead any more: somebody else sweeps."""


@dataclass(frozen=True, slots=True)
class StaleBinding:
    """A binding to be reconciled, as it was at ``resource_version``, and what AWS has told of its secret; None: that
    it is gone."""

    target: Target
    resource_version: str
    listed: SecretMetadata | None


@dataclass(slots=True)
class SweepResult:
    """What a sweep has found, and up to when it has seen everything."""

    behind: dict[Target, StaleBinding] = field(default_factory=dict)
    watermark: datetime | None = None


async def yield_to_loop(items: Sequence[T]) -> AsyncIterator[T]:
    """Go through many items, and let others have their turn now and then: a notification must not wait for it."""
    for number, item in enumerate(items, 1):
        yield item
        if number % GENTLY == 0:
            await asyncio.sleep(0)


async def by_store(
    bound: Sequence[BoundSecret], tenancies: AccessPolicy, stores: Stores
) -> Mapping[StoreKey, Sequence[BoundSecret]]:
    """Sort the bindings that may name what they name by the store that reads for them."""
    found: dict[StoreKey, list[BoundSecret]] = {}
    async for each in yield_to_loop(bound):
        if not tenancies.allow(each):
            continue
        key = stores.key(each.secret_id, each.target.namespace, each.service_account)
        found.setdefault(key, []).append(each)
    return found


def is_stale(bound: BoundSecret, listed: SecretMetadata | None) -> bool:
    """Tell whether a binding is behind what AWS has told.

    Neither by time nor by order: the label is on another version than the one that the Secret was made from, or the
    Secret says that something is wrong, which may be over.
    """
    record = bound.record
    if listed is None:
        return not record.has_reason(SourceNotFound.reason)
    if listed.pending_deletion:
        return not record.has_reason(SourcePendingDeletion.reason)
    return record.status != OK or record.version_ids.get(version_key(listed.arn, bound.stage)) != listed.current(
        bound.stage
    )


class Sweep:
    """Sweeps one store. ``going_on`` is asked before each call: False interrupts."""

    def __init__(self, store: Store, bound: SecretCache, going_on: Callable[[], bool]) -> None:
        self._store = store
        self._bound = bound
        self._going_on = going_on

    async def by_list(self, mine: Sequence[BoundSecret], since: datetime | None) -> SweepResult:
        """List what was changed after ``since``, or everything; what a full list does not have is described, and always
        what may be in error no more.

        Raises SourceRefused where the role may not list.
        """
        found = SweepResult()
        targets = {bound.target for bound in mine}
        seen: set[Target] = set()
        async for page in self._pages(since, found):
            async for listed in yield_to_loop(page):
                for target in self._bound.by_secret_id(listed.arn, listed.name):
                    bound = self._bound.get(target)
                    if bound and target in targets:
                        seen.add(target)
                        self._note(found, bound, listed)
            await asyncio.sleep(PAUSE)
        unseen = [bound for bound in mine if bound.target not in seen]
        # Of one that says that something is wrong AWS's list may tell nothing when it is right again.
        await self._describe([bound for bound in unseen if since is None or bound.record.status != OK], found)
        return found

    async def by_description(self, mine: Sequence[BoundSecret]) -> SweepResult:
        """Ask for each secret alone: for a role that may not list.

        Raises Temporary where AWS has told of none: that is no matter of one secret.
        """
        found = SweepResult()
        if trouble := await self._describe(mine, found):
            raise trouble
        return found

    async def _pages(self, since: datetime | None, found: SweepResult) -> AsyncIterator[Sequence[SecretMetadata]]:
        last: datetime | None = None
        is_sorted = True
        async for page in self._store.secrets_manager.list_secrets():
            self._check()
            yield page
            for listed in page:
                if listed.changed_at is None or (last and listed.changed_at > last):
                    is_sorted = False  # whoever this is, it does not sort as asked: nothing can be left out
                last = listed.changed_at or last
                if listed.changed_at and (found.watermark is None or listed.changed_at > found.watermark):
                    found.watermark = listed.changed_at
            if since and is_sorted and last and last < since - OVERLAP:
                return
            self._check()

    async def _describe(self, mine: Sequence[BoundSecret], found: SweepResult) -> Temporary | None:
        """Ask for each; return what the last failed with, if all of them did and may not another time."""
        by_id: dict[str, list[BoundSecret]] = {}
        for bound in mine:
            by_id.setdefault(bound.secret_id, []).append(bound)
        trouble, failed = None, 0
        for secret_id, bindings in by_id.items():
            self._check()
            listed: SecretMetadata | None = None
            try:
                listed = await self._store.secrets_manager.describe(secret_id, background=True)
            except SourceNotFound:
                pass
            except Temporary as error:
                trouble, failed = error, failed + 1
                continue  # counted where it happened; the others are looked at all the same
            except KeyturnError:
                continue
            for bound in bindings:
                self._note(found, bound, listed)
        self._check()  # what the last answer tells is for whoever leads by now
        return trouble if failed == len(by_id) else None

    def _note(self, found: SweepResult, bound: BoundSecret, listed: SecretMetadata | None) -> None:
        if is_stale(bound, listed):
            found.behind[bound.target] = StaleBinding(bound.target, bound.resource_version, listed)

    def _check(self) -> None:
        if not self._going_on():
            raise Interrupted
