"""HTTP server of the status page on the pod's loopback, and the function that builds the page."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from keyturn_receiver import __version__
from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.event_path import EventPathMonitor
from keyturn_receiver.cluster.lease import LeaderElector
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.printable import printable
from keyturn_receiver.errors import SourceUnavailable
from keyturn_receiver.poller.poller import Poller
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.status.binding_states import BindingStates
from keyturn_receiver.status.fault_barrier import FaultBarrier
from keyturn_receiver.status.health import Polling
from keyturn_receiver.status.page_data import Cluster, PageData
from keyturn_receiver.status.rotation_log import RotationLog
from keyturn_receiver.status.rotation_recorder import Handler, Reconcile, RotationRecorder
from keyturn_receiver.status.routes import status_app
from keyturn_receiver.status.streams import Streams
from keyturn_receiver.status.views import Replica
from keyturn_receiver.telemetry.logs import RepeatedWarnings
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.server import Server

HOST = "127.0.0.1"  # only connections from inside the pod reach this address, such as those of `kubectl port-forward`
MAX_CONNECTIONS = 64
GRACE = 1.0  # seconds that open requests may take during a shutdown
RETRY_SECONDS = 30.0  # seconds between two attempts to listen on a port that another process uses
UNSERVED = (
    "the status page is not served: %s:%s cannot be listened on (%s): set KEYTURN_STATUS_PAGE_PORT to a free port, or"
    " KEYTURN_STATUS_PAGE to false"
)
FAILED = "the status page is not served, because of an error in its own code: report it with this line"
WARN_SECONDS = 3600.0  # seconds between two warnings with the same text

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Decorators of the engine's parts. A decorated part also records its work for the page."""

    span: Callable[[Span], Span]
    reconcile: Callable[[Reconcile], Reconcile]
    handler: Callable[[Handler], Handler]


def _same(part: Any) -> Any:
    return part


NO_HOOKS = Hooks(_same, _same, _same)  # without a page, nothing is recorded


class Recorder:
    """Recorder for the page. It holds the last rotations, and the bindings with trouble."""

    def __init__(self, secrets: SecretCache, consumers: ConsumerIndex, wall: Callable[[], float] = time.time) -> None:
        self.log = RotationLog(secrets, consumers, wall)
        self.states = BindingStates(secrets, wall)
        guarded = FaultBarrier().guarded  # guarded, because the informers call these handlers
        secrets.add_handler(guarded(self.states.on_secret))
        secrets.add_handler(guarded(self.log.on_secret))
        consumers.add_progress_handler(guarded(self.log.on_progress))
        consumers.add_unread_handler(guarded(self.log.on_unread))

    def hooks(self) -> Hooks:
        """Return decorators that record the engine's work."""
        log = RotationRecorder(self.log)
        return Hooks(log.traced, lambda reconcile: self.states.recorded(log.recorded(reconcile)), log.handling)


@dataclass(frozen=True, slots=True)
class HealthParts:
    """The parts whose health the page shows (``status/health.py``)."""

    takes_deliveries: bool
    path: EventPathMonitor
    sweeper: Poller
    elector: LeaderElector
    credentials: Callable[[], str | None]
    pools: ThreadPools
    not_prepared: Callable[[], Sequence[str]]

    def deliveries(self) -> bool:
        return self.takes_deliveries

    def event_path(self) -> tuple[bool, float | None]:
        return self.path.healthy(), self.path.silence()

    def poller(self) -> Polling:
        sweeper, failure = self.sweeper, self.sweeper.failure()
        return Polling(
            self.elector.is_leader(),
            sweeper.seconds_since_sweep(),
            sweeper.overdue_for(),
            str(failure) if failure else "",
            isinstance(failure, SourceUnavailable),
            self.elector.seconds_since_renewal(),
        )

    def credentials_error(self) -> str | None:
        return self.credentials()

    def hung_for(self) -> float:
        return self.pools.saturated_for()

    def missing_lists(self) -> Sequence[str]:
        return self.not_prepared()


class StatusPage:
    """HTTP server of the page. The receiver works without the page, so no fault of the page ends the process."""

    def __init__(self, app: ASGIApp, streams: Streams, port: int, metrics: Metrics) -> None:
        self._app = app
        self._streams = streams
        self._port = port
        self._limiter = ConnectionLimiter(MAX_CONNECTIONS, metrics)
        self._warnings = RepeatedWarnings(_log, WARN_SECONDS)

    async def run(self) -> None:
        """Serve until cancelled. If the port is in use, or if the server fails, log a warning and try again after
        RETRY_SECONDS."""
        while True:
            server = Server(self._app, HOST, self._port, self._limiter, GRACE)
            serving = asyncio.create_task(server.serve())
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                self._streams.end()
                server.should_exit = True
                await asyncio.wait([serving])
                raise
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else "OSError"
                self._warnings.warning("port", UNSERVED % (HOST, self._port, reason))
            except Exception:
                self._warnings.warning("server", FAILED, with_error=True)
            await asyncio.sleep(RETRY_SECONDS)


def build_status_page(
    settings: Settings, recorder: Recorder, cluster: Cluster, parts: HealthParts, metrics: Metrics
) -> StatusPage:
    """Build the page over the caches and the recorder."""
    replica = Replica(
        __version__,
        printable(settings.status_page_cluster),
        f"{settings.lease_namespace}/{settings.lease_name}",
        socket.gethostname(),
        time.time(),
    )
    data = PageData(replica, cluster, recorder.states, recorder.log.ring, parts)
    streams = Streams(data.snapshot, data.rotation)
    recorder.log.add_handler(streams.on_rotation)
    recorder.states.add_handler(streams.on_change)
    return StatusPage(status_app(data, streams, replica), streams, settings.status_page_port, metrics)
