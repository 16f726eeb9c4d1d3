"""Builder of the HTTP servers: for deliveries, for operations, and for the status page."""

import time
from collections.abc import Sequence

from keyturn_receiver.clock import utc_now
from keyturn_receiver.cluster.history_client import HistoryClient
from keyturn_receiver.composition.aws import Aws
from keyturn_receiver.composition.controller import Controller
from keyturn_receiver.composition.kubernetes import Kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.runtime import GRACE, Http, Notifications, Readiness
from keyturn_receiver.sources.signing_keys import ed25519
from keyturn_receiver.status.page_data import Cluster
from keyturn_receiver.status_page import HealthParts, Hooks, Recorder, StatusPage, build_status_page
from keyturn_receiver.web.certificate import ReloadingCertificate
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.health import health_app
from keyturn_receiver.web.notification_handler import NotificationHandler
from keyturn_receiver.web.server import Server
from keyturn_receiver.web.webhook import WebhookConfig, WebhookEndpoint

OPERATIONS_GRACE = 1.0  # seconds in which open requests on the operations port have to end during a shutdown


def build_http(
    process: Process, kube: Kubernetes, aws: Aws, controller: Controller, readiness: Readiness, hooks: Hooks
) -> tuple[Http, Sequence[ReloadingCertificate]]:
    """Build the HTTP servers. Return them with the list of TLS certificates to reload. The list has at most one
    element.

    If deliveries are off, no server listens for notifications. A sender then gets no connection, and cannot take this
    for a refusal of its message.
    """
    settings, metrics = process.settings, process.metrics
    health = Server(
        health_app(process.watchdog.stuck, readiness.not_ready, metrics),
        settings.host,
        settings.operations_port,
        ConnectionLimiter(settings.max_connections, metrics),
        shutdown_timeout=OPERATIONS_GRACE,
    )
    if not settings.deliveries:
        return Http(health), []
    handler = NotificationHandler(
        kube.caches.secrets,
        controller.bindings.queue,
        controller.bindings.access,
        kube.event_path.record_heartbeat,
        metrics,
        utc_now,
        controller.bindings.versions.recent if controller.bindings.versions else tuple,
    )
    webhook = WebhookEndpoint(
        handler=hooks.handler(handler),
        keys=aws.signing_keys.current,
        ready=readiness.is_prepared,
        now=time.time,
        config=WebhookConfig(
            [ed25519(key) for key in settings.signing_public_keys],
            settings.deadline_seconds,
            settings.max_deliveries,
        ),
        metrics=metrics,
        span=process.span,
    )
    certificate = (
        ReloadingCertificate(settings.tls_certificate_file, settings.tls_key_file)
        if settings.tls_certificate_file and settings.tls_key_file
        else None
    )
    limiter = ConnectionLimiter(settings.max_connections, metrics)
    server = Server(webhook.app(), settings.host, settings.port, limiter, GRACE, certificate)
    return Http(health, Notifications(webhook, server)), [certificate] if certificate else []


def build_page(
    process: Process, kube: Kubernetes, aws: Aws, controller: Controller, readiness: Readiness, recorder: Recorder
) -> StatusPage:
    """Build the status page."""
    caches, settings = kube.caches, process.settings
    rollouts = controller.rollouts
    cluster = Cluster(caches.secrets, caches.consumers, rollouts.restarter, rollouts.live, HistoryClient(kube.api))
    parts = HealthParts(
        settings.deliveries,
        kube.event_path,
        controller.bindings.poller,
        kube.elector,
        aws.stores.credentials_error,
        process.pools,
        readiness.not_prepared,
    )
    return build_status_page(settings, recorder, cluster, parts, process.metrics)
