"""Runtime of the receiver. It starts the parts in order, decides on readiness, and stops the parts in order."""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.liveness import Ping
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.sources.signing_keys import SigningKeys
from keyturn_receiver.sources.stores import Stores
from keyturn_receiver.telemetry.logs import RepeatedWarnings
from keyturn_receiver.web.server import Server
from keyturn_receiver.web.webhook import WebhookEndpoint

# Kubernetes kills the process 30 seconds after SIGTERM. The drain takes at most 15 seconds.
GRACE = 9.0  # seconds after the drain for deliveries and reconciles that still run at its end
REPLY_DEADLINE = 7.0  # seconds after the drain in which every delivery has to be answered
EVENT_FLUSH = 2.0  # seconds for writing the Events that are still queued

_log = logging.getLogger(__name__)


class Informer(Protocol):
    """An informer fills a cache. It sets ``synced`` when its first list, or its first read, is complete."""

    synced: asyncio.Event

    async def run(self) -> None: ...


class Readiness:
    """Readiness. It lists the conditions that the receiver still waits for, in words for people."""

    def __init__(self, informers: Mapping[str, Informer], signing_keys: SigningKeys, stores: Stores) -> None:
        self._informers = informers
        self._signing_keys = signing_keys
        self._stores = stores
        self.shutting_down = False

    def not_prepared(self) -> Sequence[str]:
        """Return the conditions without which the receiver cannot verify a delivery and answer it correctly."""
        lists = [
            f"the first list of {name}" for name, informer in self._informers.items() if not informer.synced.is_set()
        ]
        return [*lists, *self._signing_keys.waiting_for()]

    def is_prepared(self) -> bool:
        """Return whether the receiver can verify deliveries and answer them correctly."""
        return not self.not_prepared()

    def not_ready(self) -> Sequence[str]:
        """Return the conditions without which the cluster should not route deliveries to the receiver.

        Without working AWS credentials, the receiver is not ready. It still handles the deliveries that arrive, because
        a later call to AWS may succeed.
        """
        if self.shutting_down:
            return ["shutting down"]
        fault = self._stores.credentials_error()
        return [*self.not_prepared(), *([f"AWS credentials: {fault}"] if fault else [])]


class SigningKeyLoader:
    """Loader that reads the signing keys every ``interval`` seconds, or every second while the receiver is not ready.

    While the receiver's own credentials are not known to work, it also makes one cheap call to AWS after each read.
    """

    def __init__(
        self,
        keys: SigningKeys,
        stores: Stores,
        readiness: Readiness,
        interval: float,
        ping: Ping,
    ) -> None:
        self._keys = keys
        self._stores = stores
        self._readiness = readiness
        self._interval = interval
        self._ping = ping
        self._warnings = RepeatedWarnings(_log)

    async def run(self) -> None:
        """Read the keys until cancelled."""
        while True:
            self._ping()
            await self._keys.load()
            if self._stores.credentials_error():
                await self._check_credentials()
            pause = 1.0 if self._readiness.not_ready() else self._interval
            self._ping(pause)
            await asyncio.sleep(pause)

    async def _check_credentials(self) -> None:
        with suppress(KeyturnError):  # the stores remember the reason
            await (await self._stores.get(self._stores.key())).secrets_manager.check_credentials()
        if error := self._stores.credentials_error():
            self._warnings.warning("AWS credentials", f"AWS credentials: {error}")
        else:
            self._warnings.over("AWS credentials")


Part = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Background:
    """Background tasks that run beside the servers.

    ``parts`` run from the start. ``controller`` starts when every informer has its first list. Before that, an object
    that is not cached yet would seem not to exist. ``ping`` reports the controller's progress.
    """

    informers: Mapping[str, Informer]
    parts: Sequence[Part]
    controller: Part
    ping: Ping


@dataclass(frozen=True, slots=True)
class Http:
    """The HTTP server for operations, and the parts that take notifications. ``notifications`` is None if the receiver
    takes no deliveries."""

    operations: Server
    notifications: "Notifications | None" = None


@dataclass(frozen=True, slots=True)
class Notifications:
    """The webhook endpoint, and the HTTP server that serves it."""

    webhook: WebhookEndpoint
    server: Server


class Runtime:
    """Runtime. It starts and stops the parts of a receiver in order."""

    def __init__(
        self,
        background: Background,
        http: Http,
        queues: Sequence[WorkQueue],
        events: EventRecorder,
        readiness: Readiness,
        drain_seconds: float,
    ) -> None:
        self._background = background
        self._http = http
        self._queues = queues
        self._events = events
        self._readiness = readiness
        self._drain_seconds = drain_seconds

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. If a part raises an error, the process ends, and Kubernetes restarts it."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            notifications = self._http.notifications
            running = [*([notifications.server] if notifications else []), self._http.operations]
            servers = [group.create_task(each.serve()) for each in running]
            informers = [informer.run for informer in self._background.informers.values()]
            background = [
                group.create_task(part()) for part in (*informers, *self._background.parts, self._run_controller)
            ]
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, *servers], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await self._shut_down(servers)
            for task in background:
                task.cancel()
        await self._events.flush(EVENT_FLUSH)

    async def _run_controller(self) -> None:
        while not await self._synced():
            self._background.ping()  # a controller that waits for the informers is not stuck
        # The objects in the caches live long, so the garbage collector skips them from now on.
        gc.collect()
        gc.freeze()
        await self._background.controller()

    async def _synced(self, seconds: float = 10.0) -> bool:
        """Wait up to ``seconds`` for the informers. Return whether all of them have their first list."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for informer in self._background.informers.values():
                    await informer.synced.wait()
                return True
        return False

    async def _shut_down(self, servers: Sequence["asyncio.Task[None]"]) -> None:
        """Keep serving until the cluster no longer routes deliveries to this process. Then finish the accepted work."""
        self._readiness.shutting_down = True
        _log.info("shutting down")
        notifications = self._http.notifications
        if notifications:
            notifications.webhook.start_draining()
            if not any(server.done() for server in servers):
                await asyncio.sleep(self._drain_seconds)
        end = time.monotonic() + GRACE
        if notifications:
            notifications.webhook.set_deadline(REPLY_DEADLINE)
            notifications.server.should_exit = True
            await asyncio.wait(servers[:1])
        grace = max(0.0, end - time.monotonic())
        await asyncio.gather(*(queue.close(grace) for queue in self._queues))
        self._http.operations.should_exit = True
        await asyncio.gather(*servers)
