"""Composition root. It builds the receiver in layers. Each layer uses only the layers below it. ``runtime`` then runs
the receiver."""

import logging
from concurrent.futures import Executor

from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.composition.aws import build_aws
from keyturn_receiver.composition.controller import build_controller
from keyturn_receiver.composition.gauges import observe
from keyturn_receiver.composition.handlers import connect_handlers
from keyturn_receiver.composition.http import build_http, build_page
from keyturn_receiver.composition.kubernetes import build_kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.liveness import Watchdog
from keyturn_receiver.runtime import Background, Readiness, Runtime, SigningKeyLoader
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.status_page import NO_HOOKS, Recorder
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span, no_traces

_log = logging.getLogger(__name__)


def build(
    settings: Settings, transport: Transport, pools: ThreadPools, rendering: Executor, span: Span = no_traces
) -> Runtime:
    """Build the receiver."""
    process = Process(settings, pools, rendering, Metrics(), Watchdog(settings.stuck_seconds), span)
    kube = build_kubernetes(process, transport)
    aws = build_aws(process, kube)
    recorder = Recorder(kube.caches.secrets, kube.caches.consumers) if settings.status_page else None
    hooks = recorder.hooks() if recorder else NO_HOOKS
    controller = build_controller(process, kube, aws, hooks)
    bindings, rollouts, watches = controller.bindings, controller.rollouts, controller.watches
    readiness = Readiness(kube.informers, aws.signing_keys, aws.stores)
    http, certificates = build_http(process, kube, aws, controller, readiness, hooks)
    observe(process, kube, aws, controller)
    connect_handlers(kube, controller)

    key_loader = SigningKeyLoader(
        aws.signing_keys,
        aws.stores,
        readiness,
        settings.signing_key_interval_seconds,
        ping=process.watchdog.register("signing key"),
    )

    ping = process.watchdog.register("poller")

    async def run_controller() -> None:
        bindings.drift.start()
        watches.detector.start()
        if not settings.deliveries:
            _log.info("deliveries are off: the poller alone carries changes")
        _log.info("started", extra={"fields": {"bindings": len(kube.caches.secrets)}})
        await bindings.poller.run(ping)

    parts = [key_loader.run, kube.events.run, kube.elector.run, kube.event_path.run]
    parts += [bindings.releases.run, rollouts.crashes.run, rollouts.live.run]
    if bindings.readers:
        parts.append(bindings.readers.run)
    if recorder:
        parts.append(build_page(process, kube, aws, controller, readiness, recorder).run)
    background = Background(kube.informers, [*parts, *(each.run for each in certificates)], run_controller, ping)
    queues = [bindings.queue, watches.queue]
    return Runtime(background, http, queues, kube.events, readiness, settings.drain_seconds)
