"""Latencies that `make bench` measures and plots."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Latencies:
    """Seconds from sending a delivery to its acknowledgement; ``floor``: of one value read and one raw apply."""

    floor: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    sweeping: list[float] = field(default_factory=list)


def percentile(values: Sequence[float], part: float) -> float:
    """The value that ``part`` (0 to 1) of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
