"""Signing keys from a file that has one key per line. If the file is in a mounted Secret, the kubelet may replace the
file while the receiver runs."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from keyturn_contract.signature import InvalidKey, parse_key
from keyturn_receiver.errors import NoSigningKey

_log = logging.getLogger(__name__)


class KeyFile:
    """Key source that reads a file.

    Every load reads the whole file again, because the file is small, and the target of a symbolic link in its path may
    have changed.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"signing key file {path}"
        self._path = path

    async def load(self) -> Sequence[bytes]:
        """Read the keys. Raises NoSigningKey."""
        return await asyncio.to_thread(read_keys, self._path)


def read_keys(path: Path) -> Sequence[bytes]:
    """Read the keys in the order of the file. Raises NoSigningKey if the file has no usable key.

    A malformed line is skipped, and a warning is logged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NoSigningKey(
            f"signing key file {path} does not exist: create the Kubernetes Secret that is mounted there, with one key"
            " (whsec_...) per line"
        ) from None
    except OSError as error:
        raise NoSigningKey(
            f"signing key file {path} cannot be read ({type(error).__name__}): it must be a file that the receiver may"
            " read"
        ) from None
    keys: list[bytes] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            keys.append(parse_key(line.decode(errors="replace")))
        except InvalidKey:
            _log.warning(
                "line %d of signing key file %s is not of the form whsec_<base64>: correct or remove it", number, path
            )
    if not keys:
        raise NoSigningKey(f"signing key file {path} holds no key: write one (whsec_...) per line into it")
    return keys
