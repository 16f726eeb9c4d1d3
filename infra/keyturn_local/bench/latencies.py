"""The latencies that `make bench` measures and draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Latencies:
    """Latencies in seconds. A latency is the time from the sending of a delivery to its acknowledgement.

    ``alone`` is measured with 1,000 bindings, and ``quiet`` with 10,000. ``sweeping`` is measured with 10,000 bindings
    while the poller sweeps. ``floor`` has other times: the durations of one read of a value and one raw apply, without
    the receiver.
    """

    floor: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    sweeping: list[float] = field(default_factory=list)


def percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile of the values. ``part`` is a number from 0 to 1, such as 0.99 for p99."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
