"""The cgroups of a node's pods, which namespaces do not take away. Each enclosure keeps its own below one name."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
PREFIX = "keyturn-node-"


def name_of(enclosure: int) -> str:
    """The cgroup below which an enclosure keeps its pods, in each hierarchy; ``enclosure`` is its outer process."""
    return f"{PREFIX}{enclosure}"


def make(name: str) -> None:
    """Make the cgroup of this name in each hierarchy; whoever puts pods below it sets their limits."""
    if (MOUNT / "cgroup.controllers").exists():
        controllers = (MOUNT / "cgroup.controllers").read_text().split()
        (MOUNT / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))
        (MOUNT / name).mkdir(exist_ok=True)
        return
    for hierarchy in [each for each in MOUNT.iterdir() if (each / "tasks").exists()]:
        made = hierarchy / name
        made.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # nothing runs in it before it says where
            if (made / file).exists():
                (made / file).write_text((hierarchy / file).read_text())


def sweep(name: str, seconds: float = 5) -> None:
    """Remove the cgroup of this name, with all below it, once its processes are gone."""
    end = time.monotonic() + seconds
    while any([not _removed(root) for root in _roots() if root.name == name]) and time.monotonic() < end:
        time.sleep(0.05)  # the kernel is still at it


def sweep_orphans() -> None:
    """Remove what enclosures have left that were killed. Where /proc is not the machine's, all would seem to be."""
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
            os.rmdir(folder)  # the kernel refuses while there is a process in it
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
