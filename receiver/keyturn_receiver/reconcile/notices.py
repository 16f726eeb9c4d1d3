"""Notices: facts for people about objects that no reconcile reports on, such as workloads and namespaces.

A new notice becomes a Kubernetes Event. While the notice stays the same, no further Event is written. Every replica
collects the notices, and the leader writes the Events.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keyturn_receiver.cluster.event_recorder import MAX_MESSAGE, EventRecorder
from keyturn_receiver.cluster.namespace_cache import NamespaceView
from keyturn_receiver.cluster.secret_cache import CopiedSecret
from keyturn_receiver.cluster.watched_cache import SeenSecret
from keyturn_receiver.core.binding import Target, tell_all
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.vocabulary import BIND_LABEL
from keyturn_receiver.errors import InvalidBinding
from keyturn_receiver.resilience.fair_map import FairMap

MAX_NOTICES = 10_000  # notices that are remembered
# Notices of one namespace that are remembered. Their number is limited, because a new leader writes them all at once.
MAX_NOTICES_PER_NAMESPACE = 1000
KEY_MISSING = "KeyMissing"


@dataclass(frozen=True, slots=True)
class _Key:
    """Identifies a notice. ``kind`` and ``target`` name the object that gets the Event. ``secret`` tells apart several
    notices on one object: it is the name of the Secret if keys are missing in it or if it is not watched, and otherwise
    empty."""

    kind: str
    target: Target
    secret: str = ""


@dataclass(frozen=True, slots=True)
class _Notice:
    uid: str
    warning: bool
    reason: str
    message: str


class Notices:
    """Collects notices, and writes each new notice as an Event. ``is_leader`` returns whether this replica leads.

    If a namespace has very many notices, its oldest ones are forgotten. ``EventRecorder`` limits the rate of Events,
    and lets namespaces take turns.
    """

    def __init__(self, events: EventRecorder, is_leader: Callable[[], bool]) -> None:
        self._events = events
        self._is_leader = is_leader
        self._notices: FairMap[str, _Key, _Notice] = FairMap(MAX_NOTICES)  # by namespace

    def on_consumer(self, consumer: Consumer) -> None:
        """Put a notice about the faults of a workload, or drop the notice if the workload has no faults any more."""
        message = f"{tell_all(consumer.faults)}; its pods are not restarted until then" if consumer.faults else ""
        ref = consumer.ref
        key = _Key(ref.kind, Target(ref.namespace, ref.name))
        self._put(key, consumer.uid, InvalidBinding.reason, message)

    def on_missing_keys(self, consumer: Consumer, secret: Target, message: str) -> None:
        """Put a notice about the keys that a workload reads and that the Secret does not have."""
        self._put(_missing_key(consumer.ref, secret), consumer.uid, KEY_MISSING, f"Secret {secret.name}: {message}")

    def on_no_missing_keys(self, ref: WorkloadRef, secret: Target) -> None:
        """Drop the notice about missing keys, for example because the workload reads no missing key any more, or
        because the workload or the Secret is gone."""
        self._notices.pop(secret.namespace, _missing_key(ref, secret))

    def on_namespace(self, namespace: NamespaceView) -> None:
        """Put a notice about the faults of a namespace, or drop the notice if the namespace has no faults any more."""
        faults = namespace.faults
        message = f"{tell_all(faults)}; the other annotations of this namespace hold as they are" if faults else ""
        key = _Key("Namespace", Target(namespace.name, namespace.name))
        self._put(key, namespace.uid, InvalidBinding.reason, message)

    def on_copy(self, copied: CopiedSecret) -> None:
        """Put a notice on a Secret that another controller has made as a copy."""
        message = (
            f"this Secret is {copied.copy}, label {BIND_LABEL} included: Keyturn leaves it alone, and fills the"
            " original; to bind a Secret here, create one of another name"
        )
        self._put(_Key("Secret", copied.target), copied.uid, "CopyIgnored", message, warning=False)

    def on_watched(self, secret: SeenSecret) -> None:
        """Put a notice on a Secret that has the label ``keyturn.dev/watch`` but is not watched. The notice gives the
        reason.

        If the Secret is now watched, or is gone, ``secret.fault`` is empty. The notice is then dropped.
        """
        key = _Key("Secret", secret.target, secret.target.name)
        self._put(key, secret.uid, "NotWatched", secret.fault)

    def on_started_leading(self) -> None:
        """Write all notices, because the previous leader may have missed some."""
        for namespace in list(self._notices):
            for key in self._notices.of(namespace):
                if notice := self._notices.get(namespace, key):
                    self._write(key, notice)

    def _put(self, key: _Key, uid: str, reason: str, message: str, warning: bool = True) -> None:
        namespace = key.target.namespace
        if not message:
            self._notices.pop(namespace, key)
            return
        notice = _Notice(uid, warning, reason, message[:MAX_MESSAGE])
        if self._notices.get(namespace, key) == notice:
            return
        self._notices.put(namespace, key, notice)
        if self._notices.size(namespace) > MAX_NOTICES_PER_NAMESPACE:
            self._notices.pop_oldest(namespace)
        if self._is_leader():
            self._write(key, notice)

    def _write(self, key: _Key, notice: _Notice) -> None:
        self._events.event(key.target, notice.uid, notice.warning, notice.reason, notice.message, kind=key.kind)


def _missing_key(ref: WorkloadRef, secret: Target) -> _Key:
    return _Key(ref.kind, Target(ref.namespace, ref.name), secret.name)
