"""Builder of images. Debian's buildah builds Dockerfiles without a daemon, and keeps its files in a temporary
folder."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keyturn_local.toolchain import debian

# Packages: buildah, and those of its dependencies that a machine may not have.
PACKAGES = ("buildah", "libassuan0", "libdevmapper1.02.1", "libgpgme11", "libseccomp2", "libsubid4")
UNNEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man")
# buildah executes itself again without LD_LIBRARY_PATH. So its libraries are mounted over the libraries of the machine.
WITH_LIBRARIES = 'mount -t overlay keyturn -o "ro,lowerdir=$1:$2" "$2"; shift 2; exec "$@"'
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


class BuildFailed(RuntimeError):
    """buildah failed. The text includes the end of its output."""


def root_of(packages: list[str], folder: Path) -> None:
    """Unpack packages and their dependencies into a folder. The folder is then the root directory of an image. Raises
    PackageNotFound."""
    for name, target in LINKS.items():
        (folder / target).mkdir(parents=True)
        (folder / name).symlink_to(target)
    debian.unpack(debian.closure(packages), folder)
    if not (folder / "bin" / "sh").exists() and (folder / "bin" / "dash").exists():
        (folder / "bin" / "sh").symlink_to("dash")
    for name in UNNEEDED:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "tmp").chmod(0o1777)


def build(context: Path, dockerfile: Path, base: Path, image: str, file: Path) -> None:
    """Build a Dockerfile. The archive ``base`` has its base image. The built image is written to the archive ``file``.

    Raises BuildFailed or PackageNotFound.
    """
    with tempfile.TemporaryDirectory(prefix="keyturn-build-") as name:
        directory = Path(name)
        environment = _environment(directory)
        policy = directory / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        storage = [f"--root={directory / 'root'}", f"--runroot={directory / 'run'}", "--storage-driver=vfs"]
        buildah = [*_program(), *storage]
        base_id = _run(
            buildah, ["pull", "--quiet", f"--signature-policy={policy}", f"docker-archive:{base}"], environment
        )
        _run(
            buildah,
            [
                *("bud", "--isolation=chroot", "--pull-never", f"--signature-policy={policy}"),
                *(f"--build-arg=BASE={base_id.strip()}", f"--tag={image}", f"--file={dockerfile}"),
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
    if path := shutil.which("buildah"):
        return [path]
    unpacked = debian.unpacked(*PACKAGES)
    libraries = debian.libraries(unpacked)
    target = Path("/usr/lib") / libraries[0].name
    in_mount_namespace = ["unshare", "--mount", "--propagation=private", "sh", "-e", "-c", WITH_LIBRARIES, "sh"]
    return [*in_mount_namespace, ":".join(map(str, libraries)), str(target), str(unpacked / "usr" / "bin" / "buildah")]


def _environment(directory: Path) -> dict[str, str]:
    """Return buildah's environment. With it, buildah does not see the machine's own container settings and
    registries."""
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
    """Return volumes with the machine's pip settings, and with the files that these settings name. With them, pip works
    during the build."""
    output = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: Mapping[str, str] = {
        name.rpartition(".")[2]: ast.literal_eval(value)
        for name, _, value in (line.partition("=") for line in output.stdout.splitlines())
    }
    file = directory / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    paths = {value for value in settings.values() if value.startswith("/") and Path(value).exists()}
    return [f"{file}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(paths))]


def _run(buildah: list[str], arguments: list[str], environment: Mapping[str, str]) -> str:
    result = subprocess.run([*buildah, *arguments], env=environment, capture_output=True, text=True, timeout=900)
    if result.returncode:
        raise BuildFailed(f"buildah {arguments[0]}: {(result.stderr + result.stdout)[-1500:].strip()}")
    return result.stdout
