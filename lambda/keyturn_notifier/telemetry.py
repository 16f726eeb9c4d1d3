"""Telemetry: JSON logs, and metrics in CloudWatch's embedded metric format. Neither contains a secret value."""

import os
from collections.abc import Mapping
from enum import StrEnum

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

NAMESPACE = "Keyturn"
# template.yaml sets this variable to the name of the stack. An account may have several stacks.
SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "keyturn")

logger = Logger(service=SERVICE)
metrics = Metrics(namespace=NAMESPACE, service=SERVICE)


class Metric(StrEnum):
    """The name of each metric. DEFINITIONS has its unit and its meaning."""

    EVENTS_RECEIVED = "EventsReceived"
    EVENTS_IGNORED = "EventsIgnored"
    DELIVERIES_DONE = "DeliveriesDone"
    DELIVERIES_AGAIN = "DeliveriesAgain"
    DELIVERIES_POISON = "DeliveriesPoison"
    DELIVERIES_REFUSED = "DeliveriesRefused"
    NOTIFICATIONS_REFUSED_BY_BINDING = "NotificationsRefusedByBinding"
    TLS_FAILURES = "TlsFailures"
    CA_FAULTS = "CaFaults"
    DELIVERY_LATENCY = "DeliveryLatency"
    EVENT_AGE = "EventAge"
    EVENT_WAITING = "EventWaiting"
    HEARTBEATS_ACCEPTED = "HeartbeatsAccepted"
    HEARTBEATS_REFUSED = "HeartbeatsRefused"
    MEMBER_HEARTBEATS = "MemberHeartbeats"
    RECEIPTS_SENT = "ReceiptsSent"
    RECEIPTS_FAILED = "ReceiptsFailed"


DEFINITIONS: Mapping[Metric, tuple[MetricUnit, str]] = {
    Metric.EVENTS_RECEIVED: (MetricUnit.Count, "Messages received from the queue."),
    Metric.EVENTS_IGNORED: (
        MetricUnit.Count,
        "Events that change no value in use: reads, failed calls, moves of AWSPENDING...",
    ),
    Metric.DELIVERIES_DONE: (MetricUnit.Count, "Events that every receiver has accepted."),
    Metric.DELIVERIES_AGAIN: (MetricUnit.Count, "Events that stay in the queue for a retry."),
    Metric.DELIVERIES_POISON: (
        MetricUnit.Count,
        "Poison messages, moved to the dead-letter queue without a retry.",
    ),
    Metric.DELIVERIES_REFUSED: (
        MetricUnit.Count,
        "Events that a receiver answered with 401, even after the notifier had read the signing key again.",
    ),
    Metric.NOTIFICATIONS_REFUSED_BY_BINDING: (
        MetricUnit.Count,
        "Notifications that a receiver took, and that a binding refused or could not apply; each try counts.",
    ),
    Metric.TLS_FAILURES: (
        MetricUnit.Count,
        "POSTs without an answer, because the receiver's certificate is not trusted or TLS failed; the log says why.",
    ),
    Metric.CA_FAULTS: (
        MetricUnit.Count,
        "Faults of the private CAs (CaBundle, CaBundleSecretArn), counted when a function starts; the log says which.",
    ),
    Metric.DELIVERY_LATENCY: (
        MetricUnit.Milliseconds,
        "Duration of one POST; the receiver answers after it has applied the change.",
    ),
    Metric.EVENT_AGE: (MetricUnit.Milliseconds, "Time from the event in AWS until every receiver has accepted it."),
    Metric.EVENT_WAITING: (
        MetricUnit.Milliseconds,
        "Age of an event that is put back into the queue for a retry, or that could not be moved to the dead-letter "
        "queue; the alarm EventsWaiting watches it.",
    ),
    Metric.HEARTBEATS_ACCEPTED: (MetricUnit.Count, "Heartbeats that every receiver has accepted."),
    Metric.HEARTBEATS_REFUSED: (
        MetricUnit.Count,
        "Heartbeats that at least one receiver has not accepted; they are not retried.",
    ),
    Metric.MEMBER_HEARTBEATS: (
        MetricUnit.Count,
        "Heartbeats of the accounts and regions that forward events, in all and with the dimension `origin` "
        "(ACCOUNT/REGION) of each; they are delivered to no receiver.",
    ),
    Metric.RECEIPTS_SENT: (MetricUnit.Count, "Receipts that were put on the receipts' bus."),
    Metric.RECEIPTS_FAILED: (
        MetricUnit.Count,
        "Receipts that could not be put on the receipts' bus and are lost; the log says why.",
    ),
}


def add_metric(metric: Metric, value: float = 1) -> None:
    """Add a value to a metric, in the unit that DEFINITIONS gives."""
    metrics.add_metric(name=metric.value, unit=DEFINITIONS[metric][0], value=value)


def count_member_heartbeat(account: str, region: str) -> None:
    """Count a heartbeat in two metrics: one with the dimension ``origin``, and one without it. The alarm uses the
    second metric."""
    metric, metrics_of_origin = Metric.MEMBER_HEARTBEATS, EphemeralMetrics(namespace=NAMESPACE, service=SERVICE)
    metrics_of_origin.add_metric(name=metric.value, unit=DEFINITIONS[metric][0], value=1)
    metrics_of_origin.add_dimensions(service=SERVICE, origin=f"{account}/{region}")
    metrics_of_origin.flush_metrics()
