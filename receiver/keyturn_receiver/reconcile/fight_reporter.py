"""Fight reporter. It reports fights in the log, in a metric and in Kubernetes Events.

In a fight, another writer keeps reverting a mark (the annotation with which Keyturn restarts a consumer). The Events
are on the workload and on the Secret. They name the other writer if it is known.
"""

import asyncio
import logging
from collections.abc import Callable

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import MARK_PREFIX, Consumer, WorkloadRef, mark_names
from keyturn_receiver.core.restart_way import EVICT, RESTART
from keyturn_receiver.core.revision import REVERTED
from keyturn_receiver.core.rollout_switch import ROLLOUT
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.reconcile.rollout_fights import Fight
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.telemetry.metrics import Metrics

# Seconds from the detection of a fight until the workload is read. By then the other writer has reverted our last
# write, and our next write is still delayed (rollout_fights.FIGHT_BACKOFF). So the other writer owns the annotation.
READ_AFTER = 10.0
MAX_REPORTS = 100  # reports that may be made at the same time; each reads the workload
MAX_OWNERS = 2_000  # marks whose foreign owner is remembered
OWNED = "AnnotationOwned"
MAX_REPORTS_PER_NAMESPACE = 20  # reports at the same time; the metric also counts fights without a report

_log = logging.getLogger(__name__)


class FightReporter:
    """Fight reporter. Makes one report at a time for each workload, even if the workload has several marks. Each
    namespace has a share of the reports. ``is_leader`` returns whether this replica leads. Only the leader writes the
    Events about fights."""

    def __init__(
        self,
        workloads: WorkloadClient,
        secrets: SecretLookup,
        events: EventRecorder,
        metrics: Metrics,
        is_leader: Callable[[], bool],
    ) -> None:
        self._workloads = workloads
        self._secrets = secrets
        self._events = events
        self._metrics = metrics
        self._is_leader = is_leader
        self._reports: FairMap[str, WorkloadRef, None] = FairMap(MAX_REPORTS)
        self._tasks: dict[WorkloadRef, asyncio.Task[None]] = {}
        self._owners: FairMap[str, tuple[WorkloadRef, str], str] = FairMap(MAX_OWNERS)

    def on_owner(self, consumer: Consumer, mark: str, owner: str) -> None:
        """Report that another writer owns a mark of this consumer. There need not be a fight about the mark.

        The owner that was last reported for a mark is not reported again, as long as it is remembered (MAX_OWNERS).
        """
        ref = consumer.ref
        if self._owners.get(ref.namespace, (ref, mark)) == owner:
            return
        self._owners.put(ref.namespace, (ref, mark), owner)
        message = (
            f'field manager "{owner}" has written annotation {mark}, which is Keyturn\'s: take it out of the manifest.'
            " The pods decide whether to restart them, so this mark does no harm until it is written again and again"
        )
        self._events.event(Target(ref.namespace, ref.name), consumer.uid, True, OWNED, message, kind=ref.kind)

    def on_fight(self, fight: Fight) -> None:
        """Report a new fight: another writer keeps reverting one of Keyturn's marks on a consumer.

        The metric counts each fight. No log line and no Event is written if a report about the workload is in progress,
        or if the namespace has MAX_REPORTS_PER_NAMESPACE reports in progress.
        """
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
        told = message(fight, writer)
        self._events.event(Target(ref.namespace, ref.name), fight.consumer.uid, True, REVERTED, told, kind=ref.kind)
        for name in fight.consumer.reads:
            if fight.mark in mark_names([name]) and (secret := self._secrets.get(Target(ref.namespace, name))):
                self._events.event(secret.target, secret.uid, True, REVERTED, f"{ref.kind} {ref.name}: {told}")


def message(fight: Fight, writer: str | None) -> str:
    """Return the message of the Event. ``writer`` is the field manager of the other writer, if it is known."""
    if not fight.restarts:
        who = f'field manager "{writer}"' if writer else "somebody"
        what = "removing" if fight.removed else "reverting"
        return (
            f"{who} keeps {what} annotation {fight.mark} of this {fight.consumer.ref.kind}, which says that the pods"
            " have the value: no pod is restarted, and Keyturn does not write the annotation for some time. Let the"
            f" other writer ignore annotations that begin with {MARK_PREFIX}"
        )
    slower = f"Keyturn restarts this {fight.consumer.ref.kind} more and more slowly, and pods may keep an old value"
    if writer:
        # Kubernetes does not record the writer that removes a field.
        what = "probably keeps removing" if fight.removed else "keeps reverting"
        return (
            f'field manager "{writer}" {what} annotation {fight.mark}, with which Keyturn restarts the pods after a'
            f' rotation: {slower}. Let "{writer}" ignore annotations that begin with {MARK_PREFIX}, or annotate the'
            f" workload with {RESTART}: {EVICT} (its pods are then evicted one by one) or {ROLLOUT}: disabled"
        )
    return (
        f"annotation {fight.mark} keeps returning to an earlier value: {slower}. Either the Secret changes back and"
        f" forth, or somebody reverts the annotation"
    )
