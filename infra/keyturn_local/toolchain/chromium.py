"""Chromium for the tests of the status page. It is the program on the PATH, or the Debian package, which is unpacked
into the cache.

Playwright drives this Chromium. Playwright's own browsers are not downloaded.
"""

import os
import shutil
from pathlib import Path

from keyturn_local.toolchain import cache, debian

KIND = "chromium"  # the folder in the cache
PACKAGES = ("chromium", "fonts-dejavu-core")
ON_PATH = ("chromium", "chromium-browser", "google-chrome")
LAUNCHER = "launch"  # this file in the folder starts the browser with the unpacked libraries and fonts

_LAUNCHER = """#!/bin/sh
# Starts the unpacked browser with the libraries and fonts that were unpacked with it.
export LD_LIBRARY_PATH='{libraries}' FONTCONFIG_FILE='{folder}/fonts.conf'
exec '{folder}/usr/lib/chromium/chromium' "$@"
"""
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/usr/share/fonts</dir><cachedir>{folder}/font-cache</cachedir></fontconfig>
"""


class ChromiumNotFound(RuntimeError):
    """Chromium is not installed, and the Debian package cannot be unpacked. The text gives the reason."""


def resolve() -> Path:
    """Return the path of the program that starts Chromium. If Chromium is not on the PATH, the first call on a machine
    downloads about 150 MB. Raises ChromiumNotFound."""
    for name in ON_PATH:
        if found := shutil.which(name):
            return Path(found)
    final = cache.folder(KIND) / debian.release()

    def unpack(folder: Path) -> None:
        debian.unpack(debian.closure(PACKAGES), folder)
        _write_launcher(folder, final)

    try:
        return cache.filled(final, unpack) / LAUNCHER
    except debian.PackageNotFound as error:
        raise ChromiumNotFound(f"no Chromium on the PATH, and none to unpack: {error}") from None


def _write_launcher(folder: Path, final: Path) -> None:
    """Write the launcher into ``folder``. The folder is later renamed to ``final``, so the launcher has to use the name
    ``final``."""
    libraries = ":".join(str(final / each.relative_to(folder)) for each in _libraries(folder))
    (folder / "fonts.conf").write_text(_FONTS.format(folder=final))
    launcher = folder / LAUNCHER
    launcher.write_text(_LAUNCHER.format(folder=final, libraries=libraries))
    launcher.chmod(0o755)


def _libraries(folder: Path) -> list[Path]:
    """Return the folders with shared libraries: the folders that ``debian.libraries`` returns, and their subfolders.
    Some packages, such as PulseAudio, have libraries in a subfolder."""
    found = debian.libraries(folder)
    return [*found, *sorted({each.parent for root in found for each in root.glob("*/lib*.so*")})]


if __name__ == "__main__":
    os.execv(resolve(), [str(resolve()), "--version"])  # noqa: S606 - fills the cache, and shows what is in it
