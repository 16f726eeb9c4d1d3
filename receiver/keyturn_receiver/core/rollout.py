"""Rollout decision: whether to restart a consumer. It depends only on the consumer's marks, the Secret's record, and,
for a consumer without a mark, on the ages of its pods.

A mark is an annotation on a workload that stands for one Secret. Its value is a digest of the revisions of the keys
that the pods read. Writing a mark on the pod template restarts the pods. Writing one on the workload itself does not:
such a mark is the baseline of a workload that Keyturn has never restarted.
"""

from dataclasses import dataclass

from keyturn_receiver.core.consumer import Consumer, Pod, Reads, former_mark_name, mark_name
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.write_times import REMOVED, WriteTime

# A pod takes longer than this from its creation to the start of a container. So a container of a pod that was created
# this many seconds before a key appeared may have started without the key.
START_SECONDS = 2
_NOW = 1 << 62  # later than every time of the API server, in seconds


@dataclass(frozen=True, slots=True)
class RolloutAnnotation:
    """A mark to write on a workload, and also on its pod template if ``restart`` is true.

    ``undecided`` is true if the mark restarts the pods only if one of them ``is_behind``.
    """

    name: str
    value: str
    restart: bool
    undecided: bool = False


def baseline(consumer: Consumer, secret_name: str, before: Record, after: Record) -> RolloutAnnotation | None:
    """Return the baseline for a consumer that has no mark yet, or None if the consumer needs no baseline.

    The record ``before`` has the revisions before the Secret is written, and ``after`` is the record that is written.
    The baseline has to be written before the Secret. Otherwise, if the receiver crashed between the write of the Secret
    and the rollouts, only the ages of the pods would show that they have read the old value (F2 in docs/faults.md).
    """
    reads = consumer.reads.get(secret_name, Reads())
    value = _mark_value(reads, before)
    if not value or _current_mark(consumer, secret_name, after) or value == _mark_value(reads, after):
        return None
    changed = {key for key in reads.keys if before.revisions.get(key) != after.revisions.get(key)}
    if reads.needs_keys and all(after.write_times.get(key) == WriteTime(None, appeared=True) for key in changed):
        return None  # no container that reads the new keys has started yet
    return RolloutAnnotation(mark_name(secret_name), value, restart=False)


def rollout(consumer: Consumer, secret_name: str, record: Record) -> RolloutAnnotation | None:
    """Return the mark that restarts a consumer whose pods read a key with a new revision, or None if it is up to date.

    A consumer whose keys are all gone is restarted if they are optional. Otherwise its pods keep the old value, because
    no container would start without the keys.

    A consumer that has no mark at all gets a baseline instead of a restart. If it was created before the keys that it
    reads were last written, it is undecided: its pods may have read older values while no replica saw it.
    """
    reads = consumer.reads.get(secret_name, Reads())
    value = _mark_value(reads, record)
    current = _current_mark(consumer, secret_name, record)
    if not value and current and reads.optional and record.revisions and REMOVED in record.write_times:
        value = record.mark_prefix + digest({}, ())  # a key that its pods have read is gone, and they start without it
    if not value or current == value:
        return None
    undecided = not current and _may_be_behind(reads, consumer.created, record, consumer.seen_late)
    return RolloutAnnotation(mark_name(secret_name), value, restart=bool(current), undecided=undecided)


def is_behind(pod: Pod, secret_name: str, record: Record, seen_late: bool) -> bool:
    """Return whether a pod may have read an older value than the Secret has now. ``seen_late`` is the consumer's."""
    return _may_be_behind(pod.reads.get(secret_name), pod.created, record, seen_late)


def _may_be_behind(reads: Reads | None, created: int | None, record: Record, seen_late: bool) -> bool:
    """Return whether a pod that was created at ``created``, or a pod of a workload that was, may have read an older
    value.

    Kubernetes tells times in whole seconds. A pod that was created in the second of the write has read the new value,
    because a pod takes a while to start. This is relied on only if a watch has shown the workload without delay: for
    one that was seen late, nothing tells that the write did not come at the end of that second.
    """
    if reads is None or created is None:
        return False
    # This runs for each consumer and each pod of the Secret, so its cost must not depend on the number of the Secret's
    # keys.
    times = record.write_times
    read = (times[key] for key in reads.keys & times.keys() if key != REMOVED)
    for time in record.latest_times if reads.whole else read:
        written_at = _NOW if time.at is None else time.at
        if time.appeared:
            if reads.needs_keys:
                continue  # there was no older value, and no container has started without one
            written_at -= START_SECONDS
        if created < written_at + seen_late:
            return True
    return False


def _current_mark(consumer: Consumer, secret_name: str, record: Record) -> str | None:
    for name in filter(None, (mark_name(secret_name), former_mark_name(secret_name))):
        for mark in (consumer.marks.get(name), consumer.baseline.get(name)):
            if mark and _is_mark_of(mark, record):
                return mark
    return None


def _is_mark_of(mark: str, record: Record) -> bool:
    """Return whether a mark may come from a record like this one. Only those of watched Secrets have a prefix, which
    ends with a dot and tells the record key (``watched.py``). Without that key, a mark tells nothing."""
    return mark.startswith(record.mark_prefix) if record.mark_prefix else "." not in mark


def _mark_value(reads: Reads, record: Record) -> str | None:
    # A key without a revision is not managed by Keyturn. A pod that reads only such keys gets no mark.
    if reads.whole:
        return record.mark_prefix + record.digest if record.revisions else None
    keys = reads.keys & record.revisions.keys()
    return record.mark_prefix + digest(record.revisions, keys) if keys else None
