"""Exponential back-off with jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""

import random
from collections.abc import Callable
from dataclasses import dataclass

Uniform = Callable[[float, float], float]  # random.uniform, or a replacement for it in a test

_MAX_DOUBLINGS = 60  # a float can still hold the result, and every ``cap`` in use is reached long before that


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off. The delay starts at ``base`` seconds and doubles with each attempt, up to ``cap`` seconds.

    ``jitter`` is the share of each delay that is random. If it is 0, the delay is exact. If it is 0.5, the delay is at
    least half of the exact delay. If it is 1, the delay is between 0 and the exact delay ("full jitter").
    """

    base: float
    cap: float
    jitter: float = 0.5
    uniform: Uniform = random.uniform

    def delay(self, attempt: int, at_least: float = 0.0) -> float:
        """Return the seconds to wait after the failed attempt number ``attempt``. The first attempt has the number 1.

        ``at_least`` is the delay in seconds that the failure itself asks for. ``cap`` and the jitter apply to it, too.
        """
        doubled = self.base * 2 ** min(attempt - 1, _MAX_DOUBLINGS)
        return jittered(min(self.cap, max(at_least, doubled)), self.jitter, self.uniform)


def jittered(seconds: float, jitter: float = 0.5, uniform: Uniform = random.uniform) -> float:
    """Return ``seconds``, reduced by a random share of at most ``jitter``."""
    return seconds * uniform(1 - jitter, 1)
