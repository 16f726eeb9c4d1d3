"""The picture of the consumers: which workloads read which Secret. Fed by a watch for each kind."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, read_consumer


class ConsumerCache:
    """The workloads of one kind that read Secrets; ``by_secret`` is shared by the kinds."""

    def __init__(self, kind: str, by_secret: "ConsumerIndex", changed: Callable[[Target], None]) -> None:
        self._kind = kind
        self._by_secret = by_secret
        self._changed = changed
        self._known: dict[WorkloadRef, Consumer] = {}

    def read(self, obj: Json) -> Consumer | WorkloadRef:
        """Give what is kept of a consumer; of a workload whose pods read no Secret, its place."""
        return read_consumer(self._kind, obj) or self._ref(obj)

    def replace(self, everything: Sequence[Consumer | WorkloadRef], namespace: str | None = None) -> None:
        fresh = {each.ref if isinstance(each, Consumer) else each for each in everything}
        for ref in self._known.keys() - fresh:
            if namespace in (None, ref.namespace):
                self._drop(ref)
        for each in everything:
            self.put(each)

    def put(self, kept: Consumer | WorkloadRef) -> None:
        ref = kept.ref if isinstance(kept, Consumer) else kept
        known = self._known.get(ref)
        self._drop(ref)
        if not isinstance(kept, Consumer):
            return
        self._known[ref] = kept
        self._by_secret.add(kept)
        # A workload's status changes all the time: only what bears on a rollout is worth a look.
        if known is None or _bearing(known) != _bearing(kept):
            for name in kept.reads:
                self._changed(Target(ref.namespace, name))

    def remove(self, obj: Json) -> None:
        self._drop(self._ref(obj))

    def _ref(self, obj: Json) -> WorkloadRef:
        return WorkloadRef(self._kind, obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _drop(self, ref: WorkloadRef) -> None:
        if known := self._known.pop(ref, None):
            self._by_secret.discard(known)


def _bearing(consumer: Consumer) -> tuple[object, ...]:
    return (consumer.reads, consumer.baseline, consumer.marks, consumer.rollout_disabled)


class ConsumerIndex:
    """The consumers of each Secret, whatever their kind."""

    def __init__(self) -> None:
        self._by_secret: dict[Target, dict[WorkloadRef, Consumer]] = defaultdict(dict)

    def of(self, target: Target) -> list[Consumer]:
        """The consumers of one Secret, in a stable order."""
        return [consumer for _, consumer in sorted(self._by_secret.get(target, {}).items())]

    def add(self, consumer: Consumer) -> None:
        for name in consumer.reads:
            self._by_secret[Target(consumer.ref.namespace, name)][consumer.ref] = consumer

    def discard(self, consumer: Consumer) -> None:
        for name in consumer.reads:
            target = Target(consumer.ref.namespace, name)
            self._by_secret[target].pop(consumer.ref, None)
            if not self._by_secret[target]:
                del self._by_secret[target]
