"""Marks: which mark a consumer has, and which one it needs.

A mark is an annotation on a workload that stands for one Secret. Its value is a digest of the revisions of the keys
that the pods read. Marks of watched Secrets have a prefix before it (``core/watched.py``), and some marks have a suffix
after it (``core/unsettled.py``). ``core/rollout.py`` decides by the marks.
"""

from collections.abc import Mapping

from keyturn_receiver.core.consumer import Consumer, Reads, former_mark_name, mark_name
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.unsettled import stands_for, with_needed_suffix
from keyturn_receiver.core.write_times import REMOVED


def present_mark(consumer: Consumer, secret_name: str, record: Record) -> str | None:
    """Return the mark on the pod template if it stands for the present revisions. The rollout of this template then
    brings the present values to the pods. Otherwise return None. The result is also None if the mark on the workload
    itself says that the pods run older values.

    If ``spec.restartAt`` restarts the pods, the mark on the workload itself counts, because the template gets no mark.
    """
    marks = consumer.baseline if consumer.by_time else consumer.marks
    mark = marks.get(mark_name(secret_name)) or marks.get(former_mark_name(secret_name) or "")
    if not mark:
        return None
    needed = _mark_when_settled(consumer, secret_name, record)
    settled = consumer.baseline.get(mark_name(secret_name), mark)
    return mark if all(stands_for(each, needed) for each in (mark, settled)) else None


def has_mark_of(consumer: Consumer, secret_name: str, record: Record) -> bool:
    """Return whether a consumer has the mark that follows from ``record``."""
    current = current_mark(consumer, secret_name, record)
    return current is not None and stands_for(current, _mark_when_settled(consumer, secret_name, record))


def has_mark(marks: Mapping[str, str], name: str, value: str) -> bool:
    """Return whether the marks of a pod or template have this mark (``stands_for``)."""
    return stands_for(marks.get(name, ""), value)


def current_mark(consumer: Consumer, secret_name: str, record: Record) -> str | None:
    """Return the mark that counts for a consumer, or None if it has no mark that can be compared with ``record``. The
    mark on the workload itself takes precedence over the one on the pod template."""
    for name in filter(None, (mark_name(secret_name), former_mark_name(secret_name))):
        for mark in (consumer.baseline.get(name), consumer.marks.get(name)):
            if mark and _is_mark_of(mark, record):
                return mark
    return None


def required_mark(reads: Reads, record: Record, current: str | None) -> str | None:
    """Return the mark that a consumer needs for ``record``, without a suffix. ``current`` is its present mark, or None.
    Return None if the consumer needs no mark."""
    value = mark_value(reads, record)
    if not value and current and reads.optional and record.revisions and may_have_removed(record):
        return _mark_without_keys(record)  # the pods have read a key that is gone, and start without it
    return value


def mark_value(reads: Reads, record: Record) -> str | None:
    """Return the mark for the present revisions of the keys that the pods read, without a suffix. Return None if the
    pods read only keys that Keyturn does not manage."""
    if reads.whole:
        return record.mark_prefix + record.digest if record.revisions else None
    keys = reads.keys & record.revisions.keys()
    return record.mark_prefix + digest(record.revisions, keys) if keys else None


def lacks_required_key(reads: Reads, record: Record) -> bool:
    """Return whether a container of a new pod would not start, because the Secret lacks a key that the container
    reads."""
    # A Secret without revisions is not filled yet.
    return bool(record.revisions) and not all(map(record.has_key, reads.required))


def may_have_removed(record: Record) -> bool:
    """Return whether a key may have been removed. Keys of watched Secrets can be removed by others at any time."""
    return REMOVED in record.write_times or bool(record.mark_prefix)


def _mark_when_settled(consumer: Consumer, secret_name: str, record: Record) -> str:
    """Return the mark that a consumer has once it is up to date with the record."""
    mark = mark_value(consumer.reads.get(secret_name, Reads()), record) or _mark_without_keys(record)
    return with_needed_suffix(mark, record.unsettled)


def _mark_without_keys(record: Record) -> str:
    """Return the mark of a consumer that was restarted because all keys that it reads are gone."""
    return record.mark_prefix + digest({}, ())


def _is_mark_of(mark: str, record: Record) -> bool:
    """Return whether a mark can be compared with the marks of this record.

    Only marks for watched Secrets have a prefix. The prefix identifies the record key, which is the key of the hashes
    from which the revisions are made. It ends with a dot (``watched.py``). A mark for another record key tells nothing
    about this record.
    """
    return mark.startswith(record.mark_prefix) if record.mark_prefix else "." not in mark
