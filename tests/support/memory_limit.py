"""A memory limit that the kernel enforces on one process, as on the container of a pod: a cgroup.

https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import os
import sys
from pathlib import Path

import yaml

from keyturn_local.kubernetes.chart import CHART
from keyturn_local.node import cgroups

_V2 = (cgroups.MOUNT / "cgroup.controllers").exists()
_LIMIT, _PEAK, _EVENTS = (
    ("memory.max", "memory.peak", "memory.events")
    if _V2
    else ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
)


def chart_limit() -> int:
    """Return the memory limit of the chart's container, in bytes."""
    limit = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    return int(limit.removesuffix("Mi")) * 2**20


class NoCgroups(Exception):
    """On this machine, the user may not create cgroups. The text says why."""


class MemoryLimit:
    """A cgroup with a limit of ``size`` bytes, for programs that ``interpreter`` starts. ``close_all`` removes it.

    Raises NoCgroups.
    """

    def __init__(self, name: str, size: int, directory: Path) -> None:
        self.size = size
        parent = cgroups.name_of(os.getpid())
        root = cgroups.MOUNT / ("" if _V2 else "memory") / parent
        self._cgroup = root / name
        try:
            cgroups.make(parent)
            if _V2:
                (root / "cgroup.subtree_control").write_text("+memory")
            self._cgroup.mkdir()
            (self._cgroup / _LIMIT).write_text(str(size))
        except OSError as error:
            cgroups.sweep(parent)
            raise NoCgroups(str(error)) from None
        # A script that enters the cgroup, and then becomes Python.
        self.interpreter = directory / f"python-{name}"
        joins = f'echo $$ > {self._cgroup / "cgroup.procs"} && exec {sys.executable} "$@"'
        self.interpreter.write_text(f"#!/bin/sh\n{joins}\n")
        self.interpreter.chmod(0o700)

    @property
    def peak(self) -> int:
        """The largest number of bytes that were in use. It includes the page cache, which the kernel frees before it
        kills a process."""
        return int((self._cgroup / _PEAK).read_text())

    @property
    def kills(self) -> int:
        """The number of processes that the kernel has killed for their memory."""
        return int(dict(line.split() for line in (self._cgroup / _EVENTS).read_text().splitlines())["oom_kill"])

    @staticmethod
    def close_all() -> None:
        """Remove all cgroups of this process."""
        cgroups.sweep(cgroups.name_of(os.getpid()))
