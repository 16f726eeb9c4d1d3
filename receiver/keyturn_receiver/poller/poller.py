"""Poller: decides when to sweep, and queues the stale bindings that each sweep finds."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from keyturn_receiver.errors import KeyturnError, detached
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.poller.bound_source import BoundSource
from keyturn_receiver.poller.sweep import Interrupted, StaleBinding, Sweeper, SweepResult
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.resilience.shares import Shares
from keyturn_receiver.resilience.turns import take_turns
from keyturn_receiver.sources.stores import StoreKey
from keyturn_receiver.telemetry.metrics import Metrics

JITTER = 0.1  # as a share of the interval, so that several clusters do not sweep at the same time
MAX_INTERVAL_WITHOUT_EVENTS = 30.0  # at most this many seconds between two sweeps while the event path is down
# A store is an AWS region that is read with one identity. The receiver's own store has the receiver's own region and
# identity. Bindings name the other stores: by an ARN of another region, or by a ServiceAccount.
SWEEP_LANES = 8  # at most this many concurrent sweeps of stores that bindings name
# For each namespace, at most this many concurrent sweeps of the stores that only this namespace names. Its other stores
# wait.
LANES_PER_NAMESPACE = 2
# At most this many concurrent sweeps of stores that several namespaces name. These stores have the receiver's own
# identity.
MAX_SHARED_LANES = SWEEP_LANES // 2
SWEEP_TIMEOUT = 300.0  # seconds for the sweep of a store that bindings name, or the interval if that is longer
# A sweep describes secrets for this share of its time. For the receiver's own store, the time is the interval, so that
# the next sweep is on time. For another store, the time is the sweep's timeout, so that the sweep ends before the
# timeout.
DESCRIBE_SHARE = 0.75
OVERDUE_INTERVALS = 3  # sweeps are overdue if none succeeds for this number of intervals, and the time that one takes
MAX_REST_INTERVALS = 4  # after failures, a store that bindings name rests for at most this many intervals
SHARED = ""  # the owner of stores that several namespaces name
FULL_SWEEP_SECONDS = 3600.0  # time between two full sweeps of a store
# For this number of seconds after a change in AWS, but at most for a tenth of the interval, the poller waits for the
# notification of the change.
NOTIFICATION_HEAD_START = 15.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Failures:
    """Consecutive failed sweeps of one store. The store rests until ``rests_until``, in monotonic seconds."""

    count: int
    rests_until: float


class Poller:
    """Poller. Sweeps over all bindings while this replica is the leader.

    The sweeper's ``interval`` is the time between two sweeps while ``event_path_healthy`` returns true. The time is at
    most MAX_INTERVAL_WITHOUT_EVENTS while it returns false. If ``notifications`` is false, there is no event path, and
    the time is always the interval. ``now`` returns monotonic seconds.
    """

    def __init__(
        self,
        sweeper: Sweeper,
        queue: WorkQueue,
        is_leader: Callable[[], bool],
        event_path_healthy: Callable[[], bool],
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
        notifications: bool = True,
    ) -> None:
        self._sweeper = sweeper
        self._queue = queue
        self._is_leader = is_leader
        self._event_path_healthy = event_path_healthy
        self._interval = sweeper.interval
        self._metrics = metrics
        self._now = now
        self._notifications = notifications
        self._last_sweep: dict[StoreKey, SweepResult] = {}  # by store: the last sweep that has a watermark
        self._last_full_sweep: dict[StoreKey, float] = {}
        # The running sweeps of the stores that bindings name.
        self._running: dict[StoreKey, asyncio.Task[Sequence[StaleBinding]]] = {}
        self._lanes = asyncio.Semaphore(SWEEP_LANES)
        self._lane_shares = Shares(LANES_PER_NAMESPACE, {SHARED: MAX_SHARED_LANES})
        self._failures: dict[StoreKey, _Failures] = {}
        self._swept_at: float | None = None
        self._own_is_bound = True  # whether the last sweep found bindings of the receiver's own store
        self._worked_at = -math.inf  # see ``sweep_age``
        self._sweep_seconds = 0.0  # how long the last sweep of the receiver's own store took that did not fail
        self._leads_since: float | None = None
        self._failure: KeyturnError | None = None
        self._backoff = Backoff(base=self._interval / 2, cap=MAX_REST_INTERVALS * self._interval)

    @property
    def interval(self) -> float:
        """The number of seconds between two sweeps, without the jitter. It is at most MAX_INTERVAL_WITHOUT_EVENTS while
        the event path is down."""
        down = self._notifications and not self._event_path_healthy()
        return min(self._interval, MAX_INTERVAL_WITHOUT_EVENTS) if down else self._interval

    def seconds_since_sweep(self) -> float | None:
        """Return the seconds since this replica's last sweep of the receiver's own store that did not fail. Return None
        before the first such sweep."""
        return None if self._swept_at is None else self._now() - self._swept_at

    def sweep_age(self) -> float:
        """Return the seconds since this replica's last sweep that shows that the poller works. The value is infinite
        before the first such sweep.

        This is a sweep of the receiver's own store that did not fail. So stores that bindings name cannot hide that the
        receiver's own store fails. If no binding is of the receiver's own store, a sweep of any store counts. The value
        grows on a replica that does not lead. The lowest value of all replicas is the value of the cluster.
        """
        return self._now() - self._worked_at

    def overdue_for(self) -> float | None:
        """Return the seconds since the last sweep of the receiver's own store that did not fail, or since this replica
        began to lead, if that was later. Return None if this is not long, or if this replica does not lead."""
        if self._leads_since is None or not self._is_leader():
            return None
        seconds = self._now() - max(self._leads_since, self._swept_at or self._leads_since)
        return seconds if seconds > OVERDUE_INTERVALS * self._interval + self._sweep_seconds else None

    def failure(self) -> KeyturnError | None:
        """Return the error of this replica's last sweep of the receiver's own store. Return None if the sweep did not
        fail, or failed by a bug."""
        return self._failure

    async def run(self, ping: Ping = no_ping) -> None:
        """Sweep until cancelled.

        A full sweep compares all bindings of a store. The first sweep after this replica becomes the leader is full,
        and so is about one sweep an hour. The other sweeps compare fewer bindings if they can list the secrets that
        have changed in AWS (``StoreSweep.by_list``).
        """
        try:
            await self._run(ping)
        finally:
            for task in self._running.values():
                task.cancel()

    async def _run(self, ping: Ping) -> None:
        last_sweep: float | None = None
        jitter = 1.0
        while True:
            ping()
            if not self._is_leader():
                last_sweep = self._leads_since = None
                self._last_full_sweep.clear()  # by the time this replica leads again, its watermarks are outdated
            elif last_sweep is None or self._now() - last_sweep >= self.interval * jitter:
                last_sweep = self._now()
                self._leads_since = last_sweep if self._leads_since is None else self._leads_since
                jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not for cryptography
                with suppress(Interrupted):
                    with self._metrics.sweep_seconds.time():
                        by_store, own = await self._sweep_own(ping)
                    if own is not None:
                        self._swept_at = self._now()
                        self._sweep_seconds = self._swept_at - last_sweep
                    self._start_others(by_store, ping)  # not awaited, so these sweeps delay nothing
            await asyncio.sleep(min(1.0, self._interval / 10))

    async def sweep(self, ping: Ping = no_ping) -> Sequence[StaleBinding]:
        """Sweep once, and queue each stale binding. Return the stale bindings.

        A failed store does not stop the sweeps of the other stores. Raises Interrupted if this replica is no longer the
        leader.
        """
        by_store, own = await self._sweep_own(ping)
        results = await asyncio.gather(*self._start_others(by_store, ping))
        if not self._is_leader():
            raise Interrupted
        return [*(own or ()), *(each for result in results for each in result)]

    async def _sweep_own(
        self, ping: Ping
    ) -> tuple[Mapping[StoreKey, Sequence[BoundSource]], Sequence[StaleBinding] | None]:
        """Sweep the receiver's own store, before the stores that bindings name.

        Returns the bindings by store, and the stale bindings of the receiver's own store. The latter are None if the
        sweep has failed.
        """
        by_store = await self._sweeper.bindings_by_store()
        for known in (self._last_sweep, self._last_full_sweep, self._failures):
            for key in known.keys() - by_store.keys():
                del known[key]
        own = self._sweeper.own_key
        self._own_is_bound = own in by_store
        if not by_store:
            self._worked_at = self._now()  # nothing can be missed
        return by_store, await self._sweep_store(own, by_store[own], ping) if own in by_store else ()

    def _start_others(
        self, by_store: Mapping[StoreKey, Sequence[BoundSource]], ping: Ping
    ) -> "Sequence[asyncio.Task[Sequence[StaleBinding]]]":
        """Start the sweeps of all other stores, at most SWEEP_LANES at the same time.

        A store is left out if its last sweep still runs, or if it rests after failures. Namespaces take turns. No
        namespace gets more than its share of the lanes, even if its stores hang.
        """
        started = []
        owners = {key: _owner(key, bindings) for key, bindings in by_store.items()}
        for key in take_turns(by_store, lambda key: owners[key]):
            failures = self._failures.get(key)
            rests = failures is not None and self._now() < failures.rests_until
            if key == self._sweeper.own_key or key in self._running or rests:
                continue
            task = asyncio.create_task(self._sweep_in_share(owners[key], key, by_store[key], ping))
            self._running[key] = task
            task.add_done_callback(partial(self._ended, key))
            started.append(task)
        return started

    def _ended(self, key: StoreKey, task: "asyncio.Task[Sequence[StaleBinding]]") -> None:
        del self._running[key]

    async def _sweep_in_share(
        self, owner: str, key: StoreKey, bindings: Sequence[BoundSource], ping: Ping
    ) -> Sequence[StaleBinding]:
        await self._lane_shares.acquire(owner)
        try:
            return await self._sweep_in_lane(key, bindings, ping)
        finally:
            self._lane_shares.release(owner)

    async def _sweep_in_lane(
        self, key: StoreKey, bindings: Sequence[BoundSource], ping: Ping
    ) -> Sequence[StaleBinding]:
        async with self._lanes:
            try:
                result = await self._sweep_store(key, bindings, ping)
            except Interrupted:
                return []
        if result is not None:
            self._failures.pop(key, None)
            return result
        count = self._failures[key].count + 1 if key in self._failures else 1
        self._failures[key] = _Failures(count, self._now() + self._backoff.delay(count))
        return []

    async def _sweep_store(
        self, key: StoreKey, bindings: Sequence[BoundSource], ping: Ping
    ) -> Sequence[StaleBinding] | None:
        """Sweep one store. Returns None if the sweep has failed."""
        started = self._now()
        full = started - self._last_full_sweep.get(key, -FULL_SWEEP_SECONDS) >= FULL_SWEEP_SECONDS
        kind = "full" if full else "changes"
        last = None if full else self._last_sweep.get(key)
        fields = {"kind": kind, "account": key.account, "region": key.region}
        own = key == self._sweeper.own_key
        sweeps = partial(self._metrics.sweeps.labels, kind, "own" if own else "other")
        timeout = max(SWEEP_TIMEOUT, self._interval)
        seconds = DESCRIBE_SHARE * (self.interval if own else timeout)
        try:
            async with asyncio.timeout(None if own else timeout):
                result = await self._sweeper.sweep(
                    key, bindings, last, seconds, partial(self._may_continue, ping), self._queue_stale
                )
        except Interrupted:
            sweeps("interrupted").inc()
            raise
        except TimeoutError:
            sweeps("failed").inc()
            _log.warning("sweep failed: it takes too long", extra={"fields": fields})
            self._failure = None if own else self._failure
            return None
        except KeyturnError as error:
            sweeps("failed").inc()
            _log.warning("sweep failed: %s", error, extra={"fields": fields})
            self._failure = detached(error) if own else self._failure
            return None
        except Exception:
            # A bug must not stop the sweeps of other stores, nor the process.
            sweeps("failed").inc()
            _log.exception("sweep failed", extra={"fields": fields})
            self._failure = None if own else self._failure
            return None
        self._failure = None if own else self._failure
        if full:
            self._last_full_sweep[key] = started
        if result.watermark:
            self._last_sweep[key] = SweepResult(result.identity, watermark=result.watermark, owed=result.owed)
        stale = list(result.stale.values())
        sweeps("ok").inc()
        if own or not self._own_is_bound:
            self._worked_at = self._now()
        # Bindings may name a thousand stores, so a sweep of one of these stores is logged at INFO only if it found
        # something.
        level = logging.INFO if stale or own else logging.DEBUG
        _log.log(level, "swept", extra={"fields": {**fields, "stale": [str(each.target) for each in stale[:100]]}})
        return stale

    def _may_continue(self, ping: Ping) -> bool:
        ping()
        return self._is_leader()

    def _queue_stale(self, stale: Sequence[StaleBinding]) -> None:
        """Queue the stale bindings. While the event path is healthy, delay bindings whose AWS secret changed recently,
        so that the notification of the change can handle them first."""
        head_start = min(NOTIFICATION_HEAD_START, self._interval / 10)
        for each in stale:
            changed_at = each.metadata.changed_at if each.metadata else None
            age = (datetime.now(UTC) - changed_at).total_seconds() if changed_at else head_start
            if self._notifications and self._event_path_healthy() and 0 <= age < head_start:
                asyncio.get_running_loop().call_later(head_start - age, self._recover, each)
            else:
                self._recover(each)

    def _recover(self, stale: StaleBinding) -> None:
        if not self._sweeper.is_current(stale):
            return  # the Secret has been reconciled, edited or deleted in the meantime
        request = Request.now(Cause.POLL, stale.version_ids, about=stale.about, moved_at=stale.moved_at)
        group = stale.bound.source.secret_id
        self._queue.submit(stale.target, request, group).add_done_callback(self._count_recovered)

    def _count_recovered(self, future: "asyncio.Future[ReconcileResult]") -> None:
        if not future.cancelled() and future.result().error is None and future.result().changed:
            self._metrics.recovered_by_poll.inc()


def _owner(key: StoreKey, bindings: Sequence[BoundSource]) -> str:
    """Return the namespace whose bindings name the store, or SHARED if bindings of several namespaces name it."""
    namespaces = {key.namespace} if key.account else {bound.target.namespace for bound in bindings}
    return namespaces.pop() if len(namespaces) == 1 else SHARED
