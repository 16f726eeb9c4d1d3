"""The AWS layer: the stores of secrets, and the keys that verify deliveries."""

from dataclasses import dataclass

from keyturn_receiver.cluster.service_account_client import ServiceAccountClient
from keyturn_receiver.composition.kubernetes import Kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.sources import clients
from keyturn_receiver.sources.key_file import KeyFile
from keyturn_receiver.sources.key_secret import KeySecret
from keyturn_receiver.sources.signing_keys import KeySource, SigningKeys
from keyturn_receiver.sources.stores import Stores
from keyturn_receiver.store_factory import StoreFactory


@dataclass(frozen=True, slots=True)
class Aws:
    """The stores of secrets, and the keys that verify deliveries."""

    stores: Stores
    signing_keys: SigningKeys


def build_aws(process: Process, kube: Kubernetes) -> Aws:
    """Build the stores and the signing keys."""
    settings = process.settings
    own_region = clients.default_region() or ""
    service_accounts = ServiceAccountClient(kube.api)
    factory = StoreFactory(
        settings, process.pools, service_accounts, process.metrics, clients.own_identity(), own_region
    )
    stores = Stores(factory.make, own_region, factory.identify)
    key_sources: list[KeySource] = []
    if settings.signing_key_secret_id:
        key_sources.append(KeySecret(stores, settings.signing_key_secret_id))
    if settings.signing_key_file:
        key_sources.append(KeyFile(settings.signing_key_file))
    return Aws(stores, SigningKeys(key_sources))
