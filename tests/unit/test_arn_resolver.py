"""Resolver of ARNs that can be read in two ways: what it remembers tells nobody whether a secret exists."""

from typing import Any

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceView
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.errors import KeyturnError, SourceRefused, SourceUnavailable
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ANSWER_TTL, ArnResolver
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import OWN, Identity, Store, StoreKey
from support.clock import FakeClock

pytestmark = pytest.mark.anyio
PLACE = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"
KEY = StoreKey("", "eu-west-1")


class SecretsManagerPort:
    """A fake client for Secrets Manager that only makes an error message."""

    def not_found(self, secret_id: str) -> KeyturnError:
        return error_mapping.not_found(f"AWS secret {secret_id}", "in eu-west-1")


class Stores:
    """Fake stores. ``secrets`` maps ARNs to names. ``described`` has the ARNs that AWS was asked for."""

    def __init__(self, **secrets: str) -> None:
        self.secrets = {PLACE + resource.replace("_", "-"): name for resource, name in secrets.items()}
        self.described: list[str] = []
        self.error: Exception | None = None
        self.identity = OWN

    async def get(self, key: StoreKey, since: float | None = None) -> Store:
        nothing: Any = None
        port: Any = SecretsManagerPort()
        return Store(key, port, nothing, None, self.identity)

    async def describe(self, key: StoreKey, secret_id: str, since: float, namespace: str) -> SecretMetadata:
        self.described.append(secret_id)
        if self.error:
            raise self.error
        if secret_id not in self.secrets:
            raise error_mapping.not_found(f"AWS secret {secret_id}")
        return SecretMetadata(secret_id, self.secrets[secret_id], {})


class Setting:
    def __init__(self, stores: Stores) -> None:
        namespaces = NamespaceCache()
        for team in ("one", "two"):
            namespaces.update(NamespaceView(team, {"keyturn.dev/allow-secrets": "db"}))
        policy = AccessPolicy(namespaces, Default.DENY, True, Regions("aws", frozenset({"eu-west-1"})))
        self.clock = FakeClock()
        port: Any = stores
        self.resolver = ArnResolver(port, policy, self.clock)

    async def check(self, resource: str, namespace: str = "one", **more: bool) -> str:
        try:
            await self.resolver.check(KEY, namespace, "", PLACE + resource, 0.0, **more)
        except (SourceRefused, SourceUnavailable) as error:
            return f"{type(error).__name__}: {error}".replace(resource, "...")
        return "allowed"


async def test_forbidden_secret_and_missing_one_look_the_same_in_words_and_calls() -> None:
    stores = Stores(db_master="db-master")
    setting = Setting(stores)
    words = set()
    for resource in ("db-master", "db-absent"):
        before = len(stores.described)
        words |= {await setting.check(resource) for _ in range(5)}
        assert len(stores.described) == before + 1
        setting.clock.advance(ANSWER_TTL)
        words.add(await setting.check(resource))
        assert len(stores.described) == before + 2
    assert len(words) == 1
    assert words.pop().startswith("SourceNotFound: ")


async def test_allowed_reading_passes() -> None:
    assert await Setting(Stores(db_master="db")).check("db-master") == "allowed"


async def test_answer_is_remembered_for_its_own_namespace_and_identity() -> None:
    stores = Stores(db_master="db")
    setting = Setting(stores)
    await setting.check("db-master", "one")
    await setting.check("db-master", "two")
    stores.identity = Identity("another uid", "role")
    await setting.check("db-master", "one")
    assert len(stores.described) == 3


async def test_temporary_error_is_not_remembered() -> None:
    stores = Stores(db_master="db")
    setting = Setting(stores)
    stores.error = SourceUnavailable("throttled")
    assert (await setting.check("db-master")).startswith("SourceUnavailable")
    stores.error = None
    assert await setting.check("db-master") == "allowed"


async def test_deletion_never_relies_on_a_remembered_answer() -> None:
    stores = Stores()
    setting = Setting(stores)
    assert (await setting.check("db-master")).startswith("SourceNotFound")
    stores.secrets = {PLACE + "db-master": "db"}
    assert await setting.check("db-master", remembered=False) == "allowed"
