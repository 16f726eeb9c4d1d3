"""When to sweep: every few minutes while events arrive, every half minute while they do not; by the leader alone."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.errors import KeyturnError, SourceRefused
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.poller.sweep import Interrupted, StaleBinding, Sweep, SweepResult, by_store
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, because
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.settings import PollMode
from keyturn_receiver.sources.stores import StoreKey, Stores
from keyturn_receiver.telemetry.metrics import Metrics

JITTER = 0.1
WITHOUT_EVENTS = 30.0  # seconds between two sweeps while the event path is down
FULL_SECONDS = 3600.0
GRACE = 15.0  # seconds, or a tenth of the interval: a younger change is left to its notification, while those arrive

_log = logging.getLogger(__name__)


class Poller:
    """Sweeps over all bindings while ``leading``; ``up`` tells whether the event path is alive."""

    def __init__(
        self,
        stores: Stores,
        bound: SecretCache,
        queue: WorkQueue,
        tenancies: AccessPolicy,
        leading: Callable[[], bool],
        up: Callable[[], bool],
        interval: float,
        mode: PollMode,
        metrics: Metrics,
        beat: Ping = no_ping,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = stores
        self._bound = bound
        self._queue = queue
        self._tenancies = tenancies
        self._leading = leading
        self._up = up
        self._interval = interval
        self._mode = mode
        self._metrics = metrics
        self._beat = beat
        self._now = now
        self._watermarks: dict[StoreKey, datetime] = {}
        self._full_at: dict[StoreKey, float] = {}

    @property
    def interval(self) -> float:
        """Seconds between two sweeps, as things are."""
        return self._interval if self._up() else min(self._interval, WITHOUT_EVENTS)

    async def run(self) -> None:
        """Sweep for ever: all of it on taking the lead and then each hour, in between what was changed."""
        swept_at: float | None = None
        jitter = 1.0
        while True:
            self._beat()
            if not self._leading():
                swept_at = None
                self._full_at.clear()  # what this replica knows will be old when it leads again
            elif swept_at is None or self._now() - swept_at >= self.interval * jitter:
                swept_at = self._now()
                jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - so that clusters do not march in step
                with suppress(Interrupted), self._metrics.sweep_seconds.time():
                    await self.sweep()
            await asyncio.sleep(min(1.0, self._interval / 10))

    async def sweep(self) -> Sequence[StaleBinding]:
        """Queue each binding that is behind AWS; return them.

        A store that fails holds up no other. Raises Interrupted when another replica leads.
        """
        everything: list[StaleBinding] = []
        for key, mine in (await by_store(self._bound.all(), self._tenancies, self._stores)).items():
            everything += await self._sweep_store(key, mine)
        return everything

    async def _sweep_store(self, key: StoreKey, mine: Sequence[BoundSecret]) -> Sequence[StaleBinding]:
        begun = self._now()
        full = begun - self._full_at.get(key, -FULL_SECONDS) >= FULL_SECONDS
        kind = "full" if full else "changes"
        try:
            found = await self._look(key, mine, None if full else self._watermarks.get(key))
        except Interrupted:
            self._metrics.sweeps.labels(kind, "interrupted").inc()
            raise
        except KeyturnError as error:
            self._metrics.sweeps.labels(kind, "failed").inc()
            _log.warning("sweep failed: %s", error)
            return []
        except Exception:
            # A bug, or what nobody has foreseen, must not take the others' stores with it, nor the whole process.
            self._metrics.sweeps.labels(kind, "failed").inc()
            _log.exception("sweep broke", extra={"fields": {"account": key.account, "region": key.region}})
            return []
        if full:
            self._full_at[key] = begun
        if found.watermark:
            self._watermarks[key] = found.watermark
        behind = list(found.behind.values())
        self._queue_up(behind)
        self._metrics.sweeps.labels(kind, "ok").inc()
        names = [str(each.target) for each in behind[:100]]
        _log.info(
            "swept", extra={"fields": {"kind": kind, "account": key.account, "region": key.region, "behind": names}}
        )
        return behind

    async def _look(self, key: StoreKey, mine: Sequence[BoundSecret], since: datetime | None) -> SweepResult:
        sweep = Sweep(await self._stores.get(key), self._bound, self._going_on)
        if self._mode is PollMode.LIST:
            try:
                return await sweep.by_list(mine, since)
            except SourceRefused as error:
                _log.info("asking secret by secret: %s", error)
        return await sweep.by_description(mine)

    def _going_on(self) -> bool:
        self._beat()
        return self._leading()

    def _queue_up(self, behind: Sequence[StaleBinding]) -> None:
        grace = min(GRACE, self._interval / 10)
        for each in behind:
            changed_at = each.listed.changed_at if each.listed else None
            age = (datetime.now(UTC) - changed_at).total_seconds() if changed_at else grace
            if self._up() and 0 <= age < grace:
                asyncio.get_running_loop().call_later(grace - age, self._recover, each)
            else:
                self._recover(each)

    def _recover(self, behind: StaleBinding) -> None:
        known = self._bound.get(behind.target)
        if known is None or known.resource_version != behind.resource_version:
            return  # its notification has come in the meantime
        current = behind.listed.current(known.stage) if behind.listed else None
        request = because(Cause.POLL, {current} if current else ())
        self._queue.submit(behind.target, request).add_done_callback(self._count)

    def _count(self, done: "asyncio.Future[ReconcileResult]") -> None:
        if not done.cancelled() and not done.exception() and done.result().changed:
            self._metrics.recovered_by_poll.inc()
