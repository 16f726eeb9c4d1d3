"""Stores. A store reads AWS secrets as one identity in one region. Two identities never share credentials."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, NoCredentials, Permanent
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.single_flight import RESULT_TTL, SingleFlight
from keyturn_receiver.sources.batch_reader import BatchReader
from keyturn_receiver.sources.secrets_manager import NOT_CHECKED, SecretMetadata, SecretsManager
from keyturn_receiver.sources.thread_pools import SEVERAL

MAX_STORES = 4096  # number of stores besides the receiver's own store in its region; each takes about 10 KiB
MAX_STORES_PER_NAMESPACE = 2048  # number of these stores that one namespace may use
MAX_KEPT_VALUES = 8 * 1024 * 1024  # characters or bytes; values are kept so that all bindings of one event share them
MAX_NAMED = 10_000  # number of secrets that ``_named_by`` remembers
RENEW_BEFORE_EXPIRY = timedelta(minutes=5)
RENEW_AFTER = 0.75  # credentials that are valid for less than 20 minutes are renewed after this share of their lifetime


@dataclass(frozen=True, slots=True, order=True)
class StoreKey:
    """An identity in a region.

    ``account`` is a tenant's ServiceAccount ("namespace/name"), or empty for the receiver's own identity.
    """

    account: str
    region: str

    @property
    def namespace(self) -> str:
        """The tenant's namespace. It is empty for the receiver's own identity."""
        return self.account.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that the ServiceAccount of a ``StoreKey`` has now: the UID of the ServiceAccount, and the AWS role
    in its annotation.

    If a namespace is deleted and created again, a new ServiceAccount may have the same name, but it has another UID.
    """

    uid: str
    role_arn: str


OWN = Identity("", "")  # the receiver's own identity


@dataclass(frozen=True, slots=True)
class Store:
    """The client, the credentials and the health of one identity in one region.

    ``reader`` reads values in batches. ``renew_at`` is the time at which the credentials are renewed. It is None if the
    SDK renews them.
    """

    key: StoreKey
    secrets_manager: SecretsManager
    reader: BatchReader
    renew_at: datetime | None = None
    identity: Identity = OWN

    @classmethod
    def of(
        cls,
        key: StoreKey,
        secrets_manager: SecretsManager,
        expires_at: datetime | None = None,
        identity: Identity = OWN,
    ) -> "Store":
        """Build a store with a reader of its own. The credentials were issued just now, and are valid until
        ``expires_at``."""
        renew_at = None
        if expires_at:
            lifetime = expires_at - datetime.now(UTC)
            # If credentials are valid for only a few minutes, the second limit keeps them from being renewed at each
            # use.
            renew_at = expires_at - min(RENEW_BEFORE_EXPIRY, (1 - RENEW_AFTER) * lifetime)
        return cls(key, secrets_manager, BatchReader(secrets_manager), renew_at, identity)

    @property
    def is_fresh(self) -> bool:
        """Whether the credentials do not need a renewal yet."""
        return self.renew_at is None or datetime.now(UTC) < self.renew_at


class Stores:
    """Client pool. It holds the stores by identity and region.

    ``create`` builds a store in three cases: when the pool does not hold the store, before its credentials expire, and
    after its identity has changed. ``identify`` looks up the current identity of a tenant's store. Concurrent requests
    for the same store, value or metadata share one call.
    """

    def __init__(
        self,
        create: Callable[[StoreKey, Identity], Awaitable[Store]],
        default_region: str,
        identify: Callable[[StoreKey], Awaitable[Identity]],
    ) -> None:
        self._create = create
        self._identify = identify
        self._default_region = default_region
        self._own: Store | None = None  # the receiver's own store in its own region, which is never evicted
        self._own_error: str | None = NOT_CHECKED  # the reason why the receiver's own store could not be created
        # The groups are namespaces. The stores of a group are in the order in which they were last used.
        self._others: FairMap[str, StoreKey, Store] = FairMap(MAX_STORES)
        self._identities: SingleFlight[str, Identity] = SingleFlight()  # by ``StoreKey.account``
        self._creations: SingleFlight[tuple[StoreKey, Identity], Store] = SingleFlight()
        self._reads: SingleFlight[tuple[StoreKey, Identity, Source, str], SecretVersion] = SingleFlight(
            weigh=lambda version: len(version.value), max_weight=MAX_KEPT_VALUES
        )
        self._descriptions: SingleFlight[tuple[StoreKey, Identity, str, str], SecretMetadata] = SingleFlight()
        self._named_by: BoundedMap[tuple[StoreKey, str], str] = BoundedMap(MAX_NAMED, lru=True)

    def key(self, secret_id: str = "", namespace: str = "", service_account: str = "") -> StoreKey:
        """Return the key of the store that reads an AWS secret.

        The region is the region in the secret's ARN. If ``secret_id`` is a bare name, it is the receiver's own region.
        The identity is the role of the ServiceAccount. If no ServiceAccount is given, it is the receiver's own role.
        """
        account = f"{namespace}/{service_account}" if service_account else ""
        return StoreKey(account, region(secret_id) or self._default_region)

    def credentials_error(self) -> str | None:
        """Return the reason why the receiver's own credentials do not work, or None if they work.

        Only the receiver's own store in its own region decides this, because bindings choose the other stores.
        """
        return self._own.secrets_manager.credentials_error if self._own else self._own_error

    async def get(self, key: StoreKey, since: float | None = None) -> Store:
        """Return the store of ``key``, with valid credentials for the identity of ``key``.

        For a tenant, the look-up of the identity has started at ``since`` or later. ``since`` is in monotonic seconds,
        and None means now. Raises the errors of ``create`` and of ``identify``. If a tenant's role cannot be assumed,
        no other identity is used instead.
        """
        identity = await self._identity(key, time.monotonic() if since is None else since) if key.account else OWN
        is_own = key == self.key()
        store = self._own if is_own else self._others.get(key.namespace, key)
        if store and store.identity == identity and store.is_fresh:
            if not is_own:
                self._keep(store)  # the store is now the most recently used one
            return store
        # If the store was created within the last RESULT_TTL seconds, the callers share this store. If its creation
        # failed, they share the error.
        try:
            store = await self._creations.get(
                (key, identity), time.monotonic() - RESULT_TTL, lambda: self._create(key, identity)
            )
        except KeyturnError as error:
            if is_own:
                self._own_error = error.fault if isinstance(error, NoCredentials) else str(error)
            raise
        if is_own:
            self._own = store
        else:
            self._keep(store)
        return store

    def _keep(self, store: Store) -> None:
        """Keep a store that a binding names. If its namespace has too many stores, the least recently used store of
        this namespace is dropped. If there are too many stores in all, the least recently used store of the namespace
        with the most stores is dropped."""
        namespace = store.key.namespace
        self._others.put(namespace, store.key, store)
        if self._others.size(namespace) > MAX_STORES_PER_NAMESPACE:
            self._others.pop_oldest(namespace)

    async def _identity(self, key: StoreKey, since: float) -> Identity:
        try:
            return await self._identities.get(key.account, since, lambda: self._identify(key))
        except Permanent:
            # The ServiceAccount no longer exists, or no longer names a role.
            for each in self._others.of(key.namespace):
                if each.account == key.account:
                    self._others.pop(key.namespace, each)
            raise

    async def read(
        self, key: StoreKey, source: Source, since: float, background: bool = False, namespace: str = ""
    ) -> SecretVersion:
        """Return a value for a binding in ``namespace``. The read of the value started at ``since`` (monotonic seconds)
        or later.

        A ``background`` read may take a little longer. Raises SourceRefused, SourceUnavailable or the errors of
        ``get``.
        """
        store = await self.get(key, since)
        owner = self._owner(key, source.secret_id, namespace)
        return await self._reads.get(
            (key, store.identity, source, owner), since, lambda: store.reader.read(source, background, owner)
        )

    async def describe(self, key: StoreKey, secret_id: str, since: float, namespace: str = "") -> SecretMetadata:
        """Return a secret's metadata for a binding in ``namespace``. The read of the metadata started at ``since``
        (monotonic seconds) or later.

        Raises SourceRefused, SourceUnavailable or the errors of ``get``.
        """
        store = await self.get(key, since)
        owner = self._owner(key, secret_id, namespace)
        return await self._descriptions.get(
            (key, store.identity, secret_id, owner),
            since,
            lambda: store.secrets_manager.describe(secret_id, namespace=owner),
        )

    def _owner(self, key: StoreKey, secret_id: str, namespace: str) -> str:
        """Return the namespace that a call counts for, or SEVERAL if another namespace also names the secret.

        A call for SEVERAL counts for no single namespace. Otherwise a binding could have to wait because another
        namespace has used up its share.
        """
        if not namespace or key.account:
            return namespace
        known = self._named_by.get((key, secret_id)) or namespace
        owner = namespace if known == namespace else SEVERAL
        self._named_by.put((key, secret_id), owner)
        return owner
