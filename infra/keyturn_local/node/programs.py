"""Finder of the programs of a node. This module uses only the standard library.

If the control plane was downloaded, the download also has kubelet and kube-proxy. Otherwise they are built from Go
modules. CoreDNS and containerd are always built from Go modules. All other programs come from the machine or from
Debian packages.
"""

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keyturn_local.paths import INFRA
from keyturn_local.toolchain import binaries, cache, debian, go_toolchain

KUBERNETES = INFRA / "node"
CONTAINERD = INFRA / "container_runtime"
CONTAINERD_VERSION = "v2.4.2"  # the version in the module's go.mod
KIND = "node"  # the folder in the cache
CNI = ("ptp", "host-local", "loopback")
CNI_FOLDERS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
NEEDED = ("ip", "mount")  # these programs must be on the PATH
IPTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
# Packages by program: its own package, and those of its dependencies that a machine may not have.
RUNC_PACKAGES = ("runc", "libseccomp2")
IPTABLES_PACKAGES = ("iptables", "libxtables12", "libnftnl11", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0")


class NotFound(RuntimeError):
    """A program is not available. The text gives the reason."""


@dataclass(frozen=True)
class Programs:
    """The paths of a node's programs, or of the folders in which they are. ``variables`` are the environment variables
    that programs from Debian packages need."""

    kubernetes: Path  # the folder with kubelet and kube-proxy
    coredns: Path
    containerd: Path  # the folder with containerd, containerd-shim-runc-v2 and ctr
    cni: Path
    runc: Path
    iptables: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the environment for the programs. Its PATH contains the folders of the programs, so that they find
        each other."""
        path = f"{self.containerd}:{self.iptables}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, **self.variables}


def resolve() -> Programs:
    """Find all programs. If one is missing, build it or unpack it into the cache. Raises NotFound."""
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise NotFound(f"there is no {', '.join(missing)} on the PATH")
    try:
        cni = next((folder for folder in CNI_FOLDERS if all((folder / name).exists() for name in CNI)), None)
        cni = cni or debian.unpacked("containernetworking-plugins") / "usr" / "lib" / "cni"
        runc, libraries = shutil.which("runc"), []
        if not runc:
            unpacked = debian.unpacked(*RUNC_PACKAGES)
            runc, libraries = str(unpacked / "usr" / "bin" / "runc"), [*debian.libraries(unpacked)]
        variables = {}
        iptables = Path(shutil.which("iptables") or "").parent
        if not all(map(shutil.which, IPTABLES)):
            unpacked = debian.unpacked(*IPTABLES_PACKAGES)
            iptables, libraries = _linked(unpacked), [*libraries, *debian.libraries(unpacked)]
            variables["XTABLES_LIBDIR"] = ":".join(f"{each}/xtables" for each in debian.libraries(unpacked))
        if libraries:
            variables["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        return Programs(_kubernetes(), _coredns(), _containerd(), cni, Path(runc), iptables, variables)
    except (binaries.NotFound, debian.PackageNotFound, go_toolchain.GoNotFound, go_toolchain.BuildFailed) as error:
        raise NotFound(str(error)) from None


def _kubernetes() -> Path:
    # A kubelet must not be newer than its API server. If the control plane was downloaded, its download has a kubelet
    # of the same version.
    if all((binaries.resolve() / name).exists() for name in ("kubelet", "kube-proxy")):
        return binaries.resolve()

    def build(folder: Path) -> None:
        _say("building kubelet and kube-proxy: about 2 minutes on 2 cores, once")
        flags = binaries.VERSION_FLAGS
        go_toolchain.build(go_toolchain.find(), KUBERNETES, "./kubernetes", folder / "kubernetes", flags)
        for name in ("kubelet", "kube-proxy"):
            (folder / name).symlink_to("kubernetes")

    return cache.filled(_folder("kubernetes", KUBERNETES, "kubernetes/main.go"), build)


def _coredns() -> Path:
    def build(folder: Path) -> None:
        _say("building CoreDNS: about a minute on 2 cores, once")
        go_toolchain.build(go_toolchain.find(), KUBERNETES, "./dns", folder / "coredns")

    return cache.filled(_folder("dns", KUBERNETES, "dns/main.go"), build) / "coredns"


def _containerd() -> Path:
    module = "github.com/containerd/containerd/v2"
    version = f"-X {module}/version.Version={CONTAINERD_VERSION}"

    def build(folder: Path) -> None:
        _say("building containerd: about 2 minutes on 2 cores, once")
        go = go_toolchain.find()
        for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
            package, tags = f"{module}/cmd/{name}", "no_btrfs no_devmapper no_zfs"
            go_toolchain.build(go, CONTAINERD, package, folder / name, version, tags)

    return cache.filled(_folder("containerd", CONTAINERD), build)


def _linked(unpacked: Path) -> Path:
    """Return a folder with links that all lead to iptables' single program. An installation of the package would make
    the same links."""
    folder = unpacked / "usr" / "lib" / "keyturn"
    folder.mkdir(exist_ok=True)
    for name in IPTABLES:
        if not (folder / name).exists():
            (folder / name).symlink_to(unpacked / "usr" / "sbin" / "xtables-nft-multi")
    return folder


def _folder(name: str, module: Path, *files: str) -> Path:
    """Return the folder in the cache for the programs of one module. The folder's name contains a digest of the
    module's files and of the linker flags."""
    sources = hashlib.sha256(binaries.VERSION_FLAGS.encode())
    for file in ("go.mod", "go.sum", *files):
        sources.update((module / file).read_bytes())
    return cache.folder(KIND) / f"{name}-{sources.hexdigest()[:12]}-{platform.machine()}"


def _say(text: str) -> None:
    print(f"node: {text}", file=sys.stderr, flush=True)
