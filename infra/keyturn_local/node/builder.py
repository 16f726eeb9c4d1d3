"""Builds images from Dockerfiles with Debian's buildah: no engine runs, and nothing of it stays on the machine."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keyturn_local.node import debian

# With what it needs that is not on every machine.
PACKAGES = ("buildah", "libassuan0", "libdevmapper1.02.1", "libgpgme11", "libseccomp2", "libsubid4")
WASTE = ("usr/share/doc", "usr/share/locale", "usr/share/man")
# buildah starts itself anew with no LD_LIBRARY_PATH: where it sees them, its libraries lie among the machine's own.
AMONG = 'mount -t overlay keyturn -o "ro,lowerdir=$1:$2" "$2"; shift 2; exec "$@"'
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


class BuildFailed(RuntimeError):
    """The builder says no; the text has its last words."""


def root_of(packages: list[str], folder: Path) -> None:
    """Fill a folder with Debian's packages and all that they need, as the root of an image. Raises PackageNotFound."""
    for name, target in LINKS.items():
        (folder / target).mkdir(parents=True)
        (folder / name).symlink_to(target)
    debian.unpack(debian.closure(packages), folder)
    if not (folder / "bin" / "sh").exists() and (folder / "bin" / "dash").exists():
        (folder / "bin" / "sh").symlink_to("dash")
    for name in WASTE:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "tmp").chmod(0o1777)


def build(context: Path, dockerfile: Path, base: Path, image: str, file: Path) -> None:
    """Build an image on the base that the archive ``base`` holds, into the archive ``file``. Raises BuildFailed."""
    with tempfile.TemporaryDirectory(prefix="keyturn-build-") as name:
        directory = Path(name)
        environment = _environment(directory)
        policy = directory / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        storage = [f"--root={directory / 'root'}", f"--runroot={directory / 'run'}", "--storage-driver=vfs"]
        buildah = [*_program(), *storage]
        started = _run(
            buildah, ["pull", "--quiet", f"--signature-policy={policy}", f"docker-archive:{base}"], environment
        )
        _run(
            buildah,
            [
                *("bud", "--isolation=chroot", "--pull-never", f"--signature-policy={policy}"),
                *(f"--build-arg=BASE={started.strip()}", f"--tag={image}", f"--file={dockerfile}"),
                *(f"--volume={each}" for each in _volumes(directory)),
                str(context),
            ],
            environment,
        )
        _run(
            buildah,
            ["push", "--quiet", f"--signature-policy={policy}", image, f"docker-archive:{file}:{image}"],
            environment,
        )


def _program() -> list[str]:
    if found := shutil.which("buildah"):
        return [found]
    unpacked = debian.unpacked(*PACKAGES)
    libraries = debian.libraries(unpacked)
    there = Path("/usr/lib") / libraries[0].name
    aside = ["unshare", "--mount", "--propagation=private", "sh", "-e", "-c", AMONG, "sh"]
    return [*aside, ":".join(map(str, libraries)), str(there), str(unpacked / "usr" / "bin" / "buildah")]


def _environment(directory: Path) -> dict[str, str]:
    """No settings of the machine's own containers, and no registry."""
    registries = directory / "registries.conf"
    registries.write_text("unqualified-search-registries = []\n")
    settings = directory / "containers.conf"
    settings.touch()
    return {
        **os.environ,
        "CONTAINERS_REGISTRIES_CONF": str(registries),
        "CONTAINERS_CONF": str(settings),
        "TMPDIR": str(directory),
    }


def _volumes(directory: Path) -> list[str]:
    """What pip in there must see to reach what pip out here does: the same settings, and the files they name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: Mapping[str, str] = {
        name.rpartition(".")[2]: ast.literal_eval(value)
        for name, _, value in (line.partition("=") for line in listed.stdout.splitlines())
    }
    file = directory / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    paths = {value for value in settings.values() if value.startswith("/") and Path(value).exists()}
    return [f"{file}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(paths))]


def _run(buildah: list[str], arguments: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run([*buildah, *arguments], env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise BuildFailed(f"buildah {arguments[0]}: {(done.stderr + done.stdout)[-1500:].strip()}")
    return done.stdout
