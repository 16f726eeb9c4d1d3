"""Cgroups of a node's pods. They outlive an enclosure's namespaces, so each enclosure has its own below one name."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
PREFIX = "keyturn-node-"


def name_of(enclosure: int) -> str:
    """Name of the cgroup of an enclosure's pods, in each hierarchy; ``enclosure`` is the id of its outer process."""
    return f"{PREFIX}{enclosure}"


def make(name: str) -> None:
    """Create the cgroup of this name in each hierarchy; the kubelet creates and limits those of pods below it."""
    if (MOUNT / "cgroup.controllers").exists():
        controllers = (MOUNT / "cgroup.controllers").read_text().split()
        (MOUNT / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))
        (MOUNT / name).mkdir(exist_ok=True)
        return
    for hierarchy in [each for each in MOUNT.iterdir() if (each / "tasks").exists()]:
        cgroup = hierarchy / name
        cgroup.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # a process can join only when these are set
            if (cgroup / file).exists():
                (cgroup / file).write_text((hierarchy / file).read_text())


def sweep(name: str, seconds: float = 5) -> None:
    """Remove the cgroup of this name and those below it, once their processes are gone."""
    end = time.monotonic() + seconds
    while any([not _removed(root) for root in _roots() if root.name == name]) and time.monotonic() < end:
        time.sleep(0.05)  # processes are still ending


def sweep_orphans() -> None:
    """Remove the cgroups of killed enclosures. It needs the machine's own /proc: in another every owner seems dead."""
    for root in _roots():
        owner = root.name.removeprefix(PREFIX)
        if owner.isdigit() and not Path("/proc", owner).exists():
            _removed(root)


def _roots() -> Iterator[Path]:
    # cgroup v2 is one hierarchy, v1 a folder of them.
    yield from MOUNT.glob(f"{PREFIX}*")
    yield from MOUNT.glob(f"*/{PREFIX}*")


def _removed(root: Path) -> bool:
    for folder, _, _ in os.walk(root, topdown=False):
        try:
            os.rmdir(folder)  # the kernel refuses while it has a process
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
