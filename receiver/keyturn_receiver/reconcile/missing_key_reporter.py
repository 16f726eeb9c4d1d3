"""Reporter of missing keys: keys that a workload reads and that its Secret does not have. The Event is on the
workload."""

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.missing_keys import by_spelling, missing_keys, missing_keys_message, named_keys
from keyturn_receiver.core.revision import OK
from keyturn_receiver.reconcile.consumer_reporter import MAX_CONSUMER_EVENTS
from keyturn_receiver.reconcile.notices import Notices
from keyturn_receiver.resilience.fair_map import FairMap

MAX_TOLD = 2000  # Secrets whose reported workloads are remembered


class MissingKeyReporter:
    """Reporter of missing keys. It reads only the caches, and makes no calls itself."""

    def __init__(self, index: ConsumerIndex, secrets: SecretCache, notices: Notices) -> None:
        self._index = index
        self._secrets = secrets
        self._notices = notices
        self._told: FairMap[str, Target, frozenset[WorkloadRef]] = FairMap(MAX_TOLD)  # by namespace

    def on_secret(self, target: Target) -> None:
        """Forget the notices about a Secret that is gone or no longer bound."""
        if self._secrets.get(target) is None:
            self._keep(target, frozenset())

    def check(self, bound: BoundSecret) -> None:
        """Compare the keys of a Secret with the keys that its consumers read. Nothing is reported before the Secret is
        filled, or while its status is an error, because the missing keys may still be written."""
        keys = bound.keys
        if keys is None or not bound.record.was_written or bound.record.status != OK:
            return
        missing: dict[WorkloadRef, tuple[Consumer, tuple[str, ...]]] = {}
        for consumer in self._index.of(bound.target):
            if lacking := missing_keys(consumer.reads[bound.target.name], keys):
                missing[consumer.ref] = (consumer, lacking)
                if len(missing) == MAX_CONSUMER_EVENTS:
                    break
        if missing:
            named = named_keys(keys, bound.spec.data)
            spellings = by_spelling(named)
            for consumer, lacking in missing.values():
                message = missing_keys_message(lacking, named, spellings, len(keys))
                self._notices.on_missing_keys(consumer, bound.target, message)
        self._keep(bound.target, frozenset(missing))

    def _keep(self, target: Target, told: frozenset[WorkloadRef]) -> None:
        """Forget the notices on all workloads except those in ``told``. Remember ``told``."""
        for ref in (self._told.pop(target.namespace, target) or frozenset()) - told:
            self._notices.on_no_missing_keys(ref, target)
        if told:
            self._told.put(target.namespace, target, told)
