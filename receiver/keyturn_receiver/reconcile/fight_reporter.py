"""Reports fights about the marks of consumers in the log and in a metric. A Kubernetes Event on the workload names the
other writer."""

import asyncio
import logging
from collections.abc import Callable

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import MARK_PREFIX, WorkloadRef
from keyturn_receiver.core.rollout_switch import ROLLOUT
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.reconcile.rollout_fights import Fight
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.telemetry.metrics import Metrics

REASON = "RestartReverted"
# Seconds from the detection of a fight until the workload is read. By then the other writer has answered our last
# write, and our next one is still delayed (rollout_fights.FIGHT_BACKOFF), so the other writer owns the annotation.
READ_AFTER = 10.0
MAX_REPORTS = 100  # reports that may be made at the same time; each reads the workload
MAX_REPORTS_PER_NAMESPACE = 5  # reports of one namespace at the same time; the metric also counts the fights beyond

_log = logging.getLogger(__name__)


class FightReporter:
    """Reports fights, one at a time for each workload, whatever the number of its marks. Each namespace has a share of
    the reports. ``is_leader`` returns whether this replica leads; the other replicas leave the Events to the leader."""

    def __init__(
        self, workloads: WorkloadClient, events: EventRecorder, metrics: Metrics, is_leader: Callable[[], bool]
    ) -> None:
        self._workloads = workloads
        self._events = events
        self._metrics = metrics
        self._is_leader = is_leader
        self._reports: FairMap[str, WorkloadRef, None] = FairMap(MAX_REPORTS)
        self._tasks: dict[WorkloadRef, asyncio.Task[None]] = {}

    def on_fight(self, fight: Fight) -> None:
        """Report a fight that has just been detected."""
        ref = fight.consumer.ref
        self._metrics.rollout_fights.labels(ref.kind).inc()
        if ref in self._tasks or self._reports.size(ref.namespace) >= MAX_REPORTS_PER_NAMESPACE:
            return
        fields = {"consumer": str(ref), "annotation": fight.mark}
        _log.warning("another writer keeps reverting this consumer; backing off", extra={"fields": fields})
        if evicted := self._reports.put(ref.namespace, ref, None):
            self._tasks.pop(evicted).cancel()
        self._tasks[ref] = asyncio.get_running_loop().create_task(self._report(fight))

    async def _report(self, fight: Fight) -> None:
        ref = fight.consumer.ref
        await asyncio.sleep(READ_AFTER)
        try:
            if self._is_leader():
                await self._write(fight)
        finally:
            if self._tasks.get(ref) is asyncio.current_task():  # this task was not cancelled to make room for another
                self._reports.pop(ref.namespace, ref)
                del self._tasks[ref]

    async def _write(self, fight: Fight) -> None:
        ref = fight.consumer.ref
        try:
            writer = await self._workloads.other_writer(ref, fight.mark, fight.removed)
        except KeyturnError as error:
            _log.info("the other writer of %s could not be read: %s", ref, error)
            writer = None
        self._events.event(
            Target(ref.namespace, ref.name), fight.consumer.uid, True, REASON, message(fight, writer), kind=ref.kind
        )


def message(fight: Fight, writer: str | None) -> str:
    """Return the message of the Event. ``writer`` is the field manager of the other writer, if it is known."""
    slower = f"Keyturn restarts this {fight.consumer.ref.kind} more and more slowly"
    if writer:
        # Kubernetes does not record who removes a field.
        what = "probably keeps removing" if fight.removed else "keeps reverting"
        return (
            f'field manager "{writer}" {what} annotation {fight.mark}, with which Keyturn restarts the pods after a'
            f' rotation: {slower}. Let "{writer}" ignore annotations that begin with {MARK_PREFIX}, or annotate the'
            f" workload with {ROLLOUT}: disabled"
        )
    return (
        f"annotation {fight.mark} keeps returning to an earlier value: {slower}. Either the Secret changes back and"
        f" forth, or somebody reverts the annotation"
    )
