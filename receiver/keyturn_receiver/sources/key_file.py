"""Signing keys in a file, one a line: a mounted Kubernetes Secret, which the kubelet replaces under way."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from keyturn_contract.signature import InvalidKey, parse_key
from keyturn_receiver.errors import NoSigningKey

_log = logging.getLogger(__name__)


class KeyFile:
    """The keys in one file, read anew at each look: it is small, and what a link leads to may have changed."""

    def __init__(self, path: Path) -> None:
        self.name = f"signing key file {path}"
        self._path = path

    async def look(self) -> Sequence[bytes]:
        """Give the keys that are in it now. Raises NoSigningKey."""
        return await asyncio.to_thread(read_keys, self._path)


def read_keys(path: Path) -> Sequence[bytes]:
    """Read the keys, in their order; a line that is none is passed over with a warning. Raises NoSigningKey."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NoSigningKey(
            f"signing key file {path} is not there: create the Kubernetes Secret that is mounted there, with one key"
            " (whsec_...) a line"
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
            form = "of the form whsec_<base64>: correct it, or take it out"
            _log.warning("line %d of signing key file %s is not %s", number, path, form)
    if not keys:
        raise NoSigningKey(f"signing key file {path} holds no key: write one (whsec_...) a line into it")
    return keys
