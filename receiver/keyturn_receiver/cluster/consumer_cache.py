"""Informer caches of consumers, one cache for each kind of workload, and the index that finds the consumers of a
Secret."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, read_consumer
from keyturn_receiver.core.open_rollouts import is_open, open_until
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.workload_kinds import WorkloadKind
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.telemetry.logs import RepeatedWarnings

# The limit of the names of Secrets and keys in the workloads of one namespace, over all kinds of workloads. Each name
# takes up to 1.2 KB, including its marks (Keyturn's annotations on the workload).
MAX_READS = 20_000
LATE = 3  # seconds; a working watch shows a new workload sooner than this
MAX_REMOVED = 10_000  # workloads of one kind that are gone, and whose names are remembered

_log = logging.getLogger(__name__)


class ConsumerCache:
    """Informer cache of the workloads of one kind whose pods read Secrets. The caches of all kinds share one ``index``.

    If a workload is new, or changes in a way that may affect its rollout, the index calls the handlers for each Secret
    that the pods read. ``wall`` returns the time in seconds since 1970. The cache uses ``wall`` only to decide whether
    a workload was created more than LATE seconds before the cache first saw it. A clock that is some seconds wrong does
    little harm (``core/rollout.py``). ``reloader`` tells whether the annotations of Stakater Reloader count.
    """

    def __init__(
        self,
        kind: WorkloadKind,
        index: "ConsumerIndex",
        wall: Callable[[], float] = time.time,
        reloader: ReloaderMode = ReloaderMode.ABSENT,
    ) -> None:
        self._kind = kind
        self._index = index
        self._wall = wall
        self._reloader = reloader
        self._consumers: dict[WorkloadRef, Consumer] = {}
        self._removed: FairMap[str, WorkloadRef, str] = FairMap(MAX_REMOVED)  # the UIDs of workloads that are gone

    def transform(self, obj: Json) -> Consumer | WorkloadRef:
        """Reduce a workload to a consumer, or to its reference if its pods read no Secret."""
        ref = self._ref(obj)
        return read_consumer(self._kind, obj, self._reloader, self._consumers.get(ref)) or ref

    def replace(self, items: Sequence[Consumer | WorkloadRef], namespace: str | None = None) -> None:
        listed = {item.ref if isinstance(item, Consumer) else item for item in items}
        for ref in self._consumers.keys() - listed:
            if namespace in (None, ref.namespace):
                self._delete(ref)
        for item in items:
            self._update(item, listed=True)

    def update(self, item: Consumer | WorkloadRef) -> None:
        self._update(item, listed=False)

    def _update(self, item: Consumer | WorkloadRef, listed: bool) -> None:
        ref = item.ref if isinstance(item, Consumer) else item
        before = self._remove(ref)
        if not isinstance(item, Consumer) or not self._index.has_room_for(item):
            self._report_end(before)
            return
        if item.seen_late != (seen_late := self._is_seen_late(before, item, listed)):
            item = replace(item, seen_late=seen_late)
        self._consumers[ref] = item
        self._index.add(item)
        if item.faults != (before.faults if before else ()):
            self._index.report(item)
        if before and before.reads != item.reads:
            self._index.report_unread(ref, before.reads.keys() - item.reads.keys())
        if before and (before.baseline, before.marks) != (item.baseline, item.marks):
            self._index.report_marks(before, item)
        if before is None or _progress_fields(before) != _progress_fields(item):
            self._index.report_progress(before, item)
        # A workload's status changes all the time. So a check is triggered only if one of the fields that matter for a
        # rollout has changed.
        if before is None or _rollout_fields(before) != _rollout_fields(item):
            for name in item.reads:
                self._index.notify(Target(ref.namespace, name))

    def delete(self, obj: Json) -> None:
        self._delete(self._ref(obj))

    def _ref(self, obj: Json) -> WorkloadRef:
        return WorkloadRef(self._kind.kind, obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _is_seen_late(self, before: Consumer | None, item: Consumer, listed: bool) -> bool:
        if before and before.created == item.created:
            return before.seen_late
        # A workload that is created again may adopt the pods of the former one (`kubectl delete --cascade=orphan`).
        former = before.uid if before else self._removed.get(item.ref.namespace, item.ref)
        if former not in (None, item.uid):
            return True
        # If this replica first sees a workload in a list, the workload was created before the watch began.
        return item.created is not None and (listed or self._wall() - item.created > LATE)

    def _delete(self, ref: WorkloadRef) -> None:
        if removed := self._remove(ref):
            self._removed.put(ref.namespace, ref, removed.uid)
        self._report_end(removed)

    def _report_end(self, consumer: Consumer | None) -> None:
        if consumer is None:
            return
        if consumer.faults:
            self._index.report(replace(consumer, faults=()))
        self._index.report_unread(consumer.ref, consumer.reads.keys())

    def _remove(self, ref: WorkloadRef) -> Consumer | None:
        consumer = self._consumers.pop(ref, None)
        if consumer:
            self._index.discard(consumer)
        return consumer


def _rollout_fields(consumer: Consumer) -> tuple[object, ...]:
    of_schedule = (consumer.order, consumer.window)
    return (consumer.reads, consumer.baseline, consumer.marks, consumer.switch, consumer.reloader, *of_schedule)


def _progress_fields(consumer: Consumer) -> tuple[object, ...]:
    return (consumer.progress, consumer.marks, consumer.hold)


class ConsumerIndex:
    """Reverse index from Secrets to their consumers, of all kinds of workloads."""

    def __init__(self) -> None:
        self._handlers: list[Callable[[Target], None]] = []
        self._mark_handlers: list[Callable[[Consumer, Consumer], None]] = []
        self._fault_handlers: list[Callable[[Consumer], None]] = []
        self._progress_handlers: list[Callable[[Consumer | None, Consumer], None]] = []
        self._unread_handlers: list[Callable[[WorkloadRef, Target], None]] = []
        self._by_target: dict[Target, dict[WorkloadRef, Consumer]] = defaultdict(dict)
        self._sizes: Counter[str] = Counter()  # the sum of the consumers' sizes, by namespace
        self._warnings = RepeatedWarnings(_log)
        # The open rollouts, by namespace and workload. The value is the time at which the rollout fails by its
        # deadline, in seconds since 1970, or infinity.
        self.open_rollouts: defaultdict[str, dict[WorkloadRef, float]] = defaultdict(dict)

    def add_handler(self, on_change: Callable[[Target], None]) -> None:
        """Register ``on_change``, which is called with each Secret whose consumers have to be checked (``notify``)."""
        self._handlers.append(on_change)

    def add_fault_handler(self, on_faults: Callable[[Consumer], None]) -> None:
        """Register ``on_faults``, which is called with a consumer whenever its ``faults`` change."""
        self._fault_handlers.append(on_faults)

    def report(self, consumer: Consumer) -> None:
        """Call the handlers with a consumer whose faults have changed."""
        for on_faults in self._fault_handlers:
            on_faults(consumer)

    def add_unread_handler(self, on_unread: Callable[[WorkloadRef, Target], None]) -> None:
        """Register ``on_unread``, which is called with a workload and each Secret that the workload no longer reads."""
        self._unread_handlers.append(on_unread)

    def report_unread(self, ref: WorkloadRef, names: Iterable[str]) -> None:
        """Call the handlers with a workload and each Secret that it no longer reads. ``names`` are the names of these
        Secrets."""
        for name in names:
            for on_unread in self._unread_handlers:
                on_unread(ref, Target(ref.namespace, name))

    def add_mark_handler(self, on_marks: Callable[[Consumer, Consumer], None]) -> None:
        """Register ``on_marks``, which is called after each change of the marks on a consumer or on its pod template.
        The arguments are the consumer before the change, and the consumer now."""
        self._mark_handlers.append(on_marks)

    def report_marks(self, before: Consumer, after: Consumer) -> None:
        """Call the handlers with a consumer whose marks have changed."""
        for on_marks in self._mark_handlers:
            on_marks(before, after)

    def add_progress_handler(self, on_progress: Callable[[Consumer | None, Consumer], None]) -> None:
        """Register ``on_progress``, which is called after each change of a consumer's progress, marks, or hold (the
        reason why its pods do not restart). The arguments are the consumer before the change (None if it was not in
        this cache), and the consumer now. A deleted consumer is not reported to these handlers, but to those of
        ``add_unread_handler``."""
        self._progress_handlers.append(on_progress)

    def report_progress(self, before: Consumer | None, after: Consumer) -> None:
        """Call the handlers with a consumer whose progress, hold or marks have changed."""
        for on_progress in self._progress_handlers:
            on_progress(before, after)

    def notify(self, target: Target) -> None:
        """Call the handlers with a Secret whose consumers have to be checked. For example, one of them is new or has
        changed, or its wait has ended."""
        for on_change in self._handlers:
            on_change(target)

    def of(self, target: Target) -> list[Consumer]:
        """Return the consumers of one Secret, sorted by kind, namespace and name."""
        return [consumer for _, consumer in sorted(self._by_target.get(target, {}).items())]

    def has_room_for(self, consumer: Consumer) -> bool:
        """Return whether the consumers of its namespace stay within MAX_READS if this consumer is added. If not, log a
        warning."""
        namespace = consumer.ref.namespace
        if self._sizes[namespace] + consumer.size <= MAX_READS:
            return True
        self._warnings.warning(
            namespace,
            f"the workloads of namespace {namespace} name more than {MAX_READS} Secrets and keys: some are not"
            " restarted; name fewer",
        )
        return False

    def get(self, ref: WorkloadRef, target: Target) -> Consumer | None:
        """Return the consumer ``ref`` of a Secret, or None if this workload is not a consumer of the Secret."""
        return self._by_target.get(target, {}).get(ref)

    def count(self, target: Target) -> int:
        """Return the number of consumers of a Secret."""
        return len(self._by_target.get(target, ()))

    def latest(self, consumer: Consumer) -> Consumer | None:
        """Return the present cache entry of a consumer. Return None if the workload is gone, or no longer reads any of
        the Secrets in ``consumer.reads``."""
        targets = (Target(consumer.ref.namespace, name) for name in consumer.reads)
        return next(filter(None, (self.get(consumer.ref, target) for target in targets)), None)

    def add(self, consumer: Consumer) -> None:
        if is_open(consumer):
            self.open_rollouts[consumer.ref.namespace][consumer.ref] = open_until(consumer)
        self._sizes[consumer.ref.namespace] += consumer.size
        for name in consumer.reads:
            self._by_target[Target(consumer.ref.namespace, name)][consumer.ref] = consumer

    def discard(self, consumer: Consumer) -> None:
        if open_here := self.open_rollouts.get(consumer.ref.namespace):
            open_here.pop(consumer.ref, None)
            if not open_here:
                del self.open_rollouts[consumer.ref.namespace]
        self._sizes[consumer.ref.namespace] -= consumer.size
        if not self._sizes[consumer.ref.namespace]:
            del self._sizes[consumer.ref.namespace]
        for name in consumer.reads:
            target = Target(consumer.ref.namespace, name)
            self._by_target[target].pop(consumer.ref, None)
            if not self._by_target[target]:
                del self._by_target[target]
