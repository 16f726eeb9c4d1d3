"""Watched Secrets: another controller or a person fills these Secrets, and Keyturn only restarts their readers.

The revision of a key is a hash of its value, made with the record key that all replicas of Keyturn share. So the
revision depends only on the Secret and on the record key. As long as the record key stays, the same value of a key has
the same revision, on every replica and after a crash. The marks (annotations on the consumers) contain digests of
revisions, so they show which consumers use older values. The receiver does not have to remember anything. The
annotation WATCHED, which Keyturn writes on the Secret, has the last known revisions and the time at which each key
changed. The times decide whether a consumer without a mark is restarted.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from keyturn_receiver.core.binding import RESUME, BindingSpec, is_bound, read_spec, tell_all
from keyturn_receiver.core.compact_json import compact_json
from keyturn_receiver.core.field_owners import MANAGERS, WATCH_MANAGER, managed_fields
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.reloader import IGNORE, MATCH
from keyturn_receiver.core.revision import KeyedHash, Record
from keyturn_receiver.core.rollout_pace import PACE
from keyturn_receiver.core.rollout_switch import ROLLOUT, Switch
from keyturn_receiver.core.unsettled import UnsettledMarks, read_unsettled, write_unsettled
from keyturn_receiver.core.vocabulary import BIND_LABEL, MAX_FAULTS, WATCH_LABEL, Place, is_bind_value, name_faults
from keyturn_receiver.core.write_times import (
    REMOVED,
    WriteTime,
    WriteTimes,
    parse_time,
    read_times,
    resolve,
    write_times,
)

WATCHED = "keyturn.dev/watched"  # the annotation with the last known revisions, and the time at which each key changed

MAX_KEYS = 1024  # at most this many keys of one Secret; hashing them takes some 3 ms
MAX_KEPT = 64 * 1024  # at most this many characters of the annotation; beyond that, all keys together have one time
MAX_TEXT = 4096  # characters of any other annotation; a longer text is cut, and is then not understood
_REVISION_BYTES = 8

_COMMON = (ROLLOUT, IGNORE, MATCH, PACE, RESUME)  # the annotations that decide which consumers are restarted, and when

BOTH_LABELS = (
    f"this Secret has the label {BIND_LABEL}, too, and that one counts: Keyturn fills the Secret, and restarts pods for"
    f" what it fills; remove the label {WATCH_LABEL}"
)
TOO_MANY_KEYS = f"a watched Secret has at most {MAX_KEYS} keys, and this one has more: nobody is restarted for it"


@dataclass(frozen=True, slots=True)
class Kept:
    """The content of the annotation WATCHED on a Secret. ``digest`` is the digest of all revisions. ``revisions`` is
    None if they did not fit into the annotation. ``times`` has the time at which each key changed. ``unknown_until``
    and ``unsettled`` are as in ``Record``."""

    digest: str
    revisions: Mapping[str, str] | None
    times: WriteTimes
    unknown_until: int | None
    unsettled: UnsettledMarks = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of a watched Secret, as one version of the object shows it.

    ``revisions`` has the revision of each key, and ``mark_prefix`` identifies the record key with which the revisions
    were made. ``kept`` is the content of the annotation WATCHED. It is None if Keyturn has not written the annotation
    for this Secret with this record key. ``written_at`` is the latest time at which somebody else wrote data, in
    seconds since 1970; the values may have changed earlier, but not later. A write that only removes keys has no time
    of its own. ``kept_at`` is the time at which Keyturn last wrote the annotation, with this or another record key.
    Each time is None if it is not known; ``kept_at`` is also None if the annotation is missing.
    """

    revisions: Mapping[str, str]
    mark_prefix: str
    kept: Kept | None
    written_at: int | None
    kept_at: int | None


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched Secret, as decisions need it. ``record`` has the revisions and the times at which they changed.
    ``is_kept`` is true if the annotation on the Secret has the same revisions. ``is_new`` is true until Keyturn has
    written the annotation for the first time, as far as this replica knows. ``before`` is the record of the former
    revisions while the annotation, or this replica's memory in its place, has these. Otherwise, or if the former
    revisions are not known, it is None."""

    record: Record
    is_kept: bool
    is_new: bool
    before: Record | None = None


def has_watch_label(metadata: Mapping[str, object]) -> bool:
    """Return whether a Secret has the watch label. The result is also true if the label's value is misspelt or has no
    effect."""
    return is_bind_value(as_object(metadata.get("labels")).get(WATCH_LABEL))


def watch_fault(metadata: Mapping[str, object], keys: int) -> str:
    """Return why a Secret with the watch label is not watched, or an empty text if it is watched.

    ``keys`` is the number of its keys.
    """
    value = as_object(metadata.get("labels")).get(WATCH_LABEL)
    if is_bound(metadata):
        return BOTH_LABELS
    if value != "true":
        return f'label {WATCH_LABEL} is "{value}": set it to "true"; nobody is restarted until then'
    return TOO_MANY_KEYS if keys > MAX_KEYS else ""


def watch_spec(metadata: Mapping[str, object]) -> BindingSpec:
    """Return what the Secret says about restarts. An annotation or label whose name is not understood forbids
    restarts (``rollout_faults``)."""
    found = as_object(metadata.get("annotations"))
    spec = read_spec({name: str(found[name])[:MAX_TEXT] for name in _COMMON if name in found})
    # An annotation with the name of the label does no harm.
    faults = name_faults(
        metadata, (name for name in found if name != WATCH_LABEL), as_object(metadata.get("labels")), Place.SECRET
    )
    if told := tell_all(tuple(islice(faults, MAX_FAULTS))):
        return replace(spec, switch=Switch.UNKNOWN, rollout_faults=(*spec.rollout_faults, told))
    return spec


def observe(keyed: KeyedHash, metadata: Mapping[str, object], data: Mapping[str, str]) -> Observation:
    """Return the state that a Secret's ``metadata`` and base64 ``data`` show. The result holds no value."""
    namespace, name = str(metadata["namespace"]), str(metadata["name"])
    fields = managed_fields(metadata)
    kept_at = written_at = None
    for entry in fields:
        time = parse_time(entry.get("time"))
        if entry.get("manager") == WATCH_MANAGER:
            kept_at = _later(kept_at, time)
        elif entry.get("manager") not in MANAGERS and _has_data(as_object(entry.get("fieldsV1"))):
            written_at = _later(written_at, time)
    revisions = _revisions(keyed, namespace, name, data)
    text = as_object(metadata.get("annotations")).get(WATCHED)
    kept = _read_kept(keyed, namespace, name, text, revisions, fields) if isinstance(text, str) else None
    prefix = f"w{keyed(b'watch')[:8]}."
    return Observation(revisions, prefix, kept, written_at, kept_at if isinstance(text, str) else None)


def judge(seen: Observation, known: Watched | None) -> Watched:
    """Return the watched Secret that one version of the object shows. ``seen`` is the state in this version. ``known``
    is the result for the previous version, or None if this replica has not seen the previous version.

    ``known`` replaces the annotation if the Secret's owner has removed it. If there is neither ``known`` nor the
    annotation, the Secret is new. Then nothing tells what its pods have read, and no pod is restarted. An annotation
    that was written with another record key still shows whether data was written after it.
    """
    if known and known.record.mark_prefix != seen.mark_prefix:
        known = None
    present = Record(revisions=seen.revisions, mark_prefix=seen.mark_prefix)
    times: WriteTimes = {}
    kept = seen.kept
    if kept is None and known:
        before = known.record
        kept = Kept(before.digest, before.revisions, before.write_times, before.unknown_until, before.unsettled)
    if kept is None:
        if seen.kept_at is not None and seen.written_at is not None and seen.written_at > seen.kept_at:
            times = dict.fromkeys(seen.revisions, WriteTime(seen.written_at))
    elif kept.digest == present.digest:
        times = kept.times
    else:
        times = {**_times(kept, seen), **_seen_times(known, seen)}
    until = kept.unknown_until if kept else seen.written_at
    record = replace(present, write_times=times, unknown_until=until, unsettled=kept.unsettled if kept else {})
    is_kept = seen.kept is not None and seen.kept.digest == present.digest
    is_new = seen.kept is None and (known is None or known.is_new)
    former = None
    if kept and kept.revisions is not None and kept.digest != present.digest:
        former = replace(record, revisions=kept.revisions, write_times=kept.times)
    return Watched(record, is_kept, is_new, former)


def write_kept(keyed: KeyedHash, namespace: str, name: str, record: Record) -> str:
    """Return the annotation WATCHED for ``record``."""
    times = record.write_times
    body: dict[str, object] = {
        "changed-at": json.loads(write_times(times, record.revisions) or "{}"),
        "digest": record.digest,
        "revisions": dict(record.revisions),
        "unknown-until": record.unknown_until,
    }
    if record.unsettled:
        body["unsettled"] = write_unsettled(record.unsettled)
    if len(compact_json(body)) > MAX_KEPT:
        body["revisions"] = None
        body["changed-at"] = json.loads(write_times(_together(times, record.revisions), record.revisions) or "{}")
    return compact_json({**body, "hash": _proof(keyed, namespace, name, body)})


def _revisions(keyed: KeyedHash, namespace: str, name: str, data: Mapping[str, str]) -> dict[str, str]:
    # Equal values of two Secrets, or of two keys, have different revisions. If a Secret is deleted and created again
    # with the same values, the revisions stay the same, so no consumer is restarted.
    key = bytes.fromhex(keyed(b"watched" + _joined(namespace, name)))
    revisions = {}
    for each, value in data.items():
        # The API server always encodes base64 in the same way, so equal values have equal texts.
        content = _joined(each) + (value or "").encode()
        revisions[each] = hashlib.blake2b(content, digest_size=_REVISION_BYTES, key=key[:32]).hexdigest()
    return revisions


def _times(kept: Kept, seen: Observation) -> WriteTimes:
    # The data has changed since the annotation was written. So the time is not before the write of the annotation, even
    # if the managed fields show an earlier time.
    at = None if seen.written_at is None else max(seen.written_at, (seen.kept_at or 0) if seen.kept else 0)
    before = kept.revisions
    if before is None:
        return dict.fromkeys((*seen.revisions, REMOVED), WriteTime(at))
    times = {key: kept.times[key] for key in (*seen.revisions, REMOVED) if key in kept.times}
    for key, revision in seen.revisions.items():
        if before.get(key) != revision:
            times[key] = WriteTime(at, appeared=key not in before)
    # A write that only removes keys does not change the times in the managed fields, so this time may be too early.
    return times | ({REMOVED: WriteTime(at)} if before.keys() - seen.revisions.keys() else {})


def _seen_times(known: Watched | None, seen: Observation) -> WriteTimes:
    """Return the times of the changes that this replica has already seen, except for keys that have changed again."""
    if known is None:
        return {}
    times, before = known.record.write_times, known.record.revisions
    return {key: times[key] for key, each in seen.revisions.items() if key in times and before.get(key) == each}


def _together(times: WriteTimes, keys: Mapping[str, str]) -> WriteTimes:
    """Return write times in which each key has the same time: the latest of all ``times``."""
    if not times:
        return {}
    last = max(times.values(), key=lambda time: (time.at is None, time.at or 0))
    return dict.fromkeys((*keys, REMOVED), WriteTime(last.at))


def _read_kept(
    keyed: KeyedHash,
    namespace: str,
    name: str,
    text: str,
    revisions: Mapping[str, str],
    fields: list[Mapping[str, object]],
) -> Kept | None:
    # A replicator can copy the annotation to another Secret, and anybody can write such an annotation. The hash reveals
    # both, because it depends on the Secret's name and on the record key, which only Keyturn knows.
    try:
        body = json.loads(text) if len(text) <= 2 * MAX_KEPT else None
        if not isinstance(body, dict):
            return None
        proof = str(body.pop("hash", ""))
        if not hmac.compare_digest(proof.encode(), _proof(keyed, namespace, name, body).encode()):
            return None
    except (ValueError, RecursionError):  # no JSON, or half a surrogate pair
        return None
    changed_at = resolve(compact_json(body["changed-at"]), WATCH_MANAGER, fields)
    before = body["revisions"]
    keys = revisions if before is None else {**before, **revisions}
    unsettled = read_unsettled(str(body.get("unsettled", "")))
    return Kept(body["digest"], before, read_times(changed_at, keys), body["unknown-until"], unsettled)


def _proof(keyed: KeyedHash, namespace: str, name: str, body: Mapping[str, object]) -> str:
    return keyed(b"kept" + _joined(namespace, name, compact_json(body)))[:32]


def _joined(*texts: str) -> bytes:
    """Join the texts and their lengths. Because of the lengths, no two lists of texts give the same bytes."""
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    return b"".join(len(each).to_bytes(8) + each for each in encoded)


def _has_data(fields: Mapping[str, object]) -> bool:
    return "f:data" in fields or "f:stringData" in fields


def _later(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)
