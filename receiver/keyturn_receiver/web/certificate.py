"""The server's TLS certificate, which is reloaded when its files change."""

import asyncio
import logging
import ssl
from pathlib import Path

CHECK_SECONDS = 10.0  # time between two checks for changed files

_log = logging.getLogger(__name__)


class ReloadingCertificate:
    """Certificate and key from two files. They are reloaded when the files change, as in a mounted Secret.

    ``context`` stays the same object. New connections use the new certificate, and open connections keep theirs.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._versions = self._file_versions()
        self.context = _tls_context(self._files)

    def reload_if_changed(self) -> None:
        """Load changed files for new connections.

        If the files do not match, for example because only one has been replaced so far, the old certificate stays in
        use and a warning is logged.
        """
        try:
            versions = self._file_versions()
            if versions == self._versions:
                return
            _tls_context(self._files)  # try them in another context first: `context` must never hold half of a new pair
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            _log.warning("new certificate cannot be used, keeping the old one: %s", type(error).__name__)
            return
        self._versions = versions
        _log.info("new certificate in use")

    async def run(self) -> None:
        """Check for changed files every CHECK_SECONDS."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.reload_if_changed()

    def _file_versions(self) -> list[tuple[int, int, int]]:
        # stat() follows the symbolic links of a mounted Secret, so an atomic swap of its directory shows here.
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in self._files)]


def _tls_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*files)
    return context
