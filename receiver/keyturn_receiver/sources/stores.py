"""Stores: one AWS client for each identity and region. They never share credentials."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.single_flight import RESULT_TTL, SingleFlight
from keyturn_receiver.sources.batch_reader import BatchReader
from keyturn_receiver.sources.secrets_manager import NOT_CHECKED, SecretMetadata, SecretsManager

MAX_STORES = 64  # beside the receiver's own in its region; each takes about 1 MB
RENEW_BEFORE_EXPIRY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, order=True)
class StoreKey:
    """An identity in a region. ``account``: a tenant's ServiceAccount ("namespace/name"), or empty for the receiver."""

    account: str
    region: str


@dataclass(frozen=True, slots=True)
class Store:
    """AWS client of one identity in one region.

    ``reader`` batches its reads. ``expires_at``: when its credentials expire, or None if the SDK renews them.
    """

    key: StoreKey
    secrets_manager: SecretsManager
    reader: BatchReader
    expires_at: datetime | None = None

    @classmethod
    def of(cls, key: StoreKey, secrets_manager: SecretsManager, expires_at: datetime | None = None) -> "Store":
        """Build a store with a reader of its own."""
        return cls(key, secrets_manager, BatchReader(secrets_manager), expires_at)

    @property
    def is_fresh(self) -> bool:
        """Whether the credentials are valid for at least RENEW_BEFORE_EXPIRY."""
        return self.expires_at is None or self.expires_at - datetime.now(UTC) > RENEW_BEFORE_EXPIRY


class Stores:
    """Client pool: stores by identity and region. ``create`` builds one at its first use, and before it expires.

    Concurrent calls for the same thing share one call to AWS.
    """

    def __init__(self, create: Callable[[StoreKey], Awaitable[Store]], default_region: str) -> None:
        self._create = create
        self._default_region = default_region
        self._own: Store | None = None  # the receiver's own in its region: never evicted
        self._others: BoundedMap[StoreKey, Store] = BoundedMap(MAX_STORES, lru=True)
        self._creations: SingleFlight[StoreKey, Store] = SingleFlight()
        self._reads: SingleFlight[tuple[StoreKey, Source], SecretVersion] = SingleFlight()
        self._descriptions: SingleFlight[tuple[StoreKey, str], SecretMetadata] = SingleFlight()

    def key(self, secret_id: str = "", namespace: str = "", service_account: str = "") -> StoreKey:
        """The key of the store that reads an AWS secret.

        The region is the one in the secret's ARN, or else the receiver's; the identity is the ServiceAccount's role, or
        else the receiver's own.
        """
        account = f"{namespace}/{service_account}" if service_account else ""
        return StoreKey(account, region(secret_id) or self._default_region)

    def credentials_error(self) -> str | None:
        """Why the receiver's own credentials do not work; None if they do."""
        store = self._own
        if store is None:  # a store of another region may have used the same credentials
            key = next((key for key in self._others if not key.account), None)
            store = self._others.get(key) if key else None
        return store.secrets_manager.credentials_error if store else NOT_CHECKED

    async def get(self, key: StoreKey) -> Store:
        """Return a store with valid credentials.

        Raises the errors of ``create``: where a tenant's role fails, no other identity reads instead.
        """
        is_own = key == StoreKey("", self._default_region)
        store = self._own if is_own else self._others.get(key)
        if store and store.is_fresh:
            return store
        # A store created within RESULT_TTL, or the refusal of one, is shared.
        store = await self._creations.get(key, time.monotonic() - RESULT_TTL, lambda: self._create(key))
        if is_own:
            self._own = store
        else:
            self._others.put(key, store)
        return store

    async def read(self, key: StoreKey, source: Source, since: float, background: bool = False) -> SecretVersion:
        """Read a value, as of ``since`` (monotonic seconds) or later. A ``background`` read may take a little longer.

        Raises SourceRefused or SourceUnavailable.
        """

        async def read() -> SecretVersion:
            return await (await self.get(key)).reader.read(source, background)

        return await self._reads.get((key, source), since, read)

    async def describe(self, key: StoreKey, secret_id: str, since: float) -> SecretMetadata:
        """Describe a secret, as of ``since`` (monotonic seconds) or later.

        Raises SourceRefused or SourceUnavailable.
        """

        async def describe() -> SecretMetadata:
            return await (await self.get(key)).secrets_manager.describe(secret_id)

        return await self._descriptions.get((key, secret_id), since, describe)
