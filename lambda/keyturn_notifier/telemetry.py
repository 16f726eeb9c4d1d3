"""What the notifier tells of itself: JSON logs, and metrics in CloudWatch's embedded format. Never a secret value."""

import os
from collections.abc import Mapping
from enum import StrEnum

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

NAMESPACE = "Keyturn"
# The stack's name, by template.yaml: several stacks in one account are told apart.
SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "keyturn")

logger = Logger(service=SERVICE)
metrics = Metrics(namespace=NAMESPACE, service=SERVICE)


class Metric(StrEnum):
    """Every metric; what each means is in MEANINGS."""

    EVENTS_RECEIVED = "EventsReceived"
    EVENTS_IGNORED = "EventsIgnored"
    DELIVERIES_DONE = "DeliveriesDone"
    DELIVERIES_AGAIN = "DeliveriesAgain"
    DELIVERIES_POISON = "DeliveriesPoison"
    DELIVERIES_REFUSED = "DeliveriesRefused"
    DELIVERY_LATENCY = "DeliveryLatency"
    EVENT_AGE = "EventAge"
    HEARTBEATS_ACCEPTED = "HeartbeatsAccepted"
    HEARTBEATS_REFUSED = "HeartbeatsRefused"


MEANINGS: Mapping[Metric, tuple[MetricUnit, str]] = {
    Metric.EVENTS_RECEIVED: (MetricUnit.Count, "Messages taken off the queue."),
    Metric.EVENTS_IGNORED: (MetricUnit.Count, "Events that change nothing: reads, failed calls, AWSPENDING..."),
    Metric.DELIVERIES_DONE: (MetricUnit.Count, "Events that every receiver has taken."),
    Metric.DELIVERIES_AGAIN: (MetricUnit.Count, "Events that stay in the queue, to be delivered again."),
    Metric.DELIVERIES_POISON: (MetricUnit.Count, "Messages put into the dead-letter queue at once."),
    Metric.DELIVERIES_REFUSED: (
        MetricUnit.Count,
        "Events that a receiver answered with 401, even after the signing key was read anew.",
    ),
    Metric.DELIVERY_LATENCY: (MetricUnit.Milliseconds, "Time of one POST, until it is answered: applied, that is."),
    Metric.EVENT_AGE: (MetricUnit.Milliseconds, "Time from the event in AWS until every receiver has taken it."),
    Metric.HEARTBEATS_ACCEPTED: (MetricUnit.Count, "Heartbeats that every receiver has taken."),
    Metric.HEARTBEATS_REFUSED: (
        MetricUnit.Count,
        "Heartbeats that some receiver has not taken; they are not repeated.",
    ),
}


def note(metric: Metric, value: float = 1) -> None:
    """Add to a metric, in its own unit."""
    metrics.add_metric(name=metric.value, unit=MEANINGS[metric][0], value=value)
