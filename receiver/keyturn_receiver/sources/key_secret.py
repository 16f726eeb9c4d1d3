"""Signing keys in an AWS secret: its current, previous and pending version."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keyturn_contract.signature import InvalidKey, parse_key
from keyturn_receiver.core.binding import CURRENT, Source
from keyturn_receiver.errors import NoSigningKey, SourceNotFound, SourceRefused
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.stores import Stores

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

STAGES = (CURRENT, "AWSPREVIOUS", "AWSPENDING")

_log = logging.getLogger(__name__)


class KeySecret:
    """The keys in one AWS secret; values are read only when its versions have changed."""

    def __init__(self, stores: Stores, secret_id: str) -> None:
        self.name = f"signing key {secret_id}"
        self._stores = stores
        self._secret_id = secret_id
        self._keys: Sequence[bytes] = ()
        self._versions: Mapping[str, str] = {}

    async def look(self) -> Sequence[bytes]:
        """Give the keys that are valid now.

        Raises SourceRefused, SourceUnavailable or NoSigningKey when there is no usable current key.
        """
        store = await self._stores.get(self._stores.key(self._secret_id))
        versions = await self._labelled(store.secrets_manager)
        if versions and versions == self._versions:
            return self._keys
        keys: list[bytes] = []
        read: dict[str, str] = {}  # AWS may label a version before it has a value: that is looked at again
        for stage in versions or STAGES:
            try:
                version = await store.secrets_manager.value(Source(self._secret_id, stage))
                read[stage] = version.version_id
                keys.append(_parse(version.value, self._secret_id, stage))
            except SourceRefused:
                if stage == CURRENT:
                    raise
            except NoSigningKey as error:
                if stage == CURRENT:
                    raise
                _log.warning("%s", error)
        self._keys, self._versions = keys, read
        return keys

    async def _labelled(self, secrets_manager: SecretsManager) -> Mapping[str, str]:
        """The versions that hold the labels, by label; empty where the role may not describe the secret."""
        try:
            described = await secrets_manager.describe(self._secret_id)
        except SourceNotFound:
            raise
        except SourceRefused:
            return {}
        current = {stage: described.current(stage) for stage in STAGES}
        return {stage: version_id for stage, version_id in current.items() if version_id}


def current_key(client: "SecretsManagerClient", secret_id: str) -> bytes:
    """Read the current key alone, and wait for it. Raises as ``KeySecret.look``."""
    try:
        answer = client.get_secret_value(SecretId=secret_id, VersionStage=CURRENT)
    except Exception as error:
        raise error_mapping.translate(error, f"AWS secret {secret_id}") from None  # AWS's own text is not ours to show
    return _parse(answer.get("SecretString", ""), secret_id, CURRENT)


def _parse(value: str | bytes, secret_id: str, stage: str) -> bytes:
    try:
        return parse_key(value if isinstance(value, str) else "")
    except InvalidKey:
        raise NoSigningKey(
            f"signing key {secret_id} ({stage}) is not of the form whsec_<base64>: make a new one"
        ) from None
