"""Programs out of Debian's packages, unpacked into the cache: nothing is installed, and no registry is named here.

apt verifies what it downloads. Where there is no apt, a program has to be on the PATH.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from keyturn_local.toolchain import cache

KIND = "debian"  # of the cache's folders
RELEASE = Path("/etc/os-release")


class PackageNotFound(RuntimeError):
    """A package cannot be had; the text says why."""


def unpacked(*packages: str) -> Path:
    """Return a folder with the files of these packages, none of those that they depend on. Raises PackageNotFound."""
    final = cache.folder(KIND) / f"{release()}-{'+'.join(packages)}"
    with cache.locked(KIND):
        if not final.is_dir():
            with cache.atomic_folder(final) as folder:
                unpack(packages, folder)
    return final


def unpack(packages: Iterable[str], folder: Path) -> None:
    """Unpack packages over each other; ``name=version`` asks for one version. Raises PackageNotFound."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise PackageNotFound(f"there is no apt-get and dpkg-deb to get {', '.join(packages)} with")
    with tempfile.TemporaryDirectory() as downloads:
        # Else apt warns that its own user may not write there.
        _apt(["download", "--quiet", "--option=APT::Sandbox::User=root", *packages], downloads)
        for file in sorted(Path(downloads).glob("*.deb")):
            read = ["dpkg-deb", "--fsys-tarfile", str(file)]
            with subprocess.Popen(read, stdout=subprocess.PIPE) as content:
                # /bin may be a link to usr/bin, which tar would replace by a folder.
                command = ["tar", "--extract", "--keep-directory-symlink", "--file=-", f"--directory={folder}"]
                subprocess.run(command, stdin=content.stdout, check=True)


def libraries(unpacked: Path) -> list[Path]:
    """The folders of libraries among unpacked files, for LD_LIBRARY_PATH."""
    return sorted({each.parent for root in ("lib", "usr/lib") for each in unpacked.glob(f"{root}/*/lib*.so.*")})


def closure(packages: Iterable[str]) -> list[str]:
    """All packages that these need on a machine with none, as name=version. Raises PackageNotFound."""
    options = ["--simulate", "--quiet", "--no-install-recommends", "--option=Dir::State::status=/dev/null"]
    simulated = _apt(["install", *options, *packages], "/")
    return sorted(f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) \((\S+)", simulated, re.MULTILINE))


def _apt(arguments: list[str], directory: str) -> str:
    """Run apt-get; a machine that is new has no lists of packages yet, so get them and try once more."""
    done = _run(arguments, directory)
    if done.returncode:
        _run(["update", "--quiet"], directory)
        done = _run(arguments, directory)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise PackageNotFound(f"`apt-get {arguments[0]}` failed ({last})")
    return done.stdout


def _run(arguments: list[str], directory: str) -> "subprocess.CompletedProcess[str]":
    command, environment = ["apt-get", *arguments], {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment, timeout=300)


def release() -> str:
    """The release of Debian (or kin) and the machine, as part of a name."""
    fields = dict(line.split("=", 1) for line in RELEASE.read_text().splitlines() if "=" in line)
    machine = os.uname().machine
    return f"{fields.get('ID', '')}-{fields.get('VERSION_CODENAME', '')}-{machine}".replace('"', "")
