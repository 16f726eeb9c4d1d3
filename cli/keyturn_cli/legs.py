"""Legs (steps) of a rotation. `keyturn trace` shows each leg in one line. This module does no I/O."""

from dataclasses import dataclass, field

GOOD, BAD, OPEN, NEVER = "✔", "✗", "…", "-"
MOVED, TAKEN, APPLIED, MARKED, READY, TOLD = range(6)  # ranks of legs


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg of a rotation. ``at`` is its time in seconds since 1970, or None if the time is not known. ``exact`` is
    false if the time has only whole seconds. ``rank`` decides the order of legs within one second."""

    at: float | None
    sign: str
    text: str
    rank: int
    exact: bool = False

    @property
    def place(self) -> tuple[bool, int, int, float]:
        """The sort key. Times in whole seconds are rounded down, so ``rank`` decides the order within a second."""
        return (self.at is None, int(self.at or 0), self.rank, self.at or 0.0)


@dataclass(slots=True)
class Trace:
    """The legs of one rotation.

    ``version`` has the beginning of each version id. A watched Secret has no version. For a watched Secret, ``version``
    is the name by which the receiver's Events call the change. ``open_secrets``, ``open_workloads`` and
    ``open_clusters`` are the numbers of Secrets, workloads and clusters that the rotation has not reached yet. Clusters
    are known only from receipts. ``off_workloads`` is the number of workloads that Keyturn does not restart.
    ``hides_workloads`` is true if the caller may not read all workloads.
    """

    version: str
    moved_at: float | None = None
    event: str = ""
    cause: str = ""
    legs: list[Leg] = field(default_factory=list)
    open_secrets: int = 0
    open_workloads: int = 0
    open_clusters: int = 0
    off_workloads: int = 0
    hides_workloads: bool = False

    @property
    def is_open(self) -> bool:
        """Whether there are Secrets, workloads or clusters that the rotation has not reached yet."""
        return bool(self.open_secrets or self.open_workloads or self.open_clusters)
