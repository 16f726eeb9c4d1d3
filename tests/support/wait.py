"""Polling: waits until a condition holds."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(ask: Callable[[], T], seconds: float = 60) -> T:
    """Call ``ask`` again and again until it returns something true, and return that. Fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)
    return answer
