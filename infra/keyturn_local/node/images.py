"""The images of pods. They are built without an image registry, and stored as archives in the cache.

``python -m keyturn_local.node.images`` fills the cache. An enclosure has no route to the outside. So the cache has to
be filled before the enclosure starts.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from keyturn_local.node import archive, builder, enclosure
from keyturn_local.paths import ROOT
from keyturn_local.toolchain import cache, debian

PAUSE = "keyturn.local/pause:1"
BUSYBOX = "keyturn.local/busybox:1"
RECEIVER = "keyturn.local/keyturn-receiver:built"
PYTHON = ["python3-venv", "python3-pip", "dash", "coreutils", "findutils"]  # packages that receiver/install needs
BUSYBOX_PACKAGE = "busybox-static"

DOCKERFILE = ROOT / "receiver" / "Dockerfile"
SOURCES = (
    ".dockerignore",
    "receiver",
    "lambda/keyturn_contract",
    "requirements/receiver.txt",
    "requirements/tracing.txt",
)
KIND = "images"  # the folder in the cache
KEPT = 3  # the number of receiver images in the cache; older ones are deleted


class NotFound(RuntimeError):
    """An image is not available. The text gives the reason."""


def resolve() -> list[Path]:
    """Return the archives of all images. Raises NotFound."""
    try:
        return [pause(), busybox(), receiver()]
    except (debian.PackageNotFound, builder.BuildFailed) as error:
        raise NotFound(str(error)) from None


def pause() -> Path:
    """Return the archive of the pause image. Each pod has a container of this image, which holds the pod's network
    namespace. The program of the image only sleeps."""
    return _busybox_image("pause", PAUSE, ["/bin/busybox", "sleep", "infinity"])


def busybox() -> Path:
    """Return the archive of an image with a shell and small tools. Workloads that read Secrets use it."""
    return _busybox_image("busybox", BUSYBOX, ["/bin/sh"])


def receiver() -> Path:
    """Return the archive of the receiver's image. receiver/Dockerfile builds it on a base image with the Python of
    Debian."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_mode}\0".encode() + file.read_bytes() + b"\0")
    base = _cached("python", PYTHON, _base)

    def build(file: Path) -> None:
        _say("building the receiver's image: about a minute, once for each state of the sources")
        builder.build(ROOT, DOCKERFILE, base, RECEIVER, file)

    image = _cached("receiver", [digest.hexdigest(), base.name], build)
    image.touch()
    for old in sorted(image.parent.glob("receiver-*"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return image


def _busybox_image(name: str, image: str, entrypoint: list[str]) -> Path:
    def make(file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tools = Path(folder, "bin")
            tools.mkdir()
            program = shutil.copy(debian.unpacked(BUSYBOX_PACKAGE) / "bin" / "busybox", tools)
            for tool in subprocess.check_output([program, "--list"], text=True).split():
                if tool != "busybox":
                    (tools / tool).symlink_to("busybox")
            archive.write(file, image, Path(folder), entrypoint)

    return _cached(name, [image, *entrypoint, BUSYBOX_PACKAGE], make)


def _base(file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        builder.root_of(PYTHON, Path(folder))
        archive.write(file, "keyturn.local/python:1", Path(folder))


def _cached(name: str, inputs: list[str], make: Callable[[Path], None]) -> Path:
    key = hashlib.sha256("\0".join([debian.release(), *inputs]).encode()).hexdigest()[:12]
    final = cache.folder(KIND) / f"{name}-{key}.tar"
    with cache.locked(KIND):
        if not final.exists():
            if enclosure.MARK in os.environ:
                raise NotFound(
                    f"{final} does not exist, and nothing can be built in an enclosure: python -m {__spec__.name}"
                )
            with tempfile.TemporaryDirectory(dir=final.parent, prefix=".fresh-") as folder:
                temporary = Path(folder) / final.name
                make(temporary)
                temporary.rename(final)
    return final


def _say(text: str) -> None:
    print(f"node: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(*resolve(), sep="\n")
    except NotFound as error:
        sys.exit(f"no images for a real node here: {error}")
