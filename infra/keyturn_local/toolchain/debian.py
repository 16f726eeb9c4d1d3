"""Debian packages from the package sources of the machine. They are unpacked into the cache. They are not installed.

apt verifies each package that it downloads. On a machine without apt, the programs have to be on the PATH.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from keyturn_local.toolchain import cache

KIND = "debian"  # the folder in the cache
RELEASE = Path("/etc/os-release")


class PackageNotFound(RuntimeError):
    """A package is not available. The text gives the reason."""


def unpacked(*packages: str) -> Path:
    """Return a folder with the files of these packages. Their dependencies are not included. Raises PackageNotFound."""
    final = cache.folder(KIND) / f"{release()}-{'+'.join(packages)}"
    return cache.filled(final, lambda folder: unpack(packages, folder))


def unpack(packages: Iterable[str], folder: Path) -> None:
    """Unpack packages into one folder. A package may be given as ``name=version``. Raises PackageNotFound."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise PackageNotFound(f"there is no apt-get and dpkg-deb to get {', '.join(packages)} with")
    with tempfile.TemporaryDirectory() as downloads:
        # apt downloads as root. As its own user, it could not write to this folder, and would print a warning.
        _apt(["download", "--quiet", "--option=APT::Sandbox::User=root", *packages], downloads)
        for file in sorted(Path(downloads).glob("*.deb")):
            unpack_command = ["dpkg-deb", "--fsys-tarfile", str(file)]
            with subprocess.Popen(unpack_command, stdout=subprocess.PIPE) as content:
                # Without --keep-directory-symlink, tar would replace a symbolic link such as /bin with a folder.
                command = ["tar", "--extract", "--keep-directory-symlink", "--file=-", f"--directory={folder}"]
                subprocess.run(command, stdin=content.stdout, check=True)


def libraries(unpacked: Path) -> list[Path]:
    """Return the folders with shared libraries among the unpacked files, for use in LD_LIBRARY_PATH."""
    return sorted({each.parent for root in ("lib", "usr/lib") for each in unpacked.glob(f"{root}/*/lib*.so.*")})


def closure(packages: Iterable[str]) -> list[str]:
    """Return these packages and all their dependencies, each as name=version. Raises PackageNotFound."""
    options = ["--simulate", "--quiet", "--no-install-recommends", "--option=Dir::State::status=/dev/null"]
    plan = _apt(["install", *options, *packages], "/")
    return sorted(f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) \((\S+)", plan, re.MULTILINE))


def _apt(arguments: list[str], directory: str) -> str:
    """Run apt-get. If it fails, update the package lists, which a new machine may not have. Then try once more."""
    result = _run(arguments, directory)
    if result.returncode:
        _run(["update", "--quiet"], directory)
        result = _run(arguments, directory)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise PackageNotFound(f"`apt-get {arguments[0]}` failed ({last})")
    return result.stdout


def _run(arguments: list[str], directory: str) -> "subprocess.CompletedProcess[str]":
    command, environment = ["apt-get", *arguments], {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment, timeout=300)


def release() -> str:
    """Return the release of Debian (or of a derivative) and the architecture, in a form for file names."""
    fields = dict(line.split("=", 1) for line in RELEASE.read_text().splitlines() if "=" in line)
    machine = os.uname().machine
    return f"{fields.get('ID', '')}-{fields.get('VERSION_CODENAME', '')}-{machine}".replace('"', "")
