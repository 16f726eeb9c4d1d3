"""Revisions. The revision of a key identifies the version of the AWS secret in which the key's value last changed. The
annotations of the Secret record the revisions."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from keyturn_receiver.core.compact_json import compact_json
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.unsettled import UNSETTLED, UnsettledMarks, read_unsettled, write_unsettled
from keyturn_receiver.core.write_times import (
    CHANGED_AT,
    WriteTime,
    WriteTimes,
    latest_times,
    parse_time,
    read_times,
    rfc3339,
    write_times,
)

VERSION_IDS = "keyturn.dev/version-ids"
REVISIONS = "keyturn.dev/revisions"
DATA_HASH = "keyturn.dev/data-hash"
BINDING_HASH = "keyturn.dev/binding-hash"
RECORD_HASH = "keyturn.dev/record-hash"
STATUS = "keyturn.dev/status"
APPLIED_AT = "keyturn.dev/applied-at"
RECONCILED = "keyturn.dev/reconciled"
MOVED_AT = "keyturn.dev/label-moved-at"
STATE = "keyturn.dev/state"  # a label, so that people can filter by it

# These annotations are written only together with the data. The status is not one of them, because it can be written
# without the data. CHANGED_AT is not one of them either, because a Secret from an older release lacks this annotation
# although it is intact.
RECORD = (VERSION_IDS, REVISIONS, DATA_HASH, BINDING_HASH, APPLIED_AT)
# The parts of the record that ``record_hash`` covers.
HASHED = (VERSION_IDS, REVISIONS, DATA_HASH, BINDING_HASH)
MAX_STATUS = 1920  # characters
_STATE = re.compile(r"[A-Za-z]{1,63}")
HALTED = "RolloutHalted"  # the reason of the status while a failed rollout halts the others
REVERTED = "RestartReverted"  # the reason of the status while another writer reverts the restart of a workload
OK = "ok"  # the status of a Secret without errors

# The API server accepts 256 KiB of annotations: https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/
MAX_RECORD = 192 * 1024  # characters

UNKNOWN = "-"  # the revision of a value that Keyturn did not write

KeyedHash = Callable[[bytes], str]
"""Keyed hash (HMAC). All replicas share its key. Without the key, a hash reveals nothing, and nobody can forge a
hash."""


@dataclass(slots=True)
class _Memo:
    """Cache of results that depend on all keys of a record. The decision about each consumer needs these results, and a
    Secret may have thousands of keys and thousands of consumers."""

    digest: str | None = None
    latest_times: tuple[WriteTime, ...] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """The record that Keyturn keeps in a Secret's annotations.

    ``version_ids`` has the version id for each ARN and staging label (``version_key``), and ``revisions`` has the
    revision of each key. ``data_hash`` is a keyed hash of the data that Keyturn last wrote, and ``binding_hash`` is a
    hash of the binding at that time. ``status`` is a text for people. The receiver itself reads from it whether it is
    OK, the reason at its beginning, and which AWS secret it names. ``reconciled`` is the last request for a reconcile
    that Keyturn has served. ``labelled`` is false if the label ``keyturn.dev/state`` does not show the status.
    ``write_times`` has the time at which each key was last written, as far as it is known. ``moved_at`` is the time at
    which the staging label moved to the version that was written last, in seconds since 1970 by AWS's clock. It is None
    if the time is not known. The marks that are made from this record begin with ``mark_prefix``. Marks with another
    beginning tell nothing about this record. ``unknown_until`` is about the keys that ``write_times`` lacks: they were
    last written at this time (in seconds since 1970) or earlier. It is None if nothing is known about this time.
    ``notice`` is the text of the status if a failed rollout halts the others (``core/rollout_halt.py``), or if another
    writer reverts a restart (``core/rollout_revert.py``). Otherwise it is empty. A notice is no error of the Secret
    itself, so ``status`` is OK while there is a notice. ``unsettled`` has the marks of older values on workloads that
    waited for their restart when the values last changed (``core/unsettled.py``). ``other_keys`` are the keys of the
    Secret that have no revision, because Keyturn does not manage them. It is None if they are not known. Two records
    that differ only in ``moved_at``, ``notice`` or ``other_keys`` are equal. A change of only ``moved_at`` is not
    written.
    """

    version_ids: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    data_hash: str = ""
    binding_hash: str = ""
    status: str = ""
    reconciled: str = ""
    labelled: bool = True
    write_times: WriteTimes = field(default_factory=dict)
    notice: str = field(default="", compare=False)
    moved_at: int | None = field(default=None, compare=False)
    mark_prefix: str = ""
    unknown_until: int | None = None
    unsettled: UnsettledMarks = field(default_factory=dict)
    other_keys: Set[str] | None = field(default=frozenset(), compare=False)
    _memo: _Memo = field(default_factory=_Memo, init=False, repr=False, compare=False)

    @property
    def halt(self) -> str:
        """The notice if it says that a failed rollout halts the others, and otherwise an empty text."""
        return self.notice if state_of(self.notice) == HALTED else ""

    @property
    def reverted(self) -> str:
        """The notice if it says that another writer reverts a restart, and otherwise an empty text."""
        return self.notice if state_of(self.notice) == REVERTED else ""

    @property
    def digest(self) -> str:
        """The digest of the revisions of all keys. The function ``digest`` computes it once for each record."""
        if self._memo.digest is None:
            self._memo.digest = digest(self.revisions, self.revisions)
        return self._memo.digest

    @property
    def latest_times(self) -> tuple[WriteTime, ...]:
        """The latest time at which a key appeared, and the latest time at which a key was overwritten or removed. The
        function ``latest_times`` computes them once for each record."""
        if self._memo.latest_times is None:
            self._memo.latest_times = latest_times(self.write_times)
        return self._memo.latest_times

    @property
    def changed_at(self) -> int | None:
        """The time at which the values last changed, in seconds since 1970 by the API server's clock, or None if the
        time is not known."""
        return max((time.at for time in self.latest_times if time.at is not None), default=None)

    @property
    def was_written(self) -> bool:
        """Whether Keyturn has written this Secret, according to the record."""
        return bool(self.version_ids)

    def has_key(self, key: str) -> bool:
        """Return whether the Secret has a key, or may have it."""
        return key in self.revisions or self.other_keys is None or key in self.other_keys

    def has_reason(self, reason: str) -> bool:
        """Return whether the status begins with this reason, as ``status_of`` writes it."""
        return self.status.startswith(f"{reason}:")


def read_record(annotations: Mapping[str, str], state: str | None = None, other_keys: Set[str] | None = None) -> Record:
    """Read the record from a Secret's annotations. ``other_keys`` is as in ``Record``.

    ``state`` is the value of the label ``keyturn.dev/state``; it is empty if the Secret does not have the label, and
    None if the label does not matter. The annotation CHANGED_AT must already contain the time of the last write
    (``write_times.resolve``). A malformed annotation is treated as missing, and the next reconcile writes it again.
    """
    status = annotations.get(STATUS, "")
    shown = state_of(status)
    notice = status if shown in (HALTED, REVERTED) else ""
    revisions = _read_map(annotations.get(REVISIONS))
    return Record(
        version_ids=_read_map(annotations.get(VERSION_IDS)),
        revisions=revisions,
        data_hash=annotations.get(DATA_HASH, ""),
        binding_hash=annotations.get(BINDING_HASH, ""),
        status=OK if notice else status,
        reconciled=annotations.get(RECONCILED, ""),
        labelled=state is None or state == shown,
        write_times=read_times(annotations.get(CHANGED_AT), revisions),
        notice=notice,
        moved_at=parse_time(annotations[MOVED_AT]) if MOVED_AT in annotations else None,
        unsettled=read_unsettled(annotations[UNSETTLED]) if UNSETTLED in annotations else {},
        other_keys=other_keys,
    )


def write_record(record: Record, applied_at: str) -> dict[str, str]:
    """Return the annotations from which ``read_record`` reads the record, apart from its ``notice``. ``applied_at``
    (RFC 3339) is only for people."""
    changed_at = write_times(record.write_times, record.revisions)
    return {
        VERSION_IDS: compact_json(record.version_ids),
        REVISIONS: compact_json(record.revisions),
        DATA_HASH: record.data_hash,
        BINDING_HASH: record.binding_hash,
        STATUS: record.status,
        APPLIED_AT: applied_at,
        **({RECONCILED: record.reconciled} if record.reconciled else {}),
        **({CHANGED_AT: changed_at} if changed_at else {}),
        **({MOVED_AT: rfc3339(record.moved_at)} if record.moved_at is not None else {}),
        **({UNSETTLED: write_unsettled(record.unsettled)} if record.unsettled else {}),
    }


def status_of(reason: str, advice: str) -> str:
    """Return the status of a Secret that has an error or a notice (``Record.notice``).

    The status is one line, so that each Secret has one line in a list. `kubectl describe` shows only 138 bytes of the
    status (printAnnotationsMultiline in k8s.io/kubectl). `kubectl events` and `-o jsonpath` show the whole status.
    """
    status = printable(f"{reason}: {advice}")
    return status if len(status) <= MAX_STATUS else status[: MAX_STATUS - 3] + "..."


def state_of(status: str) -> str:
    """Return the value of the label ``keyturn.dev/state`` for a status: "ok", a reason such as InvalidBinding, or an
    empty text if there is no status."""
    reason = status.partition(":")[0]
    return reason if reason and _STATE.fullmatch(reason) else ""


def too_long(record: Record) -> bool:
    """Return whether the record is too long for a Secret's annotations. The write times do not count, because they have
    a limit of their own."""
    return sum(map(len, write_record(replace(record, write_times={}), "").values())) > MAX_RECORD


def version_key(arn: str, stage: str) -> str:
    """Return the key in ``Record.version_ids`` for an ARN and a staging label. An ARN never contains a '#'."""
    return f"{arn}#{stage}"


def split_version_key(key: str) -> tuple[str, str]:
    """Split a ``version_key`` into its ARN and its staging label."""
    arn, _, stage = key.partition("#")
    return arn, stage


def revision_of(version_id: str, key: str, expression: str) -> str:
    """Return the revision of a key: the version id, followed by a digest of the expression unless the expression equals
    the key.

    Two revisions of a key are equal if and only if both their versions and their expressions are equal. So pods are
    also restarted if the expression changes while the version stays the same. That happens after an edit of the
    binding, or if a Secret was deleted and created again.
    """
    if expression.strip() == key:
        return version_id
    return f"{version_id}.{hashlib.sha256(expression.encode(errors='surrogatepass')).hexdigest()[:8]}"


def compound_version(version_ids: Mapping[str, str]) -> str:
    """Return a version id that stands for the versions of several AWS secrets. ``version_ids`` maps the alias of each
    AWS secret to its version id.

    It changes whenever one of these versions changes, and it is the same on every replica. For only one AWS secret, it
    is the version id of that secret.
    """
    if len(version_ids) == 1:
        return next(iter(version_ids.values()))
    lines = "\n".join(f"{alias}={version_ids[alias]}" for alias in sorted(version_ids))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def next_revision(current: str | None, revision: str) -> str:
    """Return the next revision of a key whose value changes: ``revision``, or ``revision+n``.

    The suffix is added if ``current`` is this ``revision`` already, with or without a suffix. That happens if a person
    has edited the value, or if two AWS secrets have a version with the same id.
    """
    base, plus, count = (current or "").rpartition("+")
    if current == revision:
        return f"{revision}+1"
    if not plus or base != revision:
        return revision
    return f"{revision}+{int(count) + 1 if count.isdecimal() and len(count) < 10 else 1}"


def _read_map(text: str | None) -> dict[str, str]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str) and _is_text(key + value)}


def _is_text(text: str) -> bool:
    # JSON can contain half a surrogate pair. Such a text cannot be encoded as UTF-8, so it has no digest.
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def data_hash(keyed: KeyedHash, uid: str, data: Mapping[str, bytes]) -> str:
    """Return the keyed hash of the data that Keyturn writes on the Secret with this ``uid``.

    Because of the ``uid``, equal data of two Secrets has different hashes.
    """
    return keyed(b"data" + _digest([uid.encode(), *_flat(data)]).digest())


def unkeyed_data_hash(data: Mapping[str, bytes]) -> str:
    """Return the hash that releases up to 0.2 wrote for this data. Keyturn only compares this hash with a record, and
    never writes it."""
    return _digest(_flat(data)).hexdigest()


def record_hash(keyed: KeyedHash, uid: str, annotations: Mapping[str, str]) -> str:
    """Return the keyed hash of the record in the annotations of the Secret with this ``uid``.

    Only Keyturn can write a record with a valid hash, because nobody else has the key.
    """
    texts = (uid, *(annotations.get(name, "") for name in HASHED))
    return keyed(b"record" + _digest(text.encode(errors="surrogatepass") for text in texts).digest())


def _flat(data: Mapping[str, bytes]) -> Iterator[bytes]:
    for key in sorted(data):
        yield key.encode()
        yield data[key]


def _digest(parts: Iterable[bytes]) -> "hashlib._Hash":
    """Return a digest of the parts and their lengths. Because of the lengths, no two lists of parts give the same
    digest."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest


def digest(revisions: Mapping[str, str], keys: Iterable[str]) -> str:
    """Return the digest of the revisions of ``keys``. The value of a mark consists of this digest, and in some cases a
    prefix and a suffix (``core/rollout.py``).

    The digest depends on a value only through the keyed hashes of watched Secrets, so it reveals nothing to those who
    can read workloads. It does not depend on the time, so every replica computes the same digest for the same change,
    even after a crash (docs/design.md#rollouts).
    """
    lines = "\n".join(f"{key}={revisions[key]}" for key in sorted(set(keys)))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]
