"""Exponential back-off with jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""

import random
from collections.abc import Callable
from dataclasses import dataclass

Uniform = Callable[[float, float], float]  # random.uniform, or what a test puts in its place

_MAX_DOUBLINGS = 60  # a float holds them; any ``cap`` in use is reached long before


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off. Delays start at ``base`` seconds and double with each attempt, up to ``cap`` seconds.

    ``jitter`` is the random share of each delay: 0 leaves it as it is, 0.5 takes something between half of it and all
    of it, 1 anything up to it ("full jitter").
    """

    base: float
    cap: float
    jitter: float = 0.5
    uniform: Uniform = random.uniform

    def delay(self, attempt: int, at_least: float = 0.0) -> float:
        """Seconds to wait after ``attempt`` failures, counted from 1.

        ``at_least``: the seconds that the failure itself asks for. ``cap`` and jitter apply to them, too.
        """
        doubled = self.base * 2 ** min(attempt - 1, _MAX_DOUBLINGS)
        return jittered(min(self.cap, max(at_least, doubled)), self.jitter, self.uniform)


def jittered(seconds: float, jitter: float = 0.5, uniform: Uniform = random.uniform) -> float:
    """Give a random part of ``seconds``: all of it, or less by at most the share ``jitter``."""
    return seconds * uniform(1 - jitter, 1)
