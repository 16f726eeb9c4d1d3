"""The composition root: builds the receiver from its settings, and runs it. Nothing is built anywhere else."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import uvicorn
from kubernetes.aio.client import ApiClient
from pydantic import ValidationError
from starlette.applications import Starlette

from keyturn_receiver.cluster import api as kubernetes
from keyturn_receiver.cluster.bound_secrets import BoundSecrets
from keyturn_receiver.cluster.change import Change
from keyturn_receiver.cluster.consumers import Consumers, ConsumersBySecret
from keyturn_receiver.cluster.events import Events
from keyturn_receiver.cluster.lease import Lease
from keyturn_receiver.cluster.namespaces import Namespaces
from keyturn_receiver.cluster.reflector import Reflector
from keyturn_receiver.cluster.secrets import Secrets
from keyturn_receiver.cluster.workloads import RESOURCES, Workloads
from keyturn_receiver.core.binding import BIND_LABEL, Target
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.poller import Poller
from keyturn_receiver.reconcile.queue import Queue
from keyturn_receiver.reconcile.reconciler import Reconciler
from keyturn_receiver.reconcile.request import Cause, because
from keyturn_receiver.reconcile.restarts import Restarts
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources.secrets_manager import SecretsManager, new_client
from keyturn_receiver.sources.signing_keys import SigningKeys, ed25519
from keyturn_receiver.telemetry import Metrics, configure_logging
from keyturn_receiver.web.answer import Answer
from keyturn_receiver.web.door import Door
from keyturn_receiver.web.operations import operations

GRACE = 20.0  # seconds for what is under way at SIGTERM; Kubernetes allows 30

_log = logging.getLogger(__name__)

_WHOLE = {"list": "application/json", "watch": "application/json"}
_METADATA = {"list": kubernetes.METADATA_LIST, "watch": kubernetes.METADATA_ONLY}


class Receiver:
    """The receiver's parts, put together; ``run`` sets them going."""

    def __init__(self, settings: Settings, client: ApiClient, executor: ThreadPoolExecutor) -> None:
        self.settings = settings
        metrics = Metrics()
        api = kubernetes.Api(client, metrics)
        secrets_manager = SecretsManager(new_client(settings.aws_threads), executor, metrics)
        self.signing_keys = SigningKeys(secrets_manager, settings.signing_key_secret_id)

        self.bound = BoundSecrets(self._changed)
        namespaces = Namespaces(self._namespace_changed)
        consumers = ConsumersBySecret()
        self.reflectors = {
            "namespaces": Reflector(api, kubernetes.path("v1", "namespaces"), namespaces, {}, _METADATA),
            "secrets": Reflector(
                api, kubernetes.path("v1", "secrets"), self.bound, {"labelSelector": f"{BIND_LABEL}=true"}, _METADATA
            ),
        }
        for kind, resource in RESOURCES.items():
            workloads = Consumers(kind, consumers, self._changed)
            self.reflectors[resource] = Reflector(api, kubernetes.path("apps/v1", resource), workloads, {}, _WHOLE)

        secrets = Secrets(api)
        reconciler = Reconciler(
            secrets_manager=secrets_manager,
            secrets=secrets,
            bound=self.bound,
            namespaces=namespaces,
            restarts=Restarts(consumers, Workloads(api), secrets, metrics),
            events=Events(api, _utc_now),
            policy_default=settings.policy_default,
            now=_utc_now,
        )
        self.queue = Queue(reconciler.reconcile, settings.concurrency, metrics)
        identity = f"{socket.gethostname()}-{os.getpid()}"
        self.lease = Lease(client, settings.lease_namespace, settings.lease_name, identity)
        self.poller = Poller(
            secrets_manager, self.bound, self.queue, self.lease.held, settings.poll_interval_seconds, metrics
        )
        metrics.bindings.set_function(lambda: len(self.bound))
        metrics.poller_leader.set_function(self.lease.held.is_set)
        door = Door(
            answer=Answer(self.bound, self.queue),
            keys=self.signing_keys,
            public_keys=[ed25519(key) for key in settings.signing_public_keys],
            ready=lambda: not self.missing(),
            now=time.time,
            deadline=settings.deadline_seconds,
            max_deliveries=settings.max_deliveries,
            metrics=metrics,
        )
        self.servers = (
            _Server(door.app(), settings.host, settings.port),
            _Server(operations(self.missing, metrics), settings.host, settings.operations_port),
        )

    def missing(self) -> list[str]:
        """What readiness still waits for, in words."""
        unsynced = [f"the first list of {name}" for name, part in self.reflectors.items() if not part.synced.is_set()]
        secret_id = self.settings.signing_key_secret_id
        return unsynced + ([] if self.signing_keys() or not secret_id else [f"signing key {secret_id}"])

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; a part that breaks for good takes the process down, to be started anew."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(server.serve()) for server in self.servers]
            background = [
                group.create_task(part)
                for part in (
                    *(reflector.run() for reflector in self.reflectors.values()),
                    self._look_for_keys(),
                    self._begin(),
                    self.lease.run(),
                    self.poller.run(),
                )
            ]
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            _log.info("stopping")
            for server in self.servers:
                server.should_exit = True
            await asyncio.gather(*serving)
            await self.queue.close(GRACE)
            for task in background:
                task.cancel()

    async def _begin(self) -> None:
        # Not before the pictures are whole: a consumer not seen yet would look as if there was none.
        for reflector in self.reflectors.values():
            await reflector.synced.wait()
        for bound in self.bound.all():
            self.queue.add(bound.target, because(Cause.SECRET))
        _log.info("begun", extra={"fields": {"bindings": len(self.bound)}})

    async def _look_for_keys(self) -> None:
        while self.settings.signing_key_secret_id:
            try:
                await self.signing_keys.look()
            except KeyturnError as error:
                _log.warning("%s", error)
            await asyncio.sleep(self.settings.signing_key_interval_seconds if self.signing_keys() else 1.0)

    def _changed(self, target: Target, change: Change) -> None:
        if change is Change.CONSUMER and self.bound.get(target) is None:
            return  # most workloads read Secrets that are not ours
        if all(reflector.synced.is_set() for reflector in self.reflectors.values()):
            self.queue.add(target, because(Cause(change.value)))

    def _namespace_changed(self, namespace: str) -> None:
        for target in self.bound.within(namespace):
            self._changed(target, Change.NAMESPACE)


class _Server(uvicorn.Server):
    """A server among others in one process: signals and logs are the process's business."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(GRACE),
                limit_concurrency=1000,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def serve(settings: Settings) -> None:
    """Build the receiver, run it, and leave nothing open."""
    client = await kubernetes.new_client(connections=settings.concurrency + 16)
    executor = ThreadPoolExecutor(settings.aws_threads, thread_name_prefix="aws")
    try:
        await Receiver(settings, client, executor).run()
    finally:
        await client.close()
        executor.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """Read the settings and run; a setting that is wrong ends it with status 2 and says which."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # they come from the environment
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "KEYTURN_" + str(fault["loc"][0]).upper() if fault["loc"] else "settings"
            print(f"{name}: {fault['msg']}. See docs/settings.md.", file=sys.stderr)
        sys.exit(2)
    configure_logging(settings.log_level)
    try:
        asyncio.run(serve(settings))
    except Exception:
        # Logged by our formatter, which shows frames and no text: an exception's own may quote what it stumbled over.
        _log.critical("broken, to be started anew", exc_info=True)
        sys.exit(1)
