"""Informer cache of the bound Secrets. It finds a Secret's metadata by target, or by the AWS secret that the Secret
names.

A reflector fills the cache. The cache also holds fingerprints of the values that this replica has read or written.
Everything that it knows about a Secret is dropped together with the Secret.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from keyturn_receiver.cluster.api import FIELD_MANAGER, Json
from keyturn_receiver.cluster.index import Index
from keyturn_receiver.cluster.secret_client import own_annotations
from keyturn_receiver.core.arn import account_scope, candidate_names
from keyturn_receiver.core.binding import DECLARING, BindingSpec, Target, has_bind_label, is_bound, read_spec
from keyturn_receiver.core.copies import Copy, copy_of
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import RECONCILED, RECORD, STATE, STATUS, Record, read_record, split_version_key
from keyturn_receiver.core.sync_status import is_solely_managed
from keyturn_receiver.core.vocabulary import secret_faults
from keyturn_receiver.core.write_times import CHANGED_AT

SMALL = 2048  # characters of a Secret's annotations
MAX_SMALL = 512  # Secrets with small annotations whose parsed form is kept
MAX_LARGE = 8  # Secrets with larger ones, of up to 256 KiB

# The time of the last write is left out, because it is only for people.
_RECORD = (*RECORD[:-1], STATUS, RECONCILED)
_ANNOTATIONS = (*DECLARING, *_RECORD, CHANGED_AT)


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """Cached metadata of a bound Secret, without its data.

    ``names`` are all the names that its AWS secrets may have. ``solely_managed`` is true if no other writer has changed
    the fields that Keyturn owns. ``texts`` are the unparsed annotations and the label ``keyturn.dev/state``, which take
    less memory than parsed ones. ``faults`` say what is wrong with the names of its annotations and labels.
    ``seen_at`` is the time, in monotonic seconds, at which this replica first saw this version of the Secret.
    ``first_seen_at`` is that of the first version that it saw, as long as the Secret is not deleted.
    """

    target: Target
    uid: str
    resource_version: str
    names: tuple[str, ...]
    solely_managed: bool
    texts: tuple[str | None, ...]
    seen_at: float
    first_seen_at: float
    faults: tuple[str, ...] = ()

    @property
    def spec(self) -> BindingSpec:
        """The binding as its author wrote it."""
        return _spec_of(self.texts, self.faults)

    @property
    def record(self) -> Record:
        """The record that Keyturn keeps on the Secret."""
        return _record_of(self.texts)


def read_bound(metadata: Json) -> BoundSecret:
    """Parse a bound Secret's metadata as the API server returns it."""
    annotations = own_annotations(metadata)
    texts = (*(annotations.get(name) for name in _ANNOTATIONS), (metadata.get("labels") or {}).get(STATE))
    faults = secret_faults(metadata)
    now = time.monotonic()
    record = _record_of(texts)
    # The ARNs that the Secret was made from also count, because AWS may report an ARN where the binding has a name.
    arns = (split_version_key(key)[0] for key in record.version_ids)
    secret_ids = (_spec_of(texts, faults).secret_id, *arns)
    return BoundSecret(
        target=Target(sys.intern(metadata["namespace"]), metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        names=tuple(dict.fromkeys(name for each in secret_ids for name in candidate_names(each))),
        solely_managed=is_solely_managed(FIELD_MANAGER, metadata.get("managedFields") or [], record),
        texts=texts,
        seen_at=now,
        first_seen_at=now,
        faults=faults,
    )


@dataclass(frozen=True, slots=True)
class CopiedSecret:
    """A Secret that another controller has copied, with the label that binds it."""

    target: Target
    uid: str
    copy: Copy


# A caller needs the same binding several times in a row, and then not again for a long time. What is kept here outlives
# its Secret, so only a few large texts are kept, and they do not push out the small ones.
def _spec_of(texts: tuple[str | None, ...], faults: tuple[str, ...]) -> BindingSpec:
    return _small_spec(texts, faults) if _size(texts) <= SMALL else _large_spec(texts, faults)


def _record_of(texts: tuple[str | None, ...]) -> Record:
    return _small_record(texts) if _size(texts) <= SMALL else _large_record(texts)


def _size(texts: tuple[str | None, ...]) -> int:
    return sum([len(text) for text in texts if text])


def _read_spec(texts: tuple[str | None, ...], faults: tuple[str, ...]) -> BindingSpec:
    return read_spec(_annotations(texts), faults)


def _read_record(texts: tuple[str | None, ...]) -> Record:
    return read_record(_annotations(texts), texts[-1] or "")


_small_spec, _large_spec = lru_cache(MAX_SMALL)(_read_spec), lru_cache(MAX_LARGE)(_read_spec)
_small_record, _large_record = lru_cache(MAX_SMALL)(_read_record), lru_cache(MAX_LARGE)(_read_record)


def _annotations(texts: tuple[str | None, ...]) -> dict[str, str]:
    return {name: text for name, text in zip(_ANNOTATIONS, texts[:-1], strict=True) if text is not None}


@dataclass(frozen=True, slots=True)
class _Values:
    """The data of a Secret that this replica has read or written, with a fingerprint in place of each value."""

    resource_version: str
    type: str
    immutable: bool
    fingerprints: Mapping[str, bytes] = field(repr=False)


class SecretCache:
    """Informer cache. Finds bound Secrets by target, and by every name that their AWS secrets may have."""

    def __init__(self) -> None:
        self._handlers: list[Callable[[Target], None]] = []
        self._copy_handlers: list[Callable[[CopiedSecret], None]] = []
        self._by_target: dict[Target, BoundSecret] = {}
        self._by_name = Index()
        self._values: dict[Target, _Values] = {}

    def __len__(self) -> int:
        return len(self._by_target)

    def add_handler(self, on_change: Callable[[Target], None]) -> None:
        """Register ``on_change``, which is called with the target of each Secret that is added, changed or removed."""
        self._handlers.append(on_change)

    def add_copy_handler(self, on_copy: Callable[[CopiedSecret], None]) -> None:
        """Register ``on_copy``, which is called with each Secret that another controller has copied, label included,
        whenever that Secret changes."""
        self._copy_handlers.append(on_copy)

    def get(self, target: Target) -> BoundSecret | None:
        """Return the bound Secret at ``target``, or None if there is none."""
        return self._by_target.get(target)

    def all(self) -> list[BoundSecret]:
        """Return every bound Secret."""
        return list(self._by_target.values())

    def in_namespace(self, namespace: str) -> list[Target]:
        """Return the targets in one namespace."""
        return [target for target in self._by_target if target.namespace == namespace]

    def by_secret_id(self, secret_id: str, name: str | None = None) -> list[Target]:
        """Return the targets of the bindings that may name this AWS secret, sorted."""
        targets: set[Target] = set()
        for each in {*candidate_names(secret_id), *([name] if name else [])}:
            targets |= self._by_name.of(each)
        return sorted(target for target in targets if self._may_mean(target, secret_id))

    def _may_mean(self, target: Target, secret_id: str) -> bool:
        # An AWS secret in another account or region is a different one, even if it has the same name.
        ours, theirs = account_scope(self._by_target[target].spec.secret_id), account_scope(secret_id)
        return not ours or not theirs or ours == theirs

    def live(self, bound: BoundSecret) -> LiveSecret | None:
        """Return the whole Secret if this replica has read or written exactly the version that is cached. Otherwise
        return None."""
        values = self._values.get(bound.target)
        if values is None or values.resource_version != bound.resource_version:
            return None
        return LiveSecret(
            bound.target,
            bound.uid,
            values.resource_version,
            values.type,
            values.immutable,
            bound.record,
            values.fingerprints,
        )

    def keep_values(self, live: LiveSecret, resource_version: str, fingerprints: Mapping[str, bytes]) -> None:
        """Keep the fingerprints of values that this replica has just read or written."""
        if live.target in self._by_target:
            self._values[live.target] = _Values(resource_version, live.type, live.immutable, fingerprints)

    def drop_values(self, target: Target) -> None:
        """Forget the fingerprints of a Secret's values, so that the next reconcile reads the Secret again."""
        self._values.pop(target, None)

    def transform(self, obj: Json) -> BoundSecret | CopiedSecret | Target:
        """Reduce a bound Secret to its cached metadata, and any other Secret to its target. A copy is never bound."""
        metadata = obj["metadata"]
        if is_bound(metadata):
            return read_bound(metadata)
        target, copy = Target(metadata["namespace"], metadata["name"]), copy_of(metadata)
        return CopiedSecret(target, metadata["uid"], copy) if copy and has_bind_label(metadata) else target

    def replace(self, everything: Sequence[BoundSecret | CopiedSecret | Target], namespace: str | None = None) -> None:
        fresh = {each.target for each in everything if isinstance(each, BoundSecret)}
        cached = self._by_target if namespace is None else self.in_namespace(namespace)
        for target in set(cached) - fresh:
            self._delete_and_notify(target)
        for each in everything:
            self.update(each)

    def update(self, kept: BoundSecret | CopiedSecret | Target) -> None:
        if isinstance(kept, Target):
            self._delete_and_notify(kept)
            return
        if isinstance(kept, CopiedSecret):
            self._delete_and_notify(kept.target)
            for on_copy in self._copy_handlers:
                on_copy(kept)
            return
        cached = self._by_target.get(kept.target)
        if cached and (cached.uid, cached.resource_version) == (kept.uid, kept.resource_version):
            return  # this version is already cached, and its original ``seen_at`` has to stay
        if cached and cached.uid == kept.uid:
            kept = replace(kept, first_seen_at=cached.first_seen_at)
        self._drop(kept.target)
        self._by_target[kept.target] = kept
        for name in kept.names:
            self._by_name.add(name, kept.target)
        self._notify(kept.target)

    def delete(self, obj: Json) -> None:
        self._delete_and_notify(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _delete_and_notify(self, target: Target) -> None:
        if self._drop(target):
            self.drop_values(target)
            self._notify(target)

    def _notify(self, target: Target) -> None:
        for on_change in self._handlers:
            on_change(target)

    def _drop(self, target: Target) -> BoundSecret | None:
        cached = self._by_target.pop(target, None)
        for name in cached.names if cached else ():
            self._by_name.discard(name, target)
        return cached
