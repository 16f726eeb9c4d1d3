"""The latencies that `make bench` measures and plots."""

from dataclasses import dataclass, field


@dataclass
class Latencies:
    """Seconds from a delivery being sent to its being acknowledged, and of the floor beside them."""

    floor: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    sweeping: list[float] = field(default_factory=list)
