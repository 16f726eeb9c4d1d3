"""Search for the unsettled marks of a Secret (``core/unsettled.py``) before a write."""

from collections.abc import Sequence

from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import is_waiting, next_unsettled
from keyturn_receiver.core.unsettled import UnsettledMarks
from keyturn_receiver.resilience.time_slice import filter_in_slices


async def unsettled_marks(
    consumers: Sequence[Consumer], secret_name: str, before: Record, after: Record, now: int
) -> UnsettledMarks:
    """Return ``Record.unsettled`` for a write that replaces the record ``before`` by ``after``. ``consumers`` are all
    consumers of the Secret, and ``now`` is in seconds since 1970."""
    waiting = await filter_in_slices(consumers, lambda each: is_waiting(each, secret_name, before))
    return next_unsettled(waiting, secret_name, before, after, now)
