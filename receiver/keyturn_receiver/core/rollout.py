"""Rollout decision: whether to restart a consumer. The decision depends only on the consumer, the Secret's record, and
the consumer's pods.

A mark is an annotation on a workload that stands for one Secret. Its value contains a digest of the revisions of the
keys that the pods read. On the pod template, a mark asks for a restart. A mark on the workload itself restarts nothing.
Such a mark is *settled*: the pods were found to run these revisions, or the workload had no mark yet (``baseline``).
There is one exception: if ``spec.restartAt`` restarts the pods (``core/argo_rollouts.py``), a restart writes its mark
on the workload itself. A settled mark takes precedence over a mark on the template. A consumer is up to date if its
mark equals the mark that follows from the Secret's record. If a former value has returned, this mark has a suffix
(``core/unsettled.py``), so it differs from the former mark. A consumer that is not up to date is restarted if one of
its pods is behind, which means that the pod may have read an older value. If no pod is behind, the consumer gets a
settled mark.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from keyturn_receiver.core.consumer import Consumer, Reads, mark_name
from keyturn_receiver.core.mark import (
    current_mark,
    has_mark,
    has_mark_of,
    lacks_required_key,
    mark_value,
    may_have_removed,
    required_mark,
)
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.unsettled import (
    MAX_MARKS,
    Unsettled,
    UnsettledMarks,
    stands_for,
    with_needed_suffix,
    without_suffix,
)
from keyturn_receiver.core.write_times import REMOVED, WriteTime

# A container is expected to start more than this many seconds after the creation of its pod. So if a key appeared at
# most this many seconds after the creation of a pod without a mark, no container of the pod has started without the
# key, unless the kubelet tells an earlier start. This matters at a first installation.
START_SECONDS = 2
# The times of container starts come from the kubelet's clock, and the times of writes from the API server's clock. A
# container counts as started after a write only if it was started at least this many seconds after the write.
CLOCK_SECONDS = 60
_NOW = 1 << 62  # later than every time of the API server, in seconds


@dataclass(frozen=True, slots=True)
class RolloutAnnotation:
    """A mark to write: on the pod template if ``restart`` is true, and otherwise on the workload itself.

    ``undecided`` is true if the pods have to be read before the decision. The mark then restarts the pods only if a pod
    is behind (``is_behind``). ``may_have_adopted`` is true if the consumer is younger than the values, but may have
    adopted pods that are older. Its pods have to be read, too. It counts as due only if one of them is behind.
    ``marked`` is true if the consumer has an older mark. The consumer's pods may then have read values that the
    Secret's record no longer describes. ``returned_since`` is given if the older mark stands for the present values,
    too, because they have returned. Pods that were created before this time (in seconds since 1970 by the API server's
    clock) have read these values. ``may_be_former`` is true if pods may have this mark from an earlier time: the pod
    template has it although the consumer needs it, or some pods have an older template. The mark of a pod then does not
    tell what the pod has read.
    """

    name: str
    value: str
    restart: bool
    undecided: bool = False
    may_have_adopted: bool = False
    marked: bool = False
    returned_since: int | None = None
    may_be_former: bool = False


def baseline(consumer: Consumer, secret_name: str, before: Record, after: Record) -> RolloutAnnotation | None:
    """Return the baseline for a consumer that has no mark yet, or None if the consumer needs no baseline.

    The baseline is a settled mark of the revisions that the Secret has before it is written. The record ``before`` has
    these revisions, and ``after`` is the record that is written.

    The baseline has to be written before the Secret. Otherwise, if the receiver crashed between the write of the Secret
    and the rollouts, only the ages of the pods would show that they have read the old value (F2 in docs/faults.md).
    """
    reads = consumer.reads.get(secret_name, Reads())
    value = mark_value(reads, before)
    if not value or current_mark(consumer, secret_name, after) or not _concerns(reads, before, after):
        return None
    return RolloutAnnotation(mark_name(secret_name), value, restart=False)


def rollout(
    consumer: Consumer, secret_name: str, record: Record, before: Record | None = None
) -> RolloutAnnotation | None:
    """Return the mark that a consumer needs for ``record``, or None if the consumer is up to date or needs no mark.

    ``before`` is given only if the caller has just replaced the record ``before`` by ``record``, and ``consumer`` shows
    the state before this write. In this case, a consumer with a mark is restarted if the write changes what its pods
    have read, because all its pods are older than the keys that were written. There is one exception: the present mark
    of the consumer stands for values that have now returned. In this and all other cases, the ages of the pods decide.
    If the consumer itself is younger than the keys that its pods read, and is not ``seen_late``, the pods need not be
    read.

    If the Secret lacks a key that a container requires, the result is None, and the pods keep the old values. A new pod
    would not start. The mark stays as it is, so the consumer needs a mark again when the key returns. If the Secret
    lacks only optional keys, the consumer is restarted.
    """
    if lacks_required_key(consumer.reads.get(secret_name, Reads()), record):
        return None
    return _rollout_with_all_keys(consumer, secret_name, record, before)


def _rollout_with_all_keys(
    consumer: Consumer, secret_name: str, record: Record, before: Record | None = None
) -> RolloutAnnotation | None:
    """Return the result of ``rollout``, as if the Secret had all keys that the containers require."""
    reads = consumer.reads.get(secret_name, Reads())
    current = current_mark(consumer, secret_name, record)
    required = required_mark(reads, record, current)
    if not required:
        return None
    value = with_needed_suffix(required, record.unsettled)
    if current and stands_for(current, value):
        return None
    name, marked, has_old_template = mark_name(secret_name), bool(current), is_mixed(consumer)
    may_be_former = has_old_template or has_mark(consumer.marks, name, value)
    mark = RolloutAnnotation(name, value, restart=False, marked=marked, may_be_former=may_be_former)
    if current and without_suffix(current) == required:
        unsettled = record.unsettled.get(current)
        mark = replace(mark, returned_since=unsettled.since if unsettled else None)
        # If some pods have an older template, the mark on the present template does not tell what they have read.
        asks_for_restart = not consumer.evicts and (consumer.by_time or name not in consumer.baseline)
        has_to_restart = has_old_template and asks_for_restart
    else:
        has_to_restart = before is not None and _concerns(reads, before, record)
    if marked and has_to_restart:
        return replace(mark, restart=True)
    undecided = _may_be_behind(reads, consumer.created, record, consumer.seen_late, marked)
    # A manifest that was read from the cluster has a mark, so a workload that was created again may have one, too.
    may_be_younger = consumer.seen_late and consumer.created is not None and not undecided
    may_have_adopted = may_be_younger and _may_be_behind(reads, 0, record, consumer.seen_late, marked)
    return replace(mark, undecided=undecided, may_have_adopted=may_have_adopted)


def next_unsettled(
    waiting: Iterable[Consumer], secret_name: str, before: Record, after: Record, now: int
) -> UnsettledMarks:
    """Return ``Record.unsettled`` for a write that replaces the record ``before`` by ``after``.

    ``waiting`` has the consumers that are not up to date with ``before`` (``is_waiting``). ``now`` is in seconds since
    1970.
    """
    marks: dict[str, Unsettled] = {}
    for consumer in waiting:
        reads, mark = consumer.reads.get(secret_name, Reads()), current_mark(consumer, secret_name, before)
        if not mark or (len(marks) >= MAX_MARKS and mark not in marks):
            continue
        known = before.unsettled.get(mark) or Unsettled(written_at(consumer, secret_name, before) or 0)
        if without_suffix(mark) == required_mark(reads, after, mark) != required_mark(reads, before, mark):
            # The suffix grows, so that a value that returns twice does not get the same mark twice.
            known = replace(known, suffix=max(now, known.suffix + 1))
        marks[mark] = known
    return marks


def is_waiting(consumer: Consumer, secret_name: str, record: Record) -> bool:
    """Return whether a consumer has a mark that is not up to date with ``record``.

    A consumer whose pods are kept because the Secret lacks a required key is waiting, too. A container that does not
    read this key may have started in a pod that was created since.
    """
    mark = _rollout_with_all_keys(consumer, secret_name, record)
    return mark is not None and mark.marked


def is_due(consumer: Consumer, secret_name: str, record: Record, before: Mapping[str, str]) -> bool:
    """Return whether a write of ``record`` makes a consumer due for a restart, or may do so. ``before`` has the
    revisions that the write replaces. The consumer already has a mark for these revisions."""
    mark = rollout(consumer, secret_name, record, Record(revisions=before))
    return mark is not None and (mark.restart or mark.undecided)


def lacks_keys(consumer: Consumer, secret_name: str, record: Record) -> bool:
    """Return whether the pods keep old values because the Secret lacks a key that they require.

    A consumer that has the mark of ``record`` keeps no old values. A consumer without a mark may have none either, if
    no key of the Secret has been removed: its containers wait for the key. A workload whose restarts are forbidden has
    no mark.
    """
    reads = consumer.reads.get(secret_name, Reads())
    if record.other_keys is None:  # the keys of other writers are not known, so only the loss of all keys counts
        are_gone = reads.needs_keys and bool(reads.keys) and reads.keys.isdisjoint(record.revisions)
    else:
        are_gone = lacks_required_key(reads, record)
    if not are_gone:
        return False
    if current_mark(consumer, secret_name, record) is None:
        return may_have_removed(record)
    return not has_mark_of(consumer, secret_name, record)


def written_at(consumer: Consumer, secret_name: str, record: Record) -> int | None:
    """Return the time at which a key that the pods read was last written, or at which any key was last removed if that
    is later. The time is in seconds since 1970 by the API server's clock. Return None if it is not known."""
    reads = consumer.reads.get(secret_name, Reads())
    times = record.write_times
    read = (times[key] for key in (*reads.keys, REMOVED) if key in times)
    each = record.latest_times if reads.whole else read
    return max((time.at for time in each if time.at is not None), default=None)


def is_mixed(consumer: Consumer) -> bool:
    """Return whether pods of a workload may have an older template than the present one."""
    progress = consumer.progress
    return progress is not None and not (progress.is_complete if consumer.by_time else progress.is_uniform)


def is_behind(pod: Pod, secret_name: str, record: Record, mark: RolloutAnnotation, seen_late: bool) -> bool:
    """Return whether a pod may have read an older value than the Secret has now. ``mark`` is the result of ``rollout``
    for the pod's workload, and ``seen_late`` is ``Consumer.seen_late`` of this workload.

    A pod with this mark is not behind, because its template was marked after the write. Neither is a pod that is older
    than ``mark.returned_since``.
    """
    if has_mark(pod.marks, mark.name, mark.value):
        times = [time.at for time in _times(pod.reads.get(secret_name, Reads()), record, mark.marked)]
        if not mark.may_be_former or (times and all(at is not None and pod.created >= at for at in times)):
            return False
    if mark.returned_since is not None and _is_older(pod, mark.returned_since):
        return False
    return has_older_value(pod, secret_name, record, seen_late, mark.marked)


def has_older_value(pod: Pod, secret_name: str, record: Record, seen_late: bool = False, marked: bool = False) -> bool:
    """Return whether a pod may have read an older value than the Secret has now, judged only by the pod's times.

    ``marked`` is as in ``RolloutAnnotation``. The other arguments are those of ``is_behind``.
    """
    reads, started = pod.reads.get(secret_name), pod.started.get(secret_name)
    if not _may_be_behind(reads, pod.created, record, seen_late, marked, pod.has_started, started):
        return False
    return started is None or _may_be_behind(reads, started - CLOCK_SECONDS, record, False, marked)


def _is_older(pod: Pod, changed_at: int) -> bool:
    """Return whether a pod and its running containers are older than a change of the Secret. A container that was
    started again has read the Secret again."""
    return pod.created < changed_at and pod.last_started < changed_at - CLOCK_SECONDS


def _may_be_behind(
    reads: Reads | None,
    created: int | None,
    record: Record,
    seen_late: bool,
    marked: bool,
    has_started: bool = True,
    started: int | None = 0,
) -> bool:
    """Return whether a pod may have read an older value, if the pod or its workload was created at ``created``.

    ``marked`` is as in ``RolloutAnnotation``, and ``has_started`` as in ``Pod``. ``started`` is the earliest start of
    the containers that read the Secret (``Pod.started``), or None if it is not known. It is 0 if ``created`` is not the
    time at which a pod was created. START_SECONDS is then not used.

    Kubernetes tells times in whole seconds. A pod that was created in the second of the write has read the new value,
    because a pod takes a while to start. The function relies on this only if a watch has shown the workload without
    delay, and if the workload has no mark. Otherwise it counts such a pod as behind, because the write may have come at
    the end of that second.
    """
    if reads is None:
        return False
    if created is None:
        return marked
    until = _NOW if record.unknown_until is None else record.unknown_until
    if marked and created <= until and _has_unknown_times(reads, record):
        return True  # an older release wrote these keys, or others wrote them before the Secret was watched
    for time in _times(reads, record, marked):
        written_at = _NOW if time.at is None else time.at
        if time.appeared:
            if reads.needs_keys and not (marked and has_started):
                continue  # there was no older value, and no container has started without a value
            if not marked and (started is None or started >= written_at):
                written_at -= START_SECONDS
        if created < written_at + (seen_late or marked):
            return True
    return False


# The functions below run for each consumer and each pod of the Secret, so their cost must not depend on the number of
# the Secret's keys.
def _times(reads: Reads, record: Record, marked: bool) -> Iterator[WriteTime]:
    """Yield the times of the writes that matter to a reader. If the reader has a mark, the removal of a key that it
    reads matters, too."""
    times = record.write_times
    if reads.whole:
        yield from record.latest_times
        return
    yield from (times[key] for key in reads.keys if key in times)
    if marked and REMOVED in times and any(key not in record.revisions for key in reads.keys):
        yield times[REMOVED]


def _has_unknown_times(reads: Reads, record: Record) -> bool:
    times = record.write_times
    if reads.whole:
        return len(times) - (REMOVED in times) < len(record.revisions)
    if any(key in record.revisions and key not in times for key in reads.keys):
        return True
    # If the annotation of a watched Secret is missing, only the mark of a reader shows that a key is gone.
    removed = bool(record.mark_prefix) and REMOVED not in times
    return removed and any(key not in record.revisions for key in reads.keys)


def _concerns(reads: Reads, before: Record, after: Record) -> bool:
    """Return whether the write of ``after`` changes what running pods have read."""
    if mark_value(reads, before) == mark_value(reads, after):
        return False
    changed = (key for key in reads.keys if before.revisions.get(key) != after.revisions.get(key))
    new = WriteTime(None, appeared=True)  # no container that reads only new keys has started yet
    return not (reads.needs_keys and all(after.write_times.get(key) == new for key in changed))
