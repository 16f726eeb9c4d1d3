"""Reporter of the reconciles of watched Secrets. It reports in Kubernetes Events, in the log and in the metrics.

The reports contain no values. If the name of a key is only in the Secret's data, the reports leave it out, because it
may be secret.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.watched_cache import WatchedSecret
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.rollout_switch import ROLLOUT
from keyturn_receiver.core.vocabulary import WATCH_LABEL
from keyturn_receiver.errors import InvalidBinding, KeyturnError, Unfinished
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.change_brake import BACKOFF
from keyturn_receiver.reconcile.consumer_reporter import count_restarts, tell_refusals, tell_restarts
from keyturn_receiver.reconcile.consumer_restarter import RolloutResult
from keyturn_receiver.reconcile.request import Request
from keyturn_receiver.reconcile.status_reporter import FAILURE_BURST, FAILURE_RATE
from keyturn_receiver.reconcile.turn_events import tell_halt, tell_waits
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.token_bucket import TokenBuckets
from keyturn_receiver.telemetry.metrics import Metrics

MAX_HALTED = 1000  # watched Secrets whose halt is remembered, to report its end

_log = logging.getLogger(__name__)


class WatchReporter:
    """Watch reporter. Reports each reconcile of a watched Secret once."""

    def __init__(self, events: EventRecorder, metrics: Metrics) -> None:
        self._events = events
        self._metrics = metrics
        self._failures = TokenBuckets(FAILURE_RATE, FAILURE_BURST, time.monotonic)
        self._halted: BoundedMap[str, bool] = BoundedMap(MAX_HALTED)  # by UID

    async def report_and_wait(
        self, secret: WatchedSecret, written: bool, rollout: RolloutResult, error: KeyturnError | None
    ) -> None:
        """Report a reconcile. After an error, wait if many reconciles of the namespace fail, because each failure costs
        calls to Kubernetes."""
        self.report(secret, written, rollout, error)
        if error:
            await self._failures.wait(secret.target.namespace)

    def report(self, secret: WatchedSecret, written: bool, rollout: RolloutResult, error: KeyturnError | None) -> None:
        """Report a reconcile. ``written`` is true if it has written the annotation on the Secret."""
        if written and secret.watched.is_new:
            keys = len(secret.record.revisions)
            self._event(
                secret, False, "Watched", f"pods that read one of its {keys} keys restart when the key's value changes"
            )
        for fault in (*secret.spec.rollout_faults, *rollout.faults):
            self._event(secret, True, InvalidBinding.reason, f"{fault}; no pod is restarted until then")
        if rollout.restarted:
            _log.info("a watched Secret has changed")
            self._event(secret, False, "Changed", _message(secret, rollout.restarted))
        count_restarts(self._metrics, rollout.restarted)
        tell_restarts(self._events, secret.target, rollout.restarted, partial(_message_to_one, secret))
        tell_waits(self._events, secret.target, secret.uid, rollout.turn)
        self._tell_halt(secret, rollout)
        tell_refusals(self._events, secret.target, rollout.refused)
        if error and not isinstance(error, Unfinished):
            self._event(secret, True, error.reason, str(error))

    def _tell_halt(self, secret: WatchedSecret, rollout: RolloutResult) -> None:
        """Report that a failed rollout halts the others, and the end of a halt that this replica has reported. A
        watched Secret has no status that another replica could read the halt from."""
        if rollout.turn.halted_by:
            self._halted.put(secret.uid, True)
        elif rollout.error or not self._halted.pop(secret.uid):
            return
        tell_halt(self._events, secret.target, secret.uid, rollout.turn)

    def on_braked(self, secret: WatchedSecret) -> None:
        """Report a Secret whose next change will be delayed."""
        self._metrics.watch_brakes.inc()
        message = (
            f"its values, or its annotations, change again and again: Keyturn follows further changes more and more"
            f" slowly, at last one in {BACKOFF.cap / 60:.0f} min. Let its controller write only what has changed, or"
            f" remove the label {WATCH_LABEL}, or annotate the Secret with {ROLLOUT}: disabled"
        )
        self._event(secret, True, "ChangesTooOften", message)

    def log_failure(self, target: Target, request: Request, error: KeyturnError) -> None:
        """Log the error with which a reconcile ended."""
        fields = {"secret": str(target), "reason": error.reason, "cause": request.priority}
        _log.warning("%s", error, extra={"fields": fields})

    def count(self, request: Request, outcome: str, seconds: float) -> None:
        """Count a reconcile that took ``seconds``."""
        self._metrics.reconcile_seconds.observe(seconds)
        self._metrics.reconciles.labels(request.priority, outcome).inc()

    def _event(self, secret: WatchedSecret, warning: bool, reason: str, message: str) -> None:
        self._events.event(secret.target, secret.uid, warning, reason, message)


def _message(secret: WatchedSecret, restarted: Sequence[Consumer]) -> str:
    """Return the message of an Event about the Secret, or about one consumer.

    Equal messages within some minutes become one Event, so the messages about two changes must differ. For this
    purpose, each message has the beginning of a keyed hash of the Secret's new state. The hash reveals nothing about
    the values.
    """
    change = event_messages.versions(secret.record)
    return f"a value that they read has changed ({change}); {event_messages.outcome(restarted)}"


def _message_to_one(secret: WatchedSecret, consumer: Consumer) -> str:
    message = _message(secret, [consumer])
    return f"{message}; {event_messages.RELOADER_ADVICE}" if consumer.may_restart_twice else message
