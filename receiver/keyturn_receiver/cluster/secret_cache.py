"""Informer cache of the bound Secrets. It finds a Secret's metadata by the Secret's target, or by an AWS secret that
the Secret's binding or record names.

A reflector fills the cache. The cache does not keep the values of a Secret. It keeps whether the values are as Keyturn
wrote them. It also keeps fingerprints of the values that this replica has read or written. All entries of a Secret are
dropped together with the Secret. Only ``FormerSecrets`` may still remember some facts about it.

Tenants write annotations and keys. So the size of the annotations and keys in the cache is limited per Secret and per
namespace.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.cluster.former_secrets import FormerSecrets
from keyturn_receiver.cluster.index import Index
from keyturn_receiver.cluster.secret_client import own_annotations, state_label
from keyturn_receiver.core.arn import account_scope, candidate_names
from keyturn_receiver.core.binding import (
    DATA,
    DECLARING,
    MAX_DATA_ANNOTATION,
    SERVICE_ACCOUNT,
    BindingSpec,
    Target,
    has_bind_label,
    is_bound,
    read_spec,
)
from keyturn_receiver.core.copies import Copy, copy_of
from keyturn_receiver.core.field_owners import FIELD_MANAGER
from keyturn_receiver.core.integrity import Integrity, integrity
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import (
    MOVED_AT,
    RECONCILED,
    RECORD,
    STATUS,
    VERSION_IDS,
    KeyedHash,
    Record,
    read_record,
    split_version_key,
)
from keyturn_receiver.core.unsettled import MAX_TEXT as MAX_UNSETTLED
from keyturn_receiver.core.unsettled import UNSETTLED
from keyturn_receiver.core.vocabulary import secret_faults
from keyturn_receiver.core.write_times import CHANGED_AT

SMALL = 4096  # bytes; the annotations of a Secret are small if they take at most this
MAX_SMALL = 1024  # at most this many parsed bindings are cached, and as many parsed records, if their texts are small
MAX_LARGE = 8  # the same number for larger texts, which take up to 256 KiB

_RECORD = RECORD[:-1]  # without the time of the last write, which is only for people
_ANNOTATIONS = (*DECLARING, STATUS, RECONCILED, MOVED_AT, CHANGED_AT, UNSETTLED, *_RECORD)
_SERVICE_ACCOUNT, _STATUS, _VERSION_IDS = map(_ANNOTATIONS.index, (SERVICE_ACCOUNT, STATUS, VERSION_IDS))
_LIMITS = {DATA: MAX_DATA_ANNOTATION + 1, UNSETTLED: MAX_UNSETTLED + 1, **dict.fromkeys((CHANGED_AT, *_RECORD))}
_RECORD_TEXTS = slice(len(_ANNOTATIONS) - len(_RECORD), len(_ANNOTATIONS))  # the positions of the record in ``texts``

MAX_TEXT = 4096  # characters of an annotation; except for `data`, the record and CHANGED_AT, longer ones are cut
MAX_UNPROVEN_RECORD = 4096  # bytes of a record that Keyturn may not have written; a longer one is not kept
MAX_ARNS = 20  # ARNs of one record by which its Secret can be found
LARGE = 8192  # bytes; if the annotations of a Secret take more, they count towards the limit of their namespace
MAX_LARGE_BYTES = 8 * 1024 * 1024  # bytes of large annotations that are kept for one namespace
MAX_OTHER_KEYS = 2048  # bytes of the Secret's keys that are not in its record; if they take more, none of them is kept
MAX_FINGERPRINTS = 512  # keys of one Secret; a Secret with more keys is read again for each reconcile

TOO_MUCH = (
    f"the bound Secrets of this namespace have more than {MAX_LARGE_BYTES // 1024 // 1024} MiB of large annotations:"
    " shorten their annotations, or delete some of the Secrets, and edit this Secret"
)


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """Cached metadata of a bound Secret, without its data.

    ``names`` are all possible names of the Secret's AWS secrets. ``scopes`` are the accounts and regions that the
    binding names (``account_scope``). ``integrity`` tells whether the Secret's keys and its record are as Keyturn wrote
    them. ``texts`` are the annotations and the label ``keyturn.dev/state``, unparsed to save memory. ``faults``
    describe wrong names among the Secret's annotations and labels. ``fault`` describes an error that the Secret itself
    does not show, and is otherwise empty.

    ``is_small`` tells whether the annotations are small. ``large_bytes`` is the number of bytes that they take. It is 0
    if they take at most LARGE bytes. They then do not count towards the limit of the namespace.

    ``lost_record`` is true if Keyturn has filled the Secret, but the cache no longer has the record. ``other_keys`` are
    the Secret's keys that are not in its record, or None if they take more than MAX_OTHER_KEYS bytes.

    ``seen_at`` is the time, in monotonic seconds, at which this replica first saw this version of the Secret.
    ``first_seen_at`` is the time at which this replica first saw any version of the Secret. It does not change while
    the Secret is in the cache.
    """

    target: Target
    uid: str
    resource_version: str
    names: tuple[str, ...]
    scopes: tuple[str, ...]
    integrity: Integrity
    texts: tuple[str | None, ...]
    seen_at: float
    first_seen_at: float
    faults: tuple[str, ...] = ()
    lost_record: bool = False
    fault: str = ""
    other_keys: tuple[str, ...] | None = ()
    is_small: bool = field(init=False)
    large_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        size = _size(self.texts)
        object.__setattr__(self, "is_small", size <= SMALL)
        object.__setattr__(self, "large_bytes", size if size > LARGE else 0)

    @property
    def keys(self) -> frozenset[str] | None:
        """The keys in the record, and ``other_keys``. If the record is cached and intact, these are all keys of the
        Secret. None if ``other_keys`` is None."""
        return None if self.other_keys is None else frozenset((*self.record.revisions, *self.other_keys))

    @property
    def spec(self) -> BindingSpec:
        """The binding as its author wrote it."""
        return _spec_of(self.texts, self.faults, self.is_small)

    @property
    def has_account(self) -> bool:
        """Whether ``spec.account`` names a ServiceAccount. This property does not parse the binding."""
        return bool((self.texts[_SERVICE_ACCOUNT] or "").strip())

    @property
    def status(self) -> str:
        """The status of the Secret, or an empty text. This property does not parse the record."""
        return self.texts[_STATUS] or ""

    @property
    def versions_text(self) -> str:
        """The unparsed annotation with the version ids, or an empty text. This property does not parse the record."""
        return self.texts[_VERSION_IDS] or ""

    @property
    def record(self) -> Record:
        """The record that Keyturn keeps on the Secret."""
        return _record_of(self.texts, self.other_keys, self.is_small)

    @property
    def is_intact(self) -> bool:
        """Whether the keys and the record are still as Keyturn wrote them, as far as is known."""
        return self.integrity is not Integrity.BROKEN


def read_bound(obj: Json, keyed: KeyedHash) -> BoundSecret:
    """Reduce a bound Secret to its cache entry. ``obj`` is the Secret as the API server returns it."""
    metadata = obj["metadata"]
    annotations = own_annotations(metadata)
    texts = (*(_kept(name, annotations.get(name)) for name in _ANNOTATIONS), state_label(metadata))
    is_small = _size(texts) <= SMALL
    # Most Secrets have no other keys, so that the cache of parsed texts has the same record for all callers.
    record = _record_of(texts, (), is_small)  # the text of the record is complete, because ``_kept`` never cuts it
    whole = integrity(keyed, FIELD_MANAGER, metadata, obj.get("data") or {}, record)
    lost_record = False
    if whole is not Integrity.INTACT and _size(texts[_RECORD_TEXTS]) > MAX_UNPROVEN_RECORD:
        texts, lost_record = _without_record(texts), record.was_written
    faults = secret_faults(metadata)
    now = time.monotonic()
    # The ARNs in the record count, too, because AWS may report an ARN where the binding has a name.
    version_keys = () if whole is Integrity.BROKEN else islice(record.version_ids, MAX_ARNS)
    named = [source.secret_id for source in _spec_of(texts, faults, is_small).sources]
    secret_ids = (*named, *(split_version_key(key)[0] for key in version_keys))
    return BoundSecret(
        target=Target(sys.intern(metadata["namespace"]), metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        names=tuple(dict.fromkeys(name for each in secret_ids for name in candidate_names(each))),
        scopes=tuple(dict.fromkeys(sys.intern(account_scope(each)) for each in named)),
        integrity=whole,
        texts=texts,
        seen_at=now,
        first_seen_at=now,
        faults=faults,
        lost_record=lost_record,
        other_keys=_other_keys(obj.get("data") or {}, record),
    )


def _other_keys(keys: Iterable[str], record: Record) -> tuple[str, ...] | None:
    others = tuple(key for key in keys if key not in record.revisions)
    return others if sum(map(sys.getsizeof, others)) <= MAX_OTHER_KEYS else None


def _kept(name: str, text: str | None) -> str | None:
    # An annotation that was cut is still too long to be valid. So the error is the same as without the cut.
    return text[: _LIMITS.get(name, MAX_TEXT)] if text is not None else None


def _without_record(texts: tuple[str | None, ...]) -> tuple[str | None, ...]:
    return (*texts[: _RECORD_TEXTS.start], *(None for _ in _RECORD), *texts[_RECORD_TEXTS.stop :])


def _without_large(texts: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Return the texts without the record, and without the longest of the others, so that they take at most LARGE
    bytes."""
    left = list(_without_record(texts))
    while _size(tuple(left)) > LARGE:
        left[max(range(len(left)), key=lambda position: len(left[position] or ""))] = None
    return tuple(left)


@dataclass(frozen=True, slots=True)
class CopiedSecret:
    """A copy of a Secret. Another controller made the copy, and copied Keyturn's binding label with it."""

    target: Target
    uid: str
    copy: Copy


# Parsed texts are cached, because a caller needs the same binding several times in a row. A parsed text stays in this
# cache after its Secret is gone. So large texts have a cache of their own, for only a few texts.
def _spec_of(texts: tuple[str | None, ...], faults: tuple[str, ...], is_small: bool) -> BindingSpec:
    declared = texts[: len(DECLARING)]  # a rotation changes the other texts, but the binding stays the same
    return _small_spec(declared, faults) if is_small else _large_spec(declared, faults)


def _record_of(texts: tuple[str | None, ...], other_keys: tuple[str, ...] | None, is_small: bool) -> Record:
    return _small_record(texts, other_keys) if is_small else _large_record(texts, other_keys)


def _size(texts: tuple[str | None, ...]) -> int:
    return sum(map(sys.getsizeof, filter(None, texts)))


def _read_spec(declared: tuple[str | None, ...], faults: tuple[str, ...]) -> BindingSpec:
    return read_spec(_annotations(DECLARING, declared), faults)


def _read_record(texts: tuple[str | None, ...], other_keys: tuple[str, ...] | None) -> Record:
    others = None if other_keys is None else frozenset(other_keys)
    return read_record(_annotations(_ANNOTATIONS, texts[:-1]), texts[-1], others)


_small_spec, _large_spec = lru_cache(MAX_SMALL)(_read_spec), lru_cache(MAX_LARGE)(_read_spec)
_small_record, _large_record = lru_cache(MAX_SMALL)(_read_record), lru_cache(MAX_LARGE)(_read_record)


def _annotations(names: Sequence[str], texts: Sequence[str | None]) -> dict[str, str]:
    return {name: text for name, text in zip(names, texts, strict=True) if text is not None}


@dataclass(frozen=True, slots=True)
class _Values:
    """The data of a Secret that this replica has read or written, with a fingerprint in place of each value."""

    resource_version: str
    type: str
    immutable: bool
    fingerprints: Mapping[str, bytes] = field(repr=False)
    holders: Mapping[str, str]


class SecretCache:
    """Informer cache. It finds bound Secrets by target, and by every possible name of their AWS secrets.

    ``keyed`` makes the hashes that show whether a Secret is still as Keyturn wrote it. ``former`` remembers Secrets
    that were deleted or lost their record.
    """

    def __init__(self, keyed: KeyedHash) -> None:
        self._keyed = keyed
        self._handlers: list[Callable[[Target], None]] = []
        self._copy_handlers: list[Callable[[CopiedSecret], None]] = []
        self._by_target: dict[Target, BoundSecret] = {}
        self._by_name = Index()
        self._values: dict[Target, _Values] = {}
        self.former = FormerSecrets()
        self._large: dict[str, int] = defaultdict(int)  # bytes of large annotations that are kept, by namespace

    def __len__(self) -> int:
        return len(self._by_target)

    def add_handler(self, on_change: Callable[[Target], None]) -> None:
        """Register ``on_change``, which is called with the target of each Secret that is added, changed or removed."""
        self._handlers.append(on_change)

    def add_copy_handler(self, on_copy: Callable[[CopiedSecret], None]) -> None:
        """Register ``on_copy``, which is called with each copied Secret that has Keyturn's binding label. It is called
        again whenever the copy changes."""
        self._copy_handlers.append(on_copy)

    def get(self, target: Target) -> BoundSecret | None:
        """Return the bound Secret at ``target``, or None if no bound Secret is there."""
        return self._by_target.get(target)

    def all(self) -> list[BoundSecret]:
        """Return every bound Secret."""
        return list(self._by_target.values())

    def in_namespace(self, namespace: str) -> list[Target]:
        """Return the targets in one namespace."""
        return [target for target in self._by_target if target.namespace == namespace]

    def by_secret_id(
        self, secret_id: str, name: str | None = None, may_read: Callable[[str, bool], bool] = lambda *_: True
    ) -> list[Target]:
        """Return the sorted targets of the Secrets whose binding or record can refer to this AWS secret.

        A Secret is left out if its binding may not read the AWS secret. ``may_read`` decides this by the namespace and
        by whether the binding names a ServiceAccount. So two calls per namespace are enough. No binding is parsed here,
        because tenants can create any number of bindings for one AWS secret.
        """
        targets: set[Target] = set()
        for each in {*candidate_names(secret_id), *([name] if name else [])}:
            targets |= self._by_name.of(each)
        scope = account_scope(secret_id)
        found: list[Target] = []
        # For each namespace: the values of ``has_account`` for which ``may_read`` is true.
        readers: dict[str, set[bool]] = {}
        for target in targets:
            namespace = target.namespace
            if namespace not in readers:
                readers[namespace] = {has_account for has_account in (False, True) if may_read(namespace, has_account)}
            if not readers[namespace]:
                continue
            bound = self._by_target[target]
            # If two AWS secrets are in different accounts or regions, they are different secrets, even if their names
            # are equal.
            may_be_there = bound.scopes and (not scope or "" in bound.scopes or scope in bound.scopes)
            if may_be_there and bound.has_account in readers[namespace]:
                found.append(target)
        return sorted(found)

    def live(self, bound: BoundSecret) -> LiveSecret | None:
        """Return the whole Secret, with fingerprints in place of its values. Return None if this replica has not read
        or written exactly the cached version."""
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
            bound.integrity,
            values.holders,
        )

    def keep_values(self, live: LiveSecret, resource_version: str, fingerprints: Mapping[str, bytes]) -> None:
        """Keep the fingerprints of values that this replica has just read or written.

        Tenants decide how many keys a Secret has. So if a Secret has more than MAX_FINGERPRINTS keys, no fingerprints
        are kept for it.
        """
        if live.target not in self._by_target or len(fingerprints) > MAX_FINGERPRINTS:
            self.drop_values(live.target)
            return
        held = {key: name for key, name in live.holders.items() if key in fingerprints}
        self._values[live.target] = _Values(resource_version, live.type, live.immutable, fingerprints, held)

    def forget_former(self, namespace: str) -> None:
        """Forget the former Secrets of a namespace that was deleted."""
        self.former.forget(namespace)
        for target in self.in_namespace(namespace):
            self.drop_values(target)  # keeps the Secret from being remembered when its deletion is seen

    def drop_values(self, target: Target) -> None:
        """Forget the fingerprints of a Secret's values, so that the next reconcile reads the Secret again."""
        self._values.pop(target, None)

    def transform(self, obj: Json) -> BoundSecret | CopiedSecret | Target:
        """Reduce a bound Secret to its cached metadata, and any other Secret to its target. A copy is never bound."""
        metadata = obj["metadata"]
        if is_bound(metadata):
            return read_bound(obj, self._keyed)
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
        if cached and cached.uid == kept.uid:
            kept = _follow(cached, kept)
            if (cached.resource_version, cached.integrity) == (kept.resource_version, kept.integrity):
                return  # this version is already cached, and its original ``seen_at`` has to stay
        if cached and (cached.uid != kept.uid or not kept.record.was_written):
            self._remember(cached)
        self._drop(kept.target)
        if self._large[kept.target.namespace] + kept.large_bytes > MAX_LARGE_BYTES:
            lost = kept.lost_record or kept.record.was_written
            kept = replace(kept, texts=_without_large(kept.texts), lost_record=lost, fault=TOO_MUCH)
        self._large[kept.target.namespace] += kept.large_bytes
        self._by_target[kept.target] = kept
        for name in kept.names:
            self._by_name.add(name, kept.target)
        self._notify(kept.target)

    def delete(self, obj: Json) -> None:
        self._delete_and_notify(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _delete_and_notify(self, target: Target) -> None:
        if deleted := self._drop(target):
            self._remember(deleted)
            self.drop_values(target)
            self._notify(target)

    def _remember(self, bound: BoundSecret) -> None:
        if bound.integrity is Integrity.INTACT:
            self.former.remember(bound.target, bound.record, self.live(bound))

    def _notify(self, target: Target) -> None:
        for on_change in self._handlers:
            on_change(target)

    def _drop(self, target: Target) -> BoundSecret | None:
        cached = self._by_target.pop(target, None)
        if cached is None:
            return None
        for name in cached.names:
            self._by_name.discard(name, target)
        self._large[target.namespace] -= cached.large_bytes
        if not self._large[target.namespace]:
            del self._large[target.namespace]
        return cached


def _follow(cached: BoundSecret, kept: BoundSecret) -> BoundSecret:
    """Return ``kept``, the new version of a Secret, with the facts that only the earlier version ``cached`` shows."""
    integrity_now = kept.integrity
    if cached.integrity is Integrity.INTACT and integrity_now is Integrity.UNKEYED:
        integrity_now = Integrity.BROKEN  # another writer has removed the keyed hash
    lost = kept.lost_record or (not kept.record.was_written and (cached.lost_record or cached.record.was_written))
    return replace(kept, integrity=integrity_now, lost_record=lost, first_seen_at=cached.first_seen_at)
