"""The poller decides when to sweep, and queues the stale bindings that each sweep finds."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.poller.sweep import Interrupted, StaleBinding, Sweeper, SweepResult
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.sources.stores import StoreKey
from keyturn_receiver.telemetry.metrics import Metrics

JITTER = 0.1  # as a share of the interval; keeps several clusters from sweeping at the same time
MAX_INTERVAL_WITHOUT_EVENTS = 30.0  # seconds between two sweeps while the event path is down
FULL_SWEEP_SECONDS = 3600.0  # time between two full sweeps of a store
# The seconds (at most a tenth of the interval) for which the poller leaves a change to its notification.
NOTIFICATION_HEAD_START = 15.0

_log = logging.getLogger(__name__)


class Poller:
    """Poller. Sweeps over all bindings while this replica is the leader.

    ``interval`` is the number of seconds between two sweeps while ``event_path_healthy`` returns true. ``now`` returns
    monotonic seconds.
    """

    def __init__(
        self,
        sweeper: Sweeper,
        queue: WorkQueue,
        is_leader: Callable[[], bool],
        event_path_healthy: Callable[[], bool],
        interval: float,
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweeper = sweeper
        self._queue = queue
        self._is_leader = is_leader
        self._event_path_healthy = event_path_healthy
        self._interval = interval
        self._metrics = metrics
        self._now = now
        self._last_sweep: dict[StoreKey, SweepResult] = {}  # the last one that saw a change
        self._last_full_sweep: dict[StoreKey, float] = {}

    @property
    def interval(self) -> float:
        """The number of seconds between two sweeps. It is at most 30 while the event path is down."""
        return self._interval if self._event_path_healthy() else min(self._interval, MAX_INTERVAL_WITHOUT_EVENTS)

    async def run(self, ping: Ping = no_ping) -> None:
        """Sweep until cancelled.

        The first sweep after this replica becomes the leader covers all bindings, and so does one sweep an hour. The
        sweeps in between cover only changes.
        """
        last_sweep: float | None = None
        jitter = 1.0
        while True:
            ping()
            if not self._is_leader():
                last_sweep = None
                self._last_full_sweep.clear()  # by the time this replica leads again, its watermarks are outdated
            elif last_sweep is None or self._now() - last_sweep >= self.interval * jitter:
                last_sweep = self._now()
                jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not for cryptography
                with suppress(Interrupted), self._metrics.sweep_seconds.time():
                    await self.sweep(ping)
            await asyncio.sleep(min(1.0, self._interval / 10))

    async def sweep(self, ping: Ping = no_ping) -> Sequence[StaleBinding]:
        """Sweep once, and queue each stale binding. Return the stale bindings.

        If one store fails, the others are still swept. Raises Interrupted if this replica is no longer the leader.
        """
        stale: list[StaleBinding] = []
        for key, bindings in (await self._sweeper.bindings_by_store()).items():
            stale += await self._sweep_store(key, bindings, ping)
        return stale

    async def _sweep_store(self, key: StoreKey, bindings: Sequence[BoundSecret], ping: Ping) -> Sequence[StaleBinding]:
        started = self._now()
        full = started - self._last_full_sweep.get(key, -FULL_SWEEP_SECONDS) >= FULL_SWEEP_SECONDS
        kind = "full" if full else "changes"
        last = None if full else self._last_sweep.get(key)
        fields = {"kind": kind, "account": key.account, "region": key.region}
        try:
            result = await self._sweeper.sweep(key, bindings, last, partial(self._may_continue, ping))
        except Interrupted:
            self._metrics.sweeps.labels(kind, "interrupted").inc()
            raise
        except KeyturnError as error:
            self._metrics.sweeps.labels(kind, "failed").inc()
            _log.warning("sweep failed: %s", error, extra={"fields": fields})
            return []
        except Exception:
            # A bug must not stop the sweeps of other stores, nor the process.
            self._metrics.sweeps.labels(kind, "failed").inc()
            _log.exception("sweep failed", extra={"fields": fields})
            return []
        if full:
            self._last_full_sweep[key] = started
        if result.watermark:
            self._last_sweep[key] = SweepResult(result.identity, watermark=result.watermark)
        stale = list(result.stale.values())
        self._queue_stale(stale)
        self._metrics.sweeps.labels(kind, "ok").inc()
        _log.info("swept", extra={"fields": {**fields, "stale": [str(each.target) for each in stale[:100]]}})
        return stale

    def _may_continue(self, ping: Ping) -> bool:
        ping()
        return self._is_leader()

    def _queue_stale(self, stale: Sequence[StaleBinding]) -> None:
        """Queue the stale bindings. While the event path is healthy, delay those whose secret changed only recently, so
        that their notification gets a chance to handle them first."""
        head_start = min(NOTIFICATION_HEAD_START, self._interval / 10)
        for each in stale:
            changed_at = each.metadata.changed_at if each.metadata else None
            age = (datetime.now(UTC) - changed_at).total_seconds() if changed_at else head_start
            if self._event_path_healthy() and 0 <= age < head_start:
                asyncio.get_running_loop().call_later(head_start - age, self._recover, each)
            else:
                self._recover(each)

    def _recover(self, stale: StaleBinding) -> None:
        if not self._sweeper.is_current(stale):
            return  # the Secret has been reconciled or edited in the meantime
        request = Request.now(Cause.POLL, stale.version_ids)
        self._queue.submit(stale.target, request, stale.bound.spec.secret_id).add_done_callback(self._count_recovered)

    def _count_recovered(self, future: "asyncio.Future[ReconcileResult]") -> None:
        if not future.cancelled() and future.result().error is None and future.result().changed:
            self._metrics.recovered_by_poll.inc()
