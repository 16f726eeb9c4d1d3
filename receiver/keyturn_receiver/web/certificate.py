"""The server's TLS certificate. It is reloaded when its files change."""

import asyncio
import logging
import ssl
from pathlib import Path

CHECK_SECONDS = 10.0  # seconds between two checks of the files

_log = logging.getLogger(__name__)


class ReloadingCertificate:
    """A certificate and its key, from two files. They are reloaded when the files change. If the files are in a mounted
    Secret, they change when the Secret changes.

    ``context`` is for the next connection. With new files it is a new object, because a context keeps one certificate
    for each type of key. Open connections keep the old certificate.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._versions = self._file_versions()
        self.context = _tls_context(self._files)

    def reload_if_changed(self) -> None:
        """If the files have changed, load them for new connections.

        The two files may not match, for example because only one of them has been replaced so far. In this case the old
        certificate stays in use, and a warning is logged.
        """
        try:
            versions = self._file_versions()
            if versions == self._versions:
                return
            self.context = _tls_context(self._files)
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
        # stat() follows the symbolic links of a mounted Secret. So it also notices a change when the kubelet replaces
        # the Secret's directory.
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in self._files)]


def _tls_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*files)
    return context
