"""The lowest layer: the parts of the process that every other layer uses."""

from concurrent.futures import Executor
from dataclasses import dataclass

from keyturn_receiver.liveness import Watchdog
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span


@dataclass(frozen=True, slots=True)
class Process:
    """The lowest layer. All other layers depend on it. It has the settings, threads, metrics, liveness and traces."""

    settings: Settings
    pools: ThreadPools
    rendering: Executor
    metrics: Metrics
    watchdog: Watchdog
    span: Span
