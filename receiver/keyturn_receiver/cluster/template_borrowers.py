"""Argo Rollouts that take their pod template from another workload (``spec.workloadRef``), and the cache that finds
them. Such a Rollout is a borrower, and the other workload is its lender.

The lender, usually a Deployment without replicas, is the consumer. Its pod template tells what the pods read. If this
pod template changes, the Rollout gets a new revision.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.cluster.consumer_cache import ConsumerCache
from keyturn_receiver.core.argo_rollouts import lender, read_argo_hold, restarts_by_time
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.rollout_hold import RolloutHold
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind

# At most this many borrowers of one namespace are kept. Each takes up to 1 KB. If a namespace has more, the others are
# not known here. Events about their lenders may then be wrong.
MAX_BORROWERS = 2_000


@dataclass(frozen=True, slots=True)
class Borrower:
    """A Rollout that takes its pod template from the workload ``lender``. ``by_time`` tells whether ``spec.restartAt``
    restarts the Rollout's pods. ``hold`` is the reason why the Rollout's pods cannot restart, or None. ``replicas`` is
    the number of pods that the Rollout should have."""

    rollout: WorkloadRef
    lender: WorkloadRef
    by_time: bool = False
    hold: RolloutHold | None = None
    replicas: int = 1


class Borrowers:
    """Index of borrowers by their lender."""

    def __init__(self) -> None:
        self._by_rollout: dict[WorkloadRef, Borrower] = {}
        self._by_lender: dict[WorkloadRef, dict[WorkloadRef, Borrower]] = defaultdict(dict)
        self._sizes: Counter[str] = Counter()  # by namespace

    def __len__(self) -> int:
        return len(self._by_rollout)

    def of(self, workload: WorkloadRef) -> Sequence[Borrower]:
        """Return the borrowers of a workload in a stable order."""
        return [each for _, each in sorted(self._by_lender.get(workload, {}).items())]

    def refs(self, namespace: str | None) -> set[WorkloadRef]:
        """Return the borrowers of one namespace, or of all namespaces if ``namespace`` is None."""
        return {ref for ref in self._by_rollout if namespace in (None, ref.namespace)}

    def put(self, rollout: WorkloadRef, borrower: Borrower | None) -> None:
        """Store the present state of a Rollout. ``borrower`` is None if the Rollout has a pod template of its own, or
        is gone."""
        if before := self._by_rollout.pop(rollout, None):
            of_lender = self._by_lender[before.lender]
            del of_lender[rollout]
            if not of_lender:
                del self._by_lender[before.lender]
            self._sizes[rollout.namespace] -= 1
            if not self._sizes[rollout.namespace]:
                del self._sizes[rollout.namespace]
        if borrower and self._sizes[rollout.namespace] < MAX_BORROWERS:
            self._by_rollout[rollout] = self._by_lender[borrower.lender][rollout] = borrower
            self._sizes[rollout.namespace] += 1


@dataclass(frozen=True, slots=True)
class _Seen:
    ref: WorkloadRef
    consumer: Consumer | WorkloadRef
    borrower: Borrower | None


class RolloutCache:
    """Informer cache of Argo Rollouts. It passes each Rollout on to ``consumers``. A Rollout without a pod template of
    its own is also passed on to ``borrowers``."""

    def __init__(
        self, kind: WorkloadKind, consumers: ConsumerCache, borrowers: Borrowers, is_reloader_replaced: bool = False
    ) -> None:
        self._kind = kind
        self._consumers = consumers
        self._borrowers = borrowers
        self._is_reloader_replaced = is_reloader_replaced

    def transform(self, obj: Json) -> _Seen:
        """Reduce a Rollout to the facts that the two caches keep."""
        ref = self._ref(obj)
        return _Seen(ref, self._consumers.transform(obj), self._borrower(ref, obj))

    def replace(self, items: Sequence[_Seen], namespace: str | None = None) -> None:
        for ref in self._borrowers.refs(namespace) - {each.ref for each in items}:
            self._borrowers.put(ref, None)
        for each in items:
            self._borrowers.put(each.ref, each.borrower)
        self._consumers.replace([each.consumer for each in items], namespace)

    def update(self, item: _Seen) -> None:
        self._borrowers.put(item.ref, item.borrower)
        self._consumers.update(item.consumer)

    def delete(self, obj: Json) -> None:
        self._borrowers.put(self._ref(obj), None)
        self._consumers.delete(obj)

    def _ref(self, obj: Json) -> WorkloadRef:
        return WorkloadRef(self._kind.kind, obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _borrower(self, rollout: WorkloadRef, obj: Json) -> Borrower | None:
        kind, name = lender(obj) or ("", "")
        if kind not in WORKLOAD_KINDS or not is_object_name(name):
            return None
        annotations, replicas = as_object(obj["metadata"].get("annotations")), obj["spec"].get("replicas")
        by_time = restarts_by_time(annotations, {}, self._is_reloader_replaced)
        return Borrower(
            rollout,
            WorkloadRef(kind, rollout.namespace, name),
            by_time,
            read_argo_hold(obj, by_time),
            replicas if isinstance(replicas, int) else 1,
        )
