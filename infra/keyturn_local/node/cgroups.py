"""The cgroups of a node's pods.

The Linux namespaces of an enclosure (keyturn_local/node/enclosure.py) end by themselves, but cgroups do not. So each
enclosure has one cgroup that contains the cgroups of all its pods. The enclosure removes this cgroup at its end.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
PREFIX = "keyturn-node-"


def name_of(enclosure: int) -> str:
    """Return the name of an enclosure's cgroup. It is the same in each hierarchy. ``enclosure`` is the process id of
    the enclosure's outer process."""
    return f"{PREFIX}{enclosure}"


def make(name: str) -> None:
    """Create the cgroup of this name in each hierarchy. The kubelet creates the pods' cgroups below it, and sets their
    limits."""
    if (MOUNT / "cgroup.controllers").exists():
        controllers = (MOUNT / "cgroup.controllers").read_text().split()
        (MOUNT / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))
        (MOUNT / name).mkdir(exist_ok=True)
        return
    for hierarchy in [each for each in MOUNT.iterdir() if (each / "tasks").exists()]:
        cgroup = hierarchy / name
        cgroup.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # before these are set, no process can join the cgroup
            if (cgroup / file).exists():
                (cgroup / file).write_text((hierarchy / file).read_text())


def sweep(name: str, seconds: float = 5) -> None:
    """Remove the cgroup of this name, and all cgroups below it. Wait up to ``seconds`` until the processes in them have
    ended."""
    end = time.monotonic() + seconds
    while any([not _removed(root) for root in _roots() if root.name == name]) and time.monotonic() < end:
        time.sleep(0.05)  # some processes have not ended yet


def sweep_orphans() -> None:
    """Remove the cgroups of enclosures that were killed.

    This must not run inside an enclosure. The /proc of an enclosure does not show the outer processes of enclosures. So
    these processes would seem to have ended, although their enclosures may be running.
    """
    for root in _roots():
        owner = root.name.removeprefix(PREFIX)
        if owner.isdigit() and not Path("/proc", owner).exists():
            _removed(root)


def _roots() -> Iterator[Path]:
    # Version 2 has a single hierarchy, at MOUNT. Version 1 has several, each in a folder below MOUNT.
    yield from MOUNT.glob(f"{PREFIX}*")
    yield from MOUNT.glob(f"*/{PREFIX}*")


def _removed(root: Path) -> bool:
    for folder, _, _ in os.walk(root, topdown=False):
        try:
            os.rmdir(folder)  # the kernel refuses this while the cgroup has a process
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
