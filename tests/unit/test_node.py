"""If a machine cannot run a real node, one line says why. The same files always make the same image."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyturn_local.node import archive, cgroups, enclosure, images, programs
from keyturn_local.node.preflight import preflight
from keyturn_local.toolchain import debian, go_toolchain


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Imitate a machine with an empty cache, no Debian packages and no Go. The programs in ``programs.NEEDED`` exist as
    empty stand-ins on the PATH. Return the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(go_toolchain, "PINNED", tmp_path / "no-such-file")
    for name in programs.NEEDED:
        (tmp_path / name).touch(mode=0o755)
    return tmp_path


def test_preflight_fails_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert preflight() == "no real node here: it takes root on Linux"


def test_neither_has_whoever_runs_no_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert preflight() == "no real node here: it takes root on Linux"


def test_preflight_names_missing_programs_of_the_machine(nowhere: Path) -> None:
    (nowhere / "ip").unlink()
    with pytest.raises(programs.NotFound, match=r"^there is no ip on the PATH$"):
        programs.resolve()


def test_machine_without_debian_is_told_where_to_get_the_programs(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "CNI_FOLDERS", ())
    with pytest.raises(programs.NotFound, match=r"^there is no apt-get and dpkg-deb to get container"):
        programs.resolve()


def test_broken_archive_leaves_nothing_behind(nowhere: Path) -> None:
    with pytest.raises(debian.PackageNotFound):
        debian.unpacked("runc")
    assert [each.name for each in (nowhere / "keyturn" / "debian").iterdir()] == ["lock"]


def test_in_an_enclosure_an_image_that_is_not_there_is_not_built(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(enclosure.MARK, "keyturn-node-1")
    with pytest.raises(images.NotFound, match="nothing can be built in an enclosure"):
        images.resolve()


def test_outside_of_an_enclosure_a_node_has_no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(enclosure.MARK, raising=False)
    with pytest.raises(enclosure.EnclosureError):
        enclosure.cgroup()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], bytes]:
    def write(name: str) -> bytes:
        content = tmp_path / name
        content.mkdir()
        for each in sorted(("b", "a"), reverse=bool(len(name) % 2)):
            (content / each).write_text(each)
        (content / "link").symlink_to("a")
        os.chown(content / "a", os.geteuid(), os.getegid())
        os.utime(content / "b", (len(name), len(name)))
        archive.write(tmp_path / f"{name}.tar", "example.com/image:1", content, ["/a"])
        return (tmp_path / f"{name}.tar").read_bytes()

    return write


def test_image_of_the_same_files_has_the_same_bytes(written: Callable[[str], bytes]) -> None:
    assert written("first") == written("second")


def test_cgroups_of_the_dead_are_swept_and_of_the_living_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "MOUNT", tmp_path)
    kept, *swept = (
        tmp_path / "memory" / cgroups.name_of(process) / "kubepods" for process in (os.getpid(), 1 << 22, (1 << 22) + 1)
    )
    for each in (kept, *swept):
        each.mkdir(parents=True)
    cgroups.sweep_orphans()
    assert [each.name for each in (tmp_path / "memory").iterdir()] == [kept.parent.name]
