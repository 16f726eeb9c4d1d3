"""Reporter of readers that Keyturn does not restart after a change of their Secret (``core/unrestarted.py``).

The replica that has written a Secret lists the pods and CronJobs of the Secret's namespace some seconds later. One list
serves all Secrets of the namespace that have changed by then. Nothing is listed without a change, and these reports
need no watch. A report is an Event. It may be lost if the process ends, and no rotation waits for it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.reader_client import ReaderClient
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.cluster.template_borrowers import Borrowers
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.unrestarted import Reader, Report, has_to_be_told, is_warning, message_to_one
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.time_slice import TimeSlice
from keyturn_receiver.telemetry.logs import RepeatedWarnings

REASON = "NotRestarted"
DELAY = 5.0  # seconds from a change until the namespace is listed; by then the delivery is answered
INTERVAL = 10.0  # the fewest seconds between two lists of one namespace
REST = 20.0  # for each second that a list took, its namespace is not listed again for this many seconds
TICK = 1.0  # while changes wait, the seconds between two looks for namespaces that may be listed
MAX_LISTS = 2  # namespaces that are listed at the same time
MAX_PODS = 10_000  # at most this many pods, and at most this many CronJobs, of one namespace are read
MAX_SECONDS = 20.0  # seconds for each of the two lists of one namespace
MAX_CHANGES = 2000  # changed Secrets that wait for the list of their namespace
MAX_KEYS = 20  # changed keys that are remembered; if there are more, any key counts as changed
MAX_EVENTS = 20  # readers of a Secret that get an Event of their own
MAX_ATTEMPTS = 3  # how often a change is queued again because the cache does not show it yet
MAX_NAMESPACES = 10_000  # namespaces whose last list is remembered
LOG_INTERVAL = 3600.0  # seconds between two equal warnings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a Secret. ``changed`` has the keys that have changed, or is None if any key may have changed.
    ``digest`` is the digest of the revisions after the change."""

    changed: frozenset[str] | None
    digest: str
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class _Inquiry:
    """The search for the readers of a changed Secret, with its ``report``. ``changed`` is as in ``_Change``.
    ``restarted`` is as in ``has_to_be_told``."""

    bound: BoundSecret
    record: Record
    changed: frozenset[str] | None
    restarted: frozenset[str]
    report: Report = field(default_factory=Report)


class ReaderReporter:
    """Reader reporter. ``now`` returns monotonic seconds. ``borrowers`` finds the Argo Rollouts that use the pod
    template of a consumer. A restart of the consumer also restarts the pods of these Rollouts."""

    def __init__(
        self,
        readers: ReaderClient,
        secrets: SecretCache,
        consumers: ConsumerIndex,
        policy: RolloutPolicy,
        events: EventRecorder,
        now: Callable[[], float] = time.monotonic,
        borrowers: Borrowers | None = None,
    ) -> None:
        self._readers = readers
        self._secrets = secrets
        self._consumers = consumers
        self._policy = policy
        self._events = events
        self._now = now
        self._borrowers = Borrowers() if borrowers is None else borrowers
        self._changes: FairMap[str, Target, _Change] = FairMap(MAX_CHANGES)  # by namespace
        self._due: BoundedMap[str, float] = BoundedMap(MAX_NAMESPACES)  # the time from which a namespace may be listed
        self._busy: set[str] = set()
        self._wake = asyncio.Event()
        self._slice = TimeSlice()
        self._warnings = RepeatedWarnings(_log, LOG_INTERVAL)

    def on_written(self, live: LiveSecret, record: Record) -> None:
        """Queue a report about a Secret that was written. ``live`` is the Secret before the write. ``record`` is its
        record after the write."""
        before, after = live.record.revisions, record.revisions
        changed = frozenset(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        if changed:
            self._put(live.target, _Change(changed if len(changed) <= MAX_KEYS else None, record.digest))

    async def run(self) -> None:
        """Report until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                for namespace in list(self._changes):
                    if len(self._busy) == MAX_LISTS:
                        break
                    if namespace not in self._busy and self._now() >= (self._due.get(namespace) or 0.0):
                        self._busy.add(namespace)
                        tasks.create_task(self._report_namespace(namespace))
                if not self._changes:
                    self._wake.clear()
                await asyncio.sleep(TICK)

    def _put(self, target: Target, change: _Change) -> None:
        namespace = target.namespace
        waiting = self._changes.get(namespace, target)
        if waiting:  # the keys of the earlier change still have to be reported
            both = None if waiting.changed is None or change.changed is None else waiting.changed | change.changed
            change = replace(change, changed=both if both is None or len(both) <= MAX_KEYS else None)
        if not self._changes.size(namespace):
            self._due.put(namespace, max(self._now() + DELAY, self._due.get(namespace) or 0.0))
        self._changes.put(namespace, target, change)
        self._wake.set()

    async def _report_namespace(self, namespace: str) -> None:
        started = self._now()
        changes = {target: self._changes.pop(namespace, target) for target in self._changes.of(namespace)}
        try:
            await self._report(namespace, {target: change for target, change in changes.items() if change})
        except Exception:
            # A bug must not stop the reports about other Secrets.
            _log.exception("the readers of a namespace could not be reported", extra={"fields": {"in": namespace}})
        finally:
            now = self._now()
            self._due.put(namespace, now + max(INTERVAL, REST * (now - started)))
            self._busy.discard(namespace)

    async def _report(self, namespace: str, changes: Mapping[Target, _Change]) -> None:
        looked_at: dict[str, _Inquiry] = {}
        for target, change in changes.items():
            bound = self._secrets.get(target)
            if bound is None:
                continue
            record = bound.record
            if record.digest != change.digest and change.attempts < MAX_ATTEMPTS:
                self._put(target, replace(change, attempts=change.attempts + 1))  # the cache does not show it yet
            elif record.was_written:
                refs = [each.ref for each in self._consumers.of(target)]
                lent = (each.rollout for ref in refs for each in self._borrowers.of(ref))
                restarted = frozenset(ref.name for ref in (*refs, *lent))
                looked_at[target.name] = _Inquiry(bound, record, change.changed, restarted)
        if not looked_at:
            return
        complete = await self._look_through(self._readers.cron_jobs(namespace), "cronjobs", looked_at)
        complete &= await self._look_through(self._readers.pods(namespace), "pods", looked_at)
        for inquiry in looked_at.values():
            inquiry.report.cut = not complete
            if inquiry.report.readers:
                self._write(inquiry)

    async def _look_through(
        self, readers: AsyncGenerator[Reader | None, None], resource: str, inquiries: Mapping[str, _Inquiry]
    ) -> bool:
        """Look through the readers, and add those that have to be reported to the reports. Return whether all readers
        were looked at."""
        try:
            async with asyncio.timeout(MAX_SECONDS), aclosing(readers) as listed:
                count = 0
                async for reader in listed:
                    count += 1
                    if count > MAX_PODS:
                        return False
                    for name in reader.pod.reads if reader else ():
                        if reader and (inquiry := inquiries.get(name)) and self._has_to_be_told(reader, inquiry):
                            inquiry.report.add(reader)
                    await self._slice.pause_if_over()
        except (KeyturnError, TimeoutError) as error:
            reason = error.reason if isinstance(error, KeyturnError) else "Timeout"
            self._warnings.warning(
                resource, f"{resource} could not be listed ({reason}): readers that are not restarted may not be told"
            )
            return False
        self._warnings.over(resource)
        return True

    def _has_to_be_told(self, reader: Reader, inquiry: _Inquiry) -> bool:
        target = inquiry.bound.target
        if not has_to_be_told(reader, target.name, inquiry.changed, inquiry.record, inquiry.restarted):
            return False
        # A reader is reported only if the rollout policy permits its restart. Otherwise nobody expects Keyturn to
        # restart the reader, because a setting forbids the restart, or because Reloader restarts the reader. Such a
        # setting is in the chart, or on the namespace, the Secret or the workload.
        ref = WorkloadRef(reader.subject.kind, target.namespace, reader.subject.name)
        consumer = Consumer(ref, "", reader.pod.reads, {}, {}, switch=reader.switch)
        return self._policy.permits(consumer, target, inquiry.bound.spec)

    def _write(self, inquiry: _Inquiry) -> None:
        target, report = inquiry.bound.target, inquiry.report
        version = ", ".join(sorted(inquiry.record.version_ids.values()))
        self._events.event(target, inquiry.bound.uid, report.warning, REASON, report.message(version))
        for sort, subject in report.subjects[:MAX_EVENTS]:
            about = Target(target.namespace, subject.name)
            message = message_to_one(sort, target.name, version)
            self._events.event(about, subject.uid, is_warning(sort), REASON, message, kind=subject.kind)
