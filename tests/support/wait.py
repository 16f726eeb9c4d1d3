"""Polling: how a test waits for a state."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(ask: Callable[[], T], seconds: float = 30) -> T:
    """Wait until ``ask`` gives something true, and return it. Fails when ``seconds`` are over."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)
    return answer
