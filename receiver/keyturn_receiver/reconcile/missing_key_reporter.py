"""Reports on each workload the keys that it reads and that its Secret does not have."""

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.core.missing_keys import missing_keys, missing_keys_message, named_keys
from keyturn_receiver.core.revision import OK
from keyturn_receiver.reconcile.notices import Notices
from keyturn_receiver.reconcile.status_reporter import MAX_CONSUMER_EVENTS


class MissingKeyReporter:
    """Reports missing keys. It takes what the caches show, and makes no calls."""

    def __init__(self, index: ConsumerIndex, notices: Notices) -> None:
        self._index = index
        self._notices = notices

    def check(self, bound: BoundSecret) -> None:
        """Compare a Secret with what its consumers read. Report nothing before the Secret is filled, nor while its
        status is an error, because the keys may still come."""
        keys = bound.keys
        if keys is None or not bound.record.was_written or bound.record.status != OK:
            return
        named: tuple[str, ...] | None = None
        messages: dict[tuple[str, ...], str] = {}
        told = 0
        for consumer in self._index.of(bound.target):
            missing = missing_keys(consumer.reads[bound.target.name], keys)
            if not missing or told == MAX_CONSUMER_EVENTS:
                self._notices.on_missing_keys(consumer, bound.target, "")
                continue
            told += 1
            if missing not in messages:
                named = named_keys(keys, bound.spec.data) if named is None else named
                messages[missing] = missing_keys_message(missing, named, len(keys))
            self._notices.on_missing_keys(consumer, bound.target, messages[missing])
