"""The legs (steps) of a reconcile. Each leg has a span and a histogram of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span, no_traces


class Leg(StrEnum):
    FETCH = "fetch"  # values are read from AWS
    APPLY = "apply"  # the Secret is written
    ROLLOUT = "rollout"  # the consumers of the Secret are marked


class LegTimer:
    """Timer of the legs. ``span`` opens a span for each leg."""

    def __init__(self, metrics: Metrics, span: Span = no_traces) -> None:
        self._span = span
        self._seconds = {
            Leg.FETCH: metrics.fetch_seconds,
            Leg.APPLY: metrics.apply_seconds,
            Leg.ROLLOUT: metrics.rollout_seconds,
        }

    @contextmanager
    def time(self, leg: Leg) -> Iterator[None]:
        """Time ``leg``, which is the body of the ``with`` statement."""
        with self._seconds[leg].time(), self._span(leg.value):
            yield
