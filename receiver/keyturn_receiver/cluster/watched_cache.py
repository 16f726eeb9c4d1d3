"""Informer cache of the watched Secrets. It keeps the revisions of their keys. It does not keep their values.

Tenants decide how many Secrets and keys there are, so the memory per namespace is limited.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.revision import KeyedHash, Record
from keyturn_receiver.core.watched import Observation, Watched, has_watch_label, judge, observe, watch_fault, watch_spec

# The limit of the watched Secrets of one namespace, in keys. Each Secret counts as its number of keys plus SECRET_SIZE.
# A key takes about 0.25 KB.
MAX_SIZE = 20_000
SECRET_SIZE = 4

TOO_MANY = (
    f"the watched Secrets of this namespace have more than {MAX_SIZE} keys, where each Secret counts as {SECRET_SIZE}"
    " more: nobody is restarted for this one; take the label from others, and edit this Secret"
)


@dataclass(frozen=True, slots=True)
class WatchedSecret:
    """Cached metadata of a watched Secret, without its data.

    ``spec`` has the settings for restarts that the Secret's annotations contain. ``first_seen_at`` and ``changed_at``
    are in monotonic seconds. ``first_seen_at`` is the time at which this replica first saw any version of the Secret.
    ``changed_at`` is the time at which this replica first saw the present values. ``followed`` is the record of the
    last version that this replica saw with an up-to-date annotation. It is None if this replica has not seen such a
    version.
    """

    target: Target
    uid: str
    resource_version: str
    watched: Watched
    spec: BindingSpec
    first_seen_at: float
    changed_at: float
    followed: Record | None

    @property
    def record(self) -> Record:
        """The revisions of the Secret's keys, and the times at which they changed."""
        return self.watched.record

    @property
    def size(self) -> int:
        """The number that the Secret contributes towards MAX_SIZE. The Secret's memory is proportional to this
        number."""
        return SECRET_SIZE + len(self.record.revisions)


@dataclass(frozen=True, slots=True)
class SeenSecret:
    """One version of a Secret with the label ``keyturn.dev/watch``. ``fault`` is the reason why the Secret is not
    watched, or an empty text."""

    target: Target
    uid: str
    resource_version: str
    seen: Observation | None
    spec: BindingSpec | None
    fault: str


class WatchedCache:
    """Informer cache. It finds watched Secrets by target. ``keyed`` makes the revisions of their keys."""

    def __init__(self, keyed: KeyedHash) -> None:
        self._keyed = keyed
        self._handlers: list[Callable[[Target], None]] = []
        self._kept_handlers: list[Callable[[WatchedSecret], None]] = []
        self._fault_handlers: list[Callable[[SeenSecret], None]] = []
        self._by_target: dict[Target, WatchedSecret] = {}
        self._sizes: Counter[str] = Counter()  # by namespace

    def __len__(self) -> int:
        return len(self._by_target)

    def add_handler(self, on_change: Callable[[Target], None]) -> None:
        """Register ``on_change``, which is called with each Secret that is added or removed, or that changes in a way
        that may need work."""
        self._handlers.append(on_change)

    def add_kept_handler(self, on_kept: Callable[[WatchedSecret], None]) -> None:
        """Register ``on_kept``, which is called when Keyturn's record on a watched Secret has become up to date,
        usually because a replica has written it. The argument is the cached state of the Secret from before this
        change."""
        self._kept_handlers.append(on_kept)

    def add_fault_handler(self, on_fault: Callable[[SeenSecret], None]) -> None:
        """Register ``on_fault``, which is called with each Secret that has the label but is not watched. The Secret's
        ``fault`` gives the reason. ``on_fault`` is also called with an empty ``fault`` at each change of a watched
        Secret, and when a Secret without the label, or a deleted one, is seen."""
        self._fault_handlers.append(on_fault)

    def get(self, target: Target) -> WatchedSecret | None:
        """Return the watched Secret at ``target``, or None if no watched Secret is there."""
        return self._by_target.get(target)

    def all(self) -> list[WatchedSecret]:
        """Return every watched Secret."""
        return list(self._by_target.values())

    def in_namespace(self, namespace: str) -> list[Target]:
        """Return the targets in one namespace."""
        return [target for target in self._by_target if target.namespace == namespace]

    def judge(self, obj: Json) -> WatchedSecret | None:
        """Add the facts that only the cache knows to a Secret that the API server has just returned. Return None if the
        Secret is not watched."""
        item = self.transform(obj)
        return self._judge(item) if isinstance(item, SeenSecret) and not item.fault else None

    def transform(self, obj: Json) -> SeenSecret | Target:
        """Reduce a Secret to a ``SeenSecret``, or to its target if it does not have the label."""
        metadata = obj["metadata"]
        target = Target(sys.intern(metadata["namespace"]), metadata["name"])
        if not has_watch_label(metadata):
            return target
        data = obj.get("data") or {}
        fault = watch_fault(metadata, len(data))
        seen = None if fault else observe(self._keyed, metadata, data)
        spec = None if fault else watch_spec(metadata)
        return SeenSecret(target, metadata["uid"], metadata["resourceVersion"], seen, spec, fault)

    def replace(self, items: Sequence[SeenSecret | Target], namespace: str | None = None) -> None:
        listed = {item.target for item in items if isinstance(item, SeenSecret)}
        for target in list(self._by_target):
            if namespace in (None, target.namespace) and target not in listed:
                self._delete(target)
        for item in items:
            self.update(item)

    def update(self, item: SeenSecret | Target) -> None:
        if isinstance(item, Target):
            self._delete(item)
            return
        secret = None if item.fault else self._judge(item)
        cached = self._drop(item.target)
        if secret and self._sizes[item.target.namespace] + secret.size > MAX_SIZE:
            secret, item = None, replace(item, fault=TOO_MANY)
        for on_fault in self._fault_handlers:
            on_fault(item)
        if secret:
            self._sizes[item.target.namespace] += secret.size
            self._by_target[item.target] = secret
        if cached and secret and secret.watched.is_kept and not cached.watched.is_kept:
            for on_kept in self._kept_handlers:
                on_kept(cached)
        if _matters(cached, secret):
            self._notify(item.target)

    def delete(self, obj: Json) -> None:
        self._delete(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _judge(self, item: SeenSecret) -> WatchedSecret:
        assert item.seen is not None  # noqa: S101 - for the type checker: a Secret without a fault was observed
        assert item.spec is not None  # noqa: S101 - the same
        cached = self._by_target.get(item.target)
        known, now = cached if cached and cached.uid == item.uid else None, time.monotonic()
        watched = judge(item.seen, known.watched if known else None)
        is_same = known is not None and known.record.digest == watched.record.digest
        return WatchedSecret(
            item.target,
            item.uid,
            item.resource_version,
            watched,
            item.spec,
            first_seen_at=known.first_seen_at if known else now,
            changed_at=known.changed_at if known and is_same else now,
            followed=watched.record if watched.is_kept else known.followed if known else None,
        )

    def _delete(self, target: Target) -> None:
        for on_fault in self._fault_handlers:
            on_fault(SeenSecret(target, "", "", None, None, ""))
        if self._drop(target):
            self._notify(target)

    def _drop(self, target: Target) -> WatchedSecret | None:
        cached = self._by_target.pop(target, None)
        if cached:
            self._sizes[target.namespace] -= cached.size
            if not self._sizes[target.namespace]:
                del self._sizes[target.namespace]
        return cached

    def _notify(self, target: Target) -> None:
        for on_change in self._handlers:
            on_change(target)


def _matters(before: WatchedSecret | None, after: WatchedSecret | None) -> bool:
    """Return whether a change of a Secret may need work. A controller may write the same values again and again. For
    such a write, return false."""
    if before is None or after is None:
        return before is not after
    return (before.uid, before.watched, before.spec) != (after.uid, after.watched, after.spec)
