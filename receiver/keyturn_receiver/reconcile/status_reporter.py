"""Reports the outcome of a reconcile in the status annotation, in a Kubernetes Event, in the log and in the metrics."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.binding import BindingSpec
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import OK, Record, status_of
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.errors import (
    Conflict,
    InvalidBinding,
    KeyturnError,
    Permanent,
    Unfinished,
    Unrecorded,
    detached,
    first_retryable,
)
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.consumer_reporter import (
    MAX_CONSUMER_EVENTS,
    count_restarts,
    tell_consumer,
    tell_refusals,
    tell_restarts,
)
from keyturn_receiver.reconcile.consumer_restarter import RolloutResult
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.secret_filler import FillResult
from keyturn_receiver.reconcile.turn_events import tell_halt, tell_waits
from keyturn_receiver.resilience.token_bucket import TokenBuckets
from keyturn_receiver.telemetry.metrics import Metrics

# The number of reconciles of one namespace that may fail without a delay, if no notification has caused them:
# FAILURE_RATE in a second, and FAILURE_BURST at once after a pause. Each failure costs calls to AWS and Kubernetes, and
# tenants can edit bindings without end, even bindings whose region or role never answers. Above this rate, a failed
# reconcile waits and keeps its slot of the work queue. Each namespace has only a share of these slots.
FAILURE_RATE = 20.0
FAILURE_BURST = 100

_log = logging.getLogger(__name__)


class StatusReporter:
    """Status reporter. Each outcome is reported once, at the end of a reconcile. ``on_written`` is called for each
    Secret whose keys have changed. Its arguments are the Secret before the change, and the new record. ``reverted``
    decides what the status says about reverted restarts."""

    def __init__(
        self,
        secrets: SecretClient,
        events: EventRecorder,
        metrics: Metrics,
        reverted: RevertedRestarts,
        on_written: Callable[[LiveSecret, Record], None] | None = None,
    ) -> None:
        self._secrets = secrets
        self._on_written = on_written
        self._events = events
        self._metrics = metrics
        self._reverted = reverted
        self._failures = TokenBuckets(FAILURE_RATE, FAILURE_BURST, time.monotonic)

    async def report(
        self,
        live: LiveSecret,
        spec: BindingSpec,
        request: Request,
        fill: FillResult,
        rollout: RolloutResult,
        filled: bool,
    ) -> ReconcileResult:
        """Report the changes and the errors of a reconcile. Return both as the result of the reconcile.

        ``filled`` is true if this reconcile had to fill the Secret and succeeded. Raises Conflict if the Secret or a
        workload has changed since it was read.
        """
        self._log_changes(request, fill, rollout)
        if live.record.halt and fill.written and rollout.restarted and not rollout.turn.halt:
            tell_halt(self._events, live.target, live.uid, rollout.turn)  # the new value has ended the halt
        error = first_retryable(fill.error, rollout.error)
        if isinstance(error, Conflict):
            raise error  # a conflict is not worth a report, because the reconcile is repeated at once
        if error is None and not fill.deleted:
            # Whether a refusal of restarts is over is known only to the replica that may try them again.
            outdated = fill.status_outdated and not rollout.turn.is_left_to_leader
            error = await self._report_rollouts(_as_filled(live, fill), fill.consumers, rollout.turn, outdated)
        terminal_version = ""
        if error:
            of_secret = error is fill.error
            consumers = fill.consumers if of_secret else ()
            served = spec.reconcile if of_secret else ""
            error, terminal_version = await self._report_failure(live, fill, error, served, consumers)
        if error and Cause.NOTIFICATION not in request.causes:
            await self._failures.wait(live.target.namespace)
        if (error is None or (fill.error and fill.written)) and (fill.changed_keys or rollout.restarted):
            message = event_messages.applied(fill.record, fill.changed_keys, rollout.restarted)
            self._events.event(live.target, live.uid, False, "Applied", message)
        if fill.changed_keys and self._on_written:
            self._on_written(live, fill.record)
        for fault in (*spec.rollout_faults, *rollout.faults):
            message = f"{fault}; no pod is restarted until then"
            self._events.event(live.target, live.uid, True, InvalidBinding.reason, message)
        message_of = partial(event_messages.restarted, fill.record, fill.changed_keys)
        tell_restarts(self._events, live.target, rollout.restarted, message_of)
        tell_waits(self._events, live.target, live.uid, rollout.turn)
        tell_refusals(self._events, live.target, rollout.refused)
        only_fill_failed = fill.error is not None and rollout.error is None
        return ReconcileResult(
            bound=True,
            changed=bool(fill.changed_keys),
            version_ids=frozenset(fill.record.version_ids.values()),
            restarted=tuple(each.ref for each in rollout.restarted if not event_messages.is_held(each)),
            error=error,
            filled=filled,
            terminal_version=terminal_version,
            met=fill.met if only_fill_failed else frozenset(),
            unavailable=fill.unavailable if only_fill_failed else frozenset(),
            partial=bool(fill.error and fill.changed_keys),
        )

    def log_failure(self, secret: str, request: Request, error: KeyturnError) -> None:
        """Log the error with which a reconcile ended."""
        fields = {"secret": secret, "reason": error.reason, "cause": request.priority}
        _log.warning("%s", error, extra={"fields": {**fields, "event_ids": request.event_ids}})

    def count(self, request: Request, outcome: str, seconds: float) -> None:
        """Count a reconcile that took ``seconds``."""
        self._metrics.reconcile_seconds.observe(seconds)
        self._metrics.reconciles.labels(request.priority, outcome).inc()

    def _log_changes(self, request: Request, fill: FillResult, rollout: RolloutResult) -> None:
        if fill.written:
            fields = {"keys": fill.changed_keys, "version_ids": fill.record.version_ids}
            _log.info("applied", extra={"fields": {**fields, "causes": sorted(request.causes)}})
        if fill.deleted:
            _log.info("deleted: AWS has deleted the secret that it was made from")
        count_restarts(self._metrics, rollout.restarted)

    async def _report_failure(
        self, live: LiveSecret, fill: FillResult, error: KeyturnError, served: str, consumers: Sequence[Consumer]
    ) -> tuple[KeyturnError, str]:
        """Report an error in an Event and, if the error is permanent, also in the status.

        ``served`` is the text of the annotation ``keyturn.dev/reconcile`` that this reconcile has served, or empty. If
        the status is new, Events on the ``consumers`` report the error, too. Return the error with which the
        reconcile ends, and the resource version that the Secret has now if a retry cannot help. Otherwise the second
        result is empty.
        """
        if isinstance(error, Unfinished):
            return error, ""
        self._events.event(live.target, live.uid, True, error.reason, str(error))
        if not isinstance(error, Permanent):
            return error, ""
        status = status_of(error.reason, str(error))
        if live.record.status != status:
            for consumer in consumers[:MAX_CONSUMER_EVENTS]:
                tell_consumer(self._events, consumer, True, error.reason, live.target, str(error))
        live = _as_filled(live, fill)  # if the error concerns only some keys, the fill has written the status
        if live.record.status == status and live.record.labelled and served in ("", live.record.reconciled):
            return error, live.resource_version
        try:
            return error, await self._secrets.write_status(live, status, served)
        except Conflict:
            raise
        except KeyturnError as failure:
            _log.warning("the status of %s could not be written: %s", live.target, failure)
            return Unrecorded(error), ""

    async def _report_rollouts(
        self, live: LiveSecret, consumers: Sequence[Consumer], turn: Turn, outdated: bool
    ) -> KeyturnError | None:
        """Report the beginning and the end of two states: a failed rollout halts the others, or another writer reverts
        a restart. ``outdated`` is true if the status tells of an error that is over. An error that is not over stays in
        the status."""
        if live.record.status != OK and not outdated:
            return None
        if live.record.halt != turn.halt:
            tell_halt(self._events, live.target, live.uid, turn)
        notice = self._reverted.notice(live.target, consumers, live.record, turn.halt)
        if live.record.notice == notice and not outdated:
            return None
        try:
            await self._secrets.write_status(live, notice or OK)
        except Conflict:
            raise
        except KeyturnError as error:
            return detached(error)
        return None


def _as_filled(live: LiveSecret, fill: FillResult) -> LiveSecret:
    """Return the Secret as it is after the fill."""
    return replace(live, resource_version=fill.resource_version, record=fill.record) if fill.written else live
