"""Limiter of concurrent deliveries. If there are too many, a further delivery gets the reply 503, and SQS delivers it
again."""

from collections.abc import Iterator
from contextlib import contextmanager

from keyturn_receiver.web import reply_status


class DeliveryLimiter:
    """Limiter of deliveries. At most ``limit`` deliveries are handled at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Context manager that holds a place for one delivery. Raises HTTPException (503) if no place is free."""
        if self._running >= self._limit:
            raise reply_status.busy()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
