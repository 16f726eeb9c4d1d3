"""Record key: the secret key with which the keyed hashes on bound and watched Secrets are made. All replicas read the
record key from one Secret of the release."""

import asyncio
import hmac
import logging
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.core.field_owners import FIELD_MANAGER
from keyturn_receiver.errors import Conflict, KeyturnError, NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.telemetry.logs import RepeatedWarnings

KEY = "key"  # the key in the Secret's data under which the record key is stored
KEY_BYTES = 32
CHECK_INTERVAL = 60.0  # seconds between two reads of the Secret
RETRY_INTERVAL = 1.0  # seconds between two reads until the record key is known

_log = logging.getLogger(__name__)


class RecordKey:
    """Keyed hash (HMAC-SHA256). A call raises RuntimeError if no key is set."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def __call__(self, content: bytes) -> str:
        if not self._key:
            raise RuntimeError("the record key is not known yet")
        return hmac.digest(self._key, content, "sha256").hex()

    @property
    def value(self) -> bytes:
        """The key itself. It is empty if no key is set."""
        return self._key

    def set(self, key: bytes) -> None:
        """Use ``key`` from now on."""
        self._key = key


@dataclass(frozen=True, slots=True)
class _Stored:
    """The Secret as it was read: its metadata and the record key. ``key`` is empty if the Secret has no record key, or
    if its record key is too short."""

    metadata: Json
    key: bytes


class RecordKeyClient:
    """Client for the Secret that holds the record key. The chart creates this Secret, without a record key."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._path = path("v1", "secrets", namespace, name)
        self.name = f"{namespace}/{name}"

    async def read(self) -> _Stored:
        """Read the Secret and its record key. Raises NotFound, or another error of the API client."""
        obj = await self._api.request("GET", self._path)
        try:
            key = b64decode((obj.get("data") or {}).get(KEY, ""))
        except ValueError:
            key = b""
        return _Stored(obj["metadata"], key if len(key) >= KEY_BYTES else b"")

    async def write(self, stored: _Stored, key: bytes) -> None:
        """Write the record key. Raises Conflict if the Secret has changed since it was read."""
        metadata = {name: stored.metadata[name] for name in ("uid", "resourceVersion")}
        body: Json = {"metadata": metadata, "data": {KEY: b64encode(key).decode()}}
        query = {"fieldManager": FIELD_MANAGER}
        await self._api.request("PATCH", self._path, query, body, content_type=MERGE_PATCH)


class RecordKeyMonitor:
    """Record key monitor. It reads the record key every CHECK_INTERVAL seconds. It calls ``on_change`` if a known
    record key was replaced by another one.

    If the Secret has no record key, the first replica that notices this writes one: the record key that it knows, or
    else a new one. ``synced`` is set once the record key is known.
    """

    def __init__(
        self,
        client: RecordKeyClient,
        key: RecordKey,
        on_change: Callable[[], None],
        ping: Ping = no_ping,
    ) -> None:
        self._client = client
        self._key = key
        self._on_change = on_change
        self._ping = ping
        self._warnings = RepeatedWarnings(_log)
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Read the key until cancelled."""
        while True:
            self._ping()
            try:
                await self._load()
                self._warnings.over("key")
            except Conflict:
                pass  # another replica has written a key at the same time, and the next read returns it
            except NotFound:
                self._warnings.warning(
                    "key", f"Secret {self._client.name} is missing: create it again, empty, for example by helm upgrade"
                )
            except KeyturnError as error:
                self._warnings.warning("key", f"the record key cannot be read: {error}")
            pause = CHECK_INTERVAL if self.synced.is_set() else RETRY_INTERVAL
            self._ping(pause)
            await asyncio.sleep(pause)

    async def _load(self) -> None:
        stored = await self._client.read()
        key = stored.key
        if not key:
            key = self._key.value or secrets.token_bytes(KEY_BYTES)
            await self._client.write(stored, key)
            _log.info("wrote the record key into Secret %s", self._client.name)
        if key == self._key.value:
            return
        changed = bool(self._key.value)
        self._key.set(key)
        self.synced.set()
        if changed:
            _log.warning("the record key has changed: each bound Secret is filled again")
            self._on_change()
