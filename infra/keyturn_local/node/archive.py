"""Writer of container images with one layer. Their format is that of `docker save`, which containerd can import."""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}


def write(file: Path, image: str, content: Path, entrypoint: Sequence[str] = ()) -> None:
    """Write an image with the files below ``content``. All files belong to root. The same files always give the same
    bytes."""
    with tempfile.TemporaryFile() as layer, tarfile.open(file, "w") as archive:
        with tarfile.open(fileobj=layer, mode="w") as files:
            for path in sorted(content.rglob("*")):
                files.add(path, path.relative_to(content), recursive=False, filter=_normalized)
        layer.seek(0)
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        config = {
            "architecture": MACHINE.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [image], "Layers": [f"{digest}.tar"]}]
        for name, text in (("manifest.json", json.dumps(manifest)), ("config.json", json.dumps(config))):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        member = tarfile.TarInfo(f"{digest}.tar")
        member.size = layer.seek(0, io.SEEK_END)
        layer.seek(0)
        archive.addfile(member, layer)


def _normalized(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
