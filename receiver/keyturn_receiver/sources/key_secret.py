"""Signing keys from the current, previous and pending versions of an AWS secret."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keyturn_contract.signature import InvalidKey, parse_key
from keyturn_receiver.core.binding import CURRENT, Source
from keyturn_receiver.errors import KeyturnError, NoSigningKey, SourceNotFound, SourceRefused, detached
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.stores import Stores

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

STAGES = (CURRENT, "AWSPREVIOUS", "AWSPENDING")

_log = logging.getLogger(__name__)


class KeySecret:
    """Key source that reads an AWS secret. While the staging labels stay where they are, ``load`` returns the keys of
    the last load without reading the values.

    The values are read again if a staging label has moved, or if a value could not be read at the last load. As long as
    the current key is unusable, or if the role may not describe the secret, each load reads them.
    """

    def __init__(self, stores: Stores, secret_id: str) -> None:
        self.name = f"signing key {secret_id}"
        self._stores = stores
        self._secret_id = secret_id
        self._keys: Sequence[bytes] = ()
        self._version_ids: Mapping[str, str] = {}  # staging label -> id of its version, if the version was readable

    async def load(self) -> Sequence[bytes]:
        """Read the usable keys of all staging labels.

        If the current key is unusable, the other keys are still returned. They are needed to replace the current key:
        during a rotation, the test deliveries are signed only with the pending key. Raises SourceUnavailable if AWS
        does not answer. Raises SourceRefused or NoSigningKey if no staging label has a usable key.
        """
        store = await self._stores.get(self._stores.key(self._secret_id))
        version_ids = await self._describe(store.secrets_manager)
        if version_ids and version_ids == self._version_ids:
            return self._keys
        keys: list[bytes] = []
        errors: dict[str, KeyturnError] = {}  # maps each staging label to its error
        # AWS may put a staging label on a version before the version has a value. Such a version is not remembered, so
        # the next load tries to read it again.
        readable: dict[str, str] = {}
        for stage in version_ids or STAGES:
            try:
                version = await store.secrets_manager.value(Source(self._secret_id, stage))
                readable[stage] = version.version_id
                keys.append(_parse(version.value, self._secret_id, stage))
            except (SourceRefused, NoSigningKey) as error:
                errors[stage] = detached(error)
        if not keys:
            raise next(iter(errors.values()))
        for stage, reason in errors.items():
            # The other staging labels may have no version. This is normal, so there is no warning.
            if stage == CURRENT or isinstance(reason, NoSigningKey):
                _log.warning("%s", reason)
        if CURRENT in errors:
            readable.pop(CURRENT, None)  # not remembered, so each load reads the current version and reports its error
        self._keys, self._version_ids = keys, readable
        return keys

    async def _describe(self, secrets_manager: SecretsManager) -> Mapping[str, str]:
        """Return the version id of each staging label. Return an empty map if the role is not allowed to describe the
        secret."""
        try:
            metadata = await secrets_manager.describe(self._secret_id)
        except SourceNotFound:
            raise
        except SourceRefused:
            return {}
        version_ids = {stage: metadata.current(stage) for stage in STAGES}
        return {stage: version_id for stage, version_id in version_ids.items() if version_id}


def current_key(client: "SecretsManagerClient", secret_id: str) -> bytes:
    """Read only the current key, with a blocking call. Raises the same errors as ``KeySecret.load``."""
    try:
        response = client.get_secret_value(SecretId=secret_id, VersionStage=CURRENT)
    except Exception as error:
        raise error_mapping.translate(error, f"AWS secret {secret_id}") from None  # AWS's own text may quote anything
    return _parse(response.get("SecretString", ""), secret_id, CURRENT)


def _parse(value: str | bytes, secret_id: str, stage: str) -> bytes:
    try:
        return parse_key(value if isinstance(value, str) else "")
    except InvalidKey:
        raise NoSigningKey(
            f"signing key {secret_id} ({stage}) is not of the form whsec_<base64>: put a new one (aws secretsmanager"
            " put-secret-value), or rotate the secret"
        ) from None
