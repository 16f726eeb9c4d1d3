"""A fake clock that moves only when a test advances it."""


class FakeClock:
    """A clock that returns its current time in seconds when it is called."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.seconds += seconds
