"""Telemetry: JSON logs, and metrics in CloudWatch's embedded metric format. Neither contains a secret value."""

import os
from collections.abc import Mapping
from enum import StrEnum

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

NAMESPACE = "Keyturn"
# template.yaml sets this to the name of the stack, which distinguishes several stacks in one account.
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
    DELIVERY_LATENCY = "DeliveryLatency"
    EVENT_AGE = "EventAge"
    EVENT_WAITING = "EventWaiting"
    HEARTBEATS_ACCEPTED = "HeartbeatsAccepted"
    HEARTBEATS_REFUSED = "HeartbeatsRefused"


DEFINITIONS: Mapping[Metric, tuple[MetricUnit, str]] = {
    Metric.EVENTS_RECEIVED: (MetricUnit.Count, "Messages received from the queue."),
    Metric.EVENTS_IGNORED: (
        MetricUnit.Count,
        "Events that change no value in use: reads, failed calls, moves of AWSPENDING...",
    ),
    Metric.DELIVERIES_DONE: (MetricUnit.Count, "Events that every receiver has accepted."),
    Metric.DELIVERIES_AGAIN: (MetricUnit.Count, "Events that stay in the queue for a retry."),
    Metric.DELIVERIES_POISON: (MetricUnit.Count, "Poison messages, sent to the dead-letter queue without a retry."),
    Metric.DELIVERIES_REFUSED: (
        MetricUnit.Count,
        "Events that a receiver answered with 401, even after the notifier had read the signing key again.",
    ),
    Metric.NOTIFICATIONS_REFUSED_BY_BINDING: (
        MetricUnit.Count,
        "Notifications that a receiver took, and that a binding refused or could not apply; each try counts.",
    ),
    Metric.DELIVERY_LATENCY: (
        MetricUnit.Milliseconds,
        "Duration of one POST; the receiver answers after it has applied the change.",
    ),
    Metric.EVENT_AGE: (MetricUnit.Milliseconds, "Time from the event in AWS until every receiver has accepted it."),
    Metric.EVENT_WAITING: (
        MetricUnit.Milliseconds,
        "Age of an event that is put back into the queue for a retry; the alarm EventsWaiting watches it.",
    ),
    Metric.HEARTBEATS_ACCEPTED: (MetricUnit.Count, "Heartbeats that every receiver has accepted."),
    Metric.HEARTBEATS_REFUSED: (
        MetricUnit.Count,
        "Heartbeats that at least one receiver has not accepted; they are not retried.",
    ),
}


def add_metric(metric: Metric, value: float = 1) -> None:
    """Add a value to a metric, in the unit that DEFINITIONS gives."""
    metrics.add_metric(name=metric.value, unit=DEFINITIONS[metric][0], value=value)
