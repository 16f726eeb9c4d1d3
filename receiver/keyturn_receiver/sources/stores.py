"""Stores: which identity reads in which region, and what it reads with. Credentials are never shared between them."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.resilience.single_flight import RESULT_TTL, SingleFlight
from keyturn_receiver.sources.batch_reader import BatchReader
from keyturn_receiver.sources.secrets_manager import NOT_TRIED, SecretMetadata, SecretsManager

MOST = 64  # stores held at once beside the receiver's own; a client takes about a megabyte
RENEW = timedelta(minutes=5)  # before credentials run out


@dataclass(frozen=True, slots=True, order=True)
class StoreKey:
    """Who reads where: ``account`` is a tenant's ServiceAccount as "namespace/name", empty for the receiver itself."""

    account: str
    region: str


@dataclass(frozen=True, slots=True)
class Store:
    """One identity in one region. What is wanted by many at once is read once."""

    key: StoreKey
    secrets_manager: SecretsManager
    values: BatchReader
    expires_at: datetime | None = None

    @classmethod
    def of(cls, key: StoreKey, secrets_manager: SecretsManager, expires_at: datetime | None = None) -> "Store":
        """Put one together."""
        return cls(key, secrets_manager, BatchReader(secrets_manager), expires_at)


class Stores:
    """Gives stores, made when they are first asked for by ``make``; a tenant's is made anew before it expires."""

    def __init__(self, make: Callable[[StoreKey], Awaitable[Store]], default_region: str) -> None:
        self._make = make
        self._default_region = default_region
        self._stores: OrderedDict[StoreKey, Store] = OrderedDict()
        self._makings: SingleFlight[StoreKey, Store] = SingleFlight()
        self._reads: SingleFlight[tuple[StoreKey, Source], SecretVersion] = SingleFlight()
        self._descriptions: SingleFlight[tuple[StoreKey, str], SecretMetadata] = SingleFlight()

    def key(self, secret_id: str = "", namespace: str = "", service_account: str = "") -> StoreKey:
        """The key of the store that reads an AWS secret: where its ARN says, or else in the receiver's own region; with
        the role of a ServiceAccount, or else with the receiver's own."""
        account = f"{namespace}/{service_account}" if service_account else ""
        return StoreKey(account, region(secret_id) or self._default_region)

    def credentials_fault(self) -> str | None:
        """What is wrong with the receiver's own credentials; None: they work."""
        store = next((store for key, store in self._stores.items() if not key.account), None)
        return store.secrets_manager.credentials_fault if store else NOT_TRIED

    async def get(self, key: StoreKey) -> Store:
        """Give a store that can read now.

        Raises what making it raises: where a tenant's role fails, nobody else's credentials stand in.
        """
        store = self._stores.get(key)
        if store and (store.expires_at is None or store.expires_at - datetime.now(UTC) > RENEW):
            self._stores.move_to_end(key)
            return store
        # One that was made a moment ago will do, and so will the refusal of a moment ago.
        store = await self._makings.get(key, time.monotonic() - RESULT_TTL, lambda: self._make(key))
        self._stores[key] = store
        foreign = [each for each in self._stores if each != StoreKey("", self._default_region)]
        for oldest in foreign[:-MOST]:
            del self._stores[oldest]
        return store

    async def read(self, key: StoreKey, source: Source, since: float, patient: bool = False) -> SecretVersion:
        """Read a value, no older than ``since`` (monotonic seconds); ``patient``: somewhat later will do.

        Raises SourceRefused or SourceUnavailable.
        """

        async def read() -> SecretVersion:
            return await (await self.get(key)).values.read(source, patient)

        return await self._reads.get((key, source), since, read)

    async def describe(self, key: StoreKey, secret_id: str, since: float) -> SecretMetadata:
        """Describe a secret, as of ``since`` or later. Raises SourceRefused or SourceUnavailable."""

        async def describe() -> SecretMetadata:
            return await (await self.get(key)).secrets_manager.describe(secret_id)

        return await self._descriptions.get((key, secret_id), since, describe)
