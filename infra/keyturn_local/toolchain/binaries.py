"""Finder of the programs of the control plane: etcd, the Kubernetes API server and its controllers, kubectl, and kwok.

It tries these sources in order: KUBEBUILDER_ASSETS, the cache, the official releases, and a build from the Go modules.

This module uses only the standard library, because `make` runs it before pip. The command ``python -m
keyturn_local.toolchain.binaries`` prints the folder with the programs.
"""

import hashlib
import os
import platform
import sys
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from keyturn_local.paths import INFRA
from keyturn_local.toolchain import cache, go_toolchain

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok")
MULTI_CALL = PROGRAMS[:-1]  # built as one program; the name with which it is called decides what it does
MODULE = INFRA / "control_plane"

BUILT_VERSION = "v1.36.3"  # the version in the module's go.mod
RELEASED_VERSION = "v1.35.4"  # the newest release whose checksums could be found when this line was written
KWOK_VERSION = "v0.8.0"
VERSION_FLAGS = " ".join(  # with these linker flags, the programs report their versions
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in zip(
        ("gitVersion", "gitMajor", "gitMinor"), (BUILT_VERSION, *BUILT_VERSION[1:].split(".")), strict=False
    )
)
KIND = "control-plane"  # the folder in the cache

CONNECT_SECONDS = 3.0  # the timeout is short, because the machine may have no network


class NotFound(RuntimeError):
    """No source has the programs. The text gives the reason for each source."""


class _Unavailable(Exception):
    """This source cannot provide the programs. The text gives the reason."""


@dataclass(frozen=True)
class _File:
    """A published file. ``checksum`` has the form "algorithm:hex". If the file is an archive, ``members`` are the paths
    of the programs in it. Otherwise ``members`` is empty, and the file itself is the program."""

    url: str
    checksum: str
    members: tuple[str, ...] = ()


# These include the programs of a real node (node/programs.py), which must have the same version.
_SERVER = tuple(f"kubernetes/server/bin/{name}" for name in (*MULTI_CALL[1:], "kubelet", "kube-proxy"))

# The checksums come from Kubernetes' CHANGELOG/CHANGELOG-1.35.md, from kubespray's checksums.yml (for etcd), and from
# Arch Linux's kwok-bin.
RELEASES: dict[str, tuple[_File, ...]] = {
    "linux/amd64": (
        _File(
            f"https://dl.k8s.io/{RELEASED_VERSION}/kubernetes-server-linux-amd64.tar.gz",
            "sha512:7454c2d9023de3230972e965e1e2a587a291e2a1abee703bb0737057e1646b23"
            "ebac538b93dd778e93579e3c293dc1fa8d002e6848ad5ebc01598bc47358fe44",
            _SERVER,
        ),
        _File(
            "https://github.com/etcd-io/etcd/releases/download/v3.5.27/etcd-v3.5.27-linux-amd64.tar.gz",
            "sha256:0aad9a9e4e0817a021e933f9806a2b2960a62f949ad5a3d6436d8886945cb1bc",
            ("etcd-v3.5.27-linux-amd64/etcd",),
        ),
        _File(
            f"https://github.com/kubernetes-sigs/kwok/releases/download/{KWOK_VERSION}/kwok-linux-amd64",
            "sha256:f5a4385a2ae1b9dd7f8acae18e002a75c0ebba124ae9d7259aa8dadb50711f46",
        ),
    ),
    # linux/arm64 is missing, because no published checksum of kwok was found for it. There, the programs are built from
    # the Go modules.
}


def resolve() -> Path:
    """Return a folder that has all of PROGRAMS. Raises NotFound."""
    reasons: list[str] = []
    for name, source in (
        ("KUBEBUILDER_ASSETS", _assets),
        ("the cache", _cached),
        ("the official releases", _released),
        ("a build from the Go modules", _built),
    ):
        try:
            return source()
        except _Unavailable as reason:
            reasons.append(f"  {name}: {reason}")
    raise NotFound("the control plane's programs were not found; fix any one source:\n" + "\n".join(reasons))


def _assets() -> Path:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        raise _Unavailable(f"not set; set it to a folder that holds {', '.join(PROGRAMS)}")
    if missing := [name for name in PROGRAMS if not os.access(Path(folder) / name, os.X_OK)]:
        raise _Unavailable(f"{folder} lacks {', '.join(missing)}; add them, or unset it")
    return Path(folder)


def _cached() -> Path:
    # Downloaded and built programs may have different versions. Both versions are accepted.
    for folder in (_folder("built"), _folder("released")):
        if folder.is_dir():
            return folder
    raise _Unavailable(f"{cache.folder(KIND)} has no entry for this version; the two sources below fill it")


def _released() -> Path:
    files = RELEASES.get(_platform())
    if not files:
        raise _Unavailable(f"no pinned checksums for {_platform()}; add them to RELEASES in {Path(__file__).name}")
    with cache.locked(KIND), cache.atomic_folder(_folder("released")) as folder:
        for file in files:
            _say(f"downloading {file.url}")
            _download(file, folder)
        return _folder("released")


def _download(file: _File, folder: Path) -> None:
    algorithm, _, expected = file.checksum.partition(":")
    digest = hashlib.new(algorithm)
    with tempfile.TemporaryFile() as content:
        try:
            with urllib.request.urlopen(file.url, timeout=CONNECT_SECONDS) as reply:  # noqa: S310 - pinned above
                while chunk := reply.read(1 << 20):
                    digest.update(chunk)
                    content.write(chunk)
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise _Unavailable(f"{file.url}: {reason}; connect to the internet, or allow this address") from None
        if digest.hexdigest() != expected:
            raise _Unavailable(
                f"{file.url} is not what its checksum promises; do not use it, and report it to the maintainers"
            )
        content.seek(0)
        if not file.members:
            _write(folder / "kwok", content.read())
            return
        with tarfile.open(fileobj=content, mode="r:gz") as archive:
            for member in file.members:
                program = archive.extractfile(member)
                if program is None:
                    raise _Unavailable(f"{file.url} lacks {member}")
                _write(folder / Path(member).name, program.read())


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0o755)


def _built() -> Path:
    with cache.locked(KIND):
        if _folder("built").is_dir():  # another process has built them while this process waited for the lock
            return _folder("built")
        go = _go()
        _say(
            f"building Kubernetes {BUILT_VERSION} and kwok {KWOK_VERSION} from their Go modules: "
            "about 10 minutes on 2 cores, once"
        )
        with cache.atomic_folder(_folder("built")) as folder:
            try:
                go_toolchain.build(go, MODULE, ".", folder / "control-plane", VERSION_FLAGS)
                go_toolchain.build(go, MODULE, "sigs.k8s.io/kwok/cmd/kwok", folder / "kwok")
            except go_toolchain.BuildFailed as error:
                raise _Unavailable(str(error)) from None
            for name in MULTI_CALL:
                (folder / name).symlink_to("control-plane")
        return _folder("built")


def _go() -> str:
    try:
        return go_toolchain.find()
    except go_toolchain.GoNotFound as error:
        raise _Unavailable(str(error)) from None


def _folder(source: str) -> Path:
    """Return the folder in the cache for programs of the sort "built" or "released".

    The folder's name contains the versions. For built programs, it also contains a digest of the sources.
    """
    if source == "released":
        key = f"{RELEASED_VERSION}-kwok-{KWOK_VERSION}-with-node"
    else:
        sources = hashlib.sha256()
        for name in ("go.mod", "go.sum", "main.go"):
            sources.update((MODULE / name).read_bytes())
        key = f"{BUILT_VERSION}-kwok-{KWOK_VERSION}-{sources.hexdigest()[:12]}"
    return cache.folder(KIND) / f"{source}-{key}-{_platform().replace('/', '-')}"


def _platform() -> str:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{platform.system().lower()}/{machine}"


def _say(text: str) -> None:
    print(f"control plane: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(resolve())
    except NotFound as error:
        sys.exit(str(error))
