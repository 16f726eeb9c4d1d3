"""Turns of namespaces in a sweep. A namespace with many AWS secrets to describe does not delay the other namespaces."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import takewhile

from keyturn_receiver.poller.bound_source import BoundSource
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.turns import take_turns
from keyturn_receiver.sources.stores import StoreKey

# If AWS secrets of a namespace are missing in a sweep's list, the sweep describes at most this many of them. The next
# sweep continues after them.
MAX_DESCRIBED = 200
# The positions of at most this many pairs of store and namespace are remembered. A forgotten pair starts again at its
# first secret.
MAX_POSITIONS = 10_000


@dataclass(frozen=True, slots=True)
class Turn:
    """The AWS secrets that one sweep describes. ``by_id`` has the bindings of each secret, in the order of the
    descriptions. ``by_namespace`` has the ids of the secrets of each namespace, in order."""

    by_id: dict[str, list[BoundSource]]
    by_namespace: dict[str, list[str]]


class Turns:
    """Round robin over the namespaces of each store, and over the AWS secrets of each namespace. It remembers the
    position in each namespace. So every secret gets its turn, even if each sweep leaves many secrets to the next
    sweep."""

    def __init__(self) -> None:
        # By namespace and store: the id of the AWS secret after which the next turn starts.
        self._last: FairMap[str, StoreKey, str] = FairMap(MAX_POSITIONS)
        self._first: BoundedMap[StoreKey, str] = BoundedMap(MAX_POSITIONS)  # by store: the namespace that comes first

    def next(self, store: StoreKey, bindings: Sequence[BoundSource], limit: int | None) -> Turn:
        """Return the secrets that the next sweep describes. Each namespace gets at most ``limit`` secrets. Secrets of
        different namespaces alternate."""
        ids: dict[str, set[str]] = {}
        for bound in bindings:
            ids.setdefault(bound.target.namespace, set()).add(bound.source.secret_id)
        first = self._first.get(store) or ""
        in_order = sorted(ids, key=lambda namespace: (namespace < first, namespace))
        by_namespace = {each: self._from_position(store, each, ids[each])[:limit] for each in in_order}
        pairs = [(namespace, secret_id) for namespace, part in by_namespace.items() for secret_id in part]
        by_id: dict[str, list[BoundSource]] = {
            secret_id: [] for _, secret_id in take_turns(pairs, lambda pair: pair[0])
        }
        for bound in bindings:
            if bound.source.secret_id in by_id:
                by_id[bound.source.secret_id].append(bound)
        return Turn(by_id, by_namespace)

    def end(self, store: StoreKey, turn: Turn, described: Set[str]) -> None:
        """Remember how far a turn came. ``described`` has the secrets that the turn has described, or has tried to
        describe. In each namespace, the next turn starts at the first secret that is not among them. If namespaces have
        such secrets, the one with the fewest described secrets comes first in the next turn."""
        count = {each: sum(map(described.__contains__, part)) for each, part in turn.by_namespace.items()}
        if left := [each for each, part in turn.by_namespace.items() if count[each] < len(part)]:
            self._first.put(store, min(left, key=count.__getitem__))
        for namespace, part in turn.by_namespace.items():
            if begin := list(takewhile(described.__contains__, part)):
                self._last.put(namespace, store, begin[-1])

    def _from_position(self, store: StoreKey, namespace: str, ids: set[str]) -> list[str]:
        last = self._last.get(namespace, store) or ""
        return sorted(ids, key=lambda secret_id: (secret_id <= last, secret_id))
