"""Finding the programs of the control plane: four sources are tried, and if all of them fail, the error is clear."""

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from keyturn_local.toolchain import binaries, go_toolchain


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Imitate a machine with an empty cache, no matching release, no Go and no pip. Return the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "RELEASES", {})
    monkeypatch.setattr(go_toolchain, "PINNED", tmp_path / "no-such-file")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-such-python"))  # starting pip would take a second
    return tmp_path


def test_failure_of_all_sources_names_the_four_with_advice(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = nowhere / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))  # pip starts, but fails
    with pytest.raises(binaries.NotFound) as caught:
        binaries.resolve()
    text = str(caught.value)
    for way in ("KUBEBUILDER_ASSETS", "the cache", "the official releases", "a build from the Go modules"):
        assert way in text
    assert "set it to a folder" in text
    assert "install Go" in text


def programs(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


def test_assets_are_used_before_other_sources(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = programs(nowhere / "assets", binaries.PROGRAMS)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))
    assert binaries.resolve() == folder


def test_assets_without_a_program_are_skipped_and_it_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = programs(nowhere / "assets", ("etcd", "kube-apiserver", "kubectl"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))
    with pytest.raises(binaries.NotFound, match=r"lacks kube-controller-manager, kube-scheduler, kwok"):
        binaries.resolve()


def test_cache_is_keyed_by_version_and_platform(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = binaries._folder("built")
    for part in (binaries.BUILT_VERSION, binaries.KWOK_VERSION, binaries._platform().replace("/", "-")):
        assert part in folder.name
    folder.parent.mkdir(parents=True)
    programs(folder, binaries.PROGRAMS)
    assert binaries.resolve() == folder


def test_download_with_another_checksum_is_refused(nowhere: Path) -> None:
    served = nowhere / "kwok"
    served.write_bytes(b"something else")
    file = binaries._File(served.as_uri(), "sha256:" + "0" * 64)
    with pytest.raises(binaries._Unavailable, match="is not what its checksum promises"):
        binaries._download(file, nowhere)
    assert served.read_bytes() == b"something else"


def test_releases_are_pinned() -> None:
    for files in binaries.RELEASES.values():
        for file in files:
            algorithm, _, digest = file.checksum.partition(":")
            assert len(digest) == {"sha256": 64, "sha512": 128}[algorithm]


def test_release_with_its_checksum_fills_the_cache(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release is served from files, so all of the download code runs, except for the network."""
    archive = nowhere / "server.tar.gz"
    names = [name for name in binaries.PROGRAMS if name != "kwok"]
    with tarfile.open(archive, "w:gz") as made:
        for name in names:
            member = tarfile.TarInfo(f"bin/{name}")
            member.size = len(name)
            made.addfile(member, io.BytesIO(name.encode()))
    kwok = nowhere / "kwok"
    kwok.write_bytes(b"kwok")

    def promise(file: Path) -> str:
        return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"

    files = (
        binaries._File(archive.as_uri(), promise(archive), tuple(f"bin/{name}" for name in names)),
        binaries._File(kwok.as_uri(), promise(kwok)),
    )
    monkeypatch.setattr(binaries, "RELEASES", {binaries._platform(): files})
    folder = binaries.resolve()
    assert {file.name for file in folder.iterdir()} == set(binaries.PROGRAMS)
    assert all(os.access(file, os.X_OK) and file.read_text() == file.name for file in folder.iterdir())
    monkeypatch.setattr(binaries, "RELEASES", {})
    assert binaries.resolve() == folder  # this time, the folder comes from the cache


def test_broken_download_leaves_nothing_behind(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kwok = nowhere / "kwok"
    kwok.write_bytes(b"kwok")
    files = (
        binaries._File(kwok.as_uri(), f"sha256:{hashlib.sha256(b'kwok').hexdigest()}"),
        binaries._File((nowhere / "missing").as_uri(), "sha256:" + "0" * 64),
    )
    monkeypatch.setattr(binaries, "RELEASES", {binaries._platform(): files})
    with pytest.raises(binaries.NotFound, match="connect to the internet"):
        binaries.resolve()
    assert [entry.name for entry in (nowhere / "keyturn" / "control-plane").iterdir()] == ["lock"]
