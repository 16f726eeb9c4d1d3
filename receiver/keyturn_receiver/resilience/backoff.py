"""Exponential back-off with jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""

import random
from collections.abc import Callable
from dataclasses import dataclass

Uniform = Callable[[float, float], float]  # random.uniform, or a test's replacement for it

_MAX_DOUBLINGS = 60  # a float can hold the result; every ``cap`` in use is reached long before


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off. Delays start at ``base`` seconds and double with each attempt, up to ``cap`` seconds.

    ``jitter`` is the random share of each delay. With 0 the delay is exact; with 0.5 it is at least half of the exact
    delay; with 1 it can be anything from 0 up to the exact delay ("full jitter").
    """

    base: float
    cap: float
    jitter: float = 0.5
    uniform: Uniform = random.uniform

    def delay(self, attempt: int, at_least: float = 0.0) -> float:
        """Return the seconds to wait after ``attempt`` failures, counted from 1.

        ``at_least`` is the delay in seconds that the failure itself asks for. ``cap`` and jitter apply to it as well.
        """
        doubled = self.base * 2 ** min(attempt - 1, _MAX_DOUBLINGS)
        return jittered(min(self.cap, max(at_least, doubled)), self.jitter, self.uniform)


def jittered(seconds: float, jitter: float = 0.5, uniform: Uniform = random.uniform) -> float:
    """Return ``seconds``, reduced by a random share of at most ``jitter``."""
    return seconds * uniform(1 - jitter, 1)
