"""Reports restarts of the consumers of a Secret, and refused restarts: in Events on the workloads, in the log and in
the metrics.

The functions serve both bound and watched Secrets.
"""

import logging
from collections.abc import Callable, Sequence

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.errors import ClusterRefused
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.telemetry.metrics import Metrics

MAX_CONSUMER_EVENTS = 20  # at most this many workloads get an Event of one kind from one reconcile of a Secret

_log = logging.getLogger(__name__)


def tell_consumer(
    events: EventRecorder, consumer: Consumer, warning: bool, reason: str, secret: Target, message: str
) -> None:
    """Queue an Event on a workload. The Event is about a Secret that the pods of the workload read."""
    ref = consumer.ref
    about = Target(ref.namespace, ref.name)
    events.event(about, consumer.uid, warning, reason, f"Secret {secret.name}: {message}", kind=ref.kind)


def tell_restarts(
    events: EventRecorder, secret: Target, restarted: Sequence[Consumer], message_of: Callable[[Consumer], str]
) -> None:
    """Queue an Event on each workload in ``restarted``, up to MAX_CONSUMER_EVENTS workloads. These workloads were
    restarted for a Secret, or would have been restarted if their pods were not held. ``message_of`` returns the message
    for one workload."""
    for consumer in restarted[:MAX_CONSUMER_EVENTS]:
        reason = "NotRestarted" if event_messages.is_held(consumer) else "Restarted"
        warning = consumer.hold is not None and consumer.hold.keeps_old_pods
        tell_consumer(events, consumer, warning, reason, secret, message_of(consumer))


def tell_refusals(events: EventRecorder, secret: Target, refused: Sequence[tuple[Consumer, ClusterRefused]]) -> None:
    """Queue an Event on each workload whose restart the API server refuses, up to MAX_CONSUMER_EVENTS workloads. The
    Event gives the reason."""
    for consumer, refusal in refused[:MAX_CONSUMER_EVENTS]:
        tell_consumer(events, consumer, True, refusal.reason, secret, f"no restart: {refusal}")


def count_restarts(metrics: Metrics, restarted: Sequence[Consumer]) -> None:
    """Log each consumer in ``restarted``. Count the consumers whose pods restart.

    A consumer that is held got its mark (the annotation that restarts pods), but its pods do not restart. Evictions may
    be refused, so a consumer that asks for evictions is counted when the first of its pods is evicted
    (``count_restart``).
    """
    for consumer in restarted:
        if event_messages.is_held(consumer):
            _log.info("not restarted", extra={"fields": _fields(consumer)})
        elif not consumer.evicts:
            count_restart(metrics, consumer)


def count_restart(metrics: Metrics, consumer: Consumer) -> None:
    """Log and count a consumer whose pods restart."""
    metrics.rollouts.labels(consumer.ref.kind).inc()
    _log.info("restarted", extra={"fields": _fields(consumer)})


def _fields(consumer: Consumer) -> dict[str, str]:
    return {"consumer": str(consumer.ref), **({"hold": consumer.hold.text} if consumer.hold else {})}
