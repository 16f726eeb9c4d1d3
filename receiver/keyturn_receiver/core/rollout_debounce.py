"""Debounce of rollouts: one restart for several changes that follow each other closely.

A workload that reads several Secrets is not restarted at once when one of them changes. The other Secrets may be about
to change, too, because they are made from the same AWS secret, or because somebody rotates several AWS secrets one
after the other. The times of the Secrets' writes decide. These times are in the cluster, so a crash of the receiver
causes no second restart.
"""

from collections.abc import Iterable, Mapping

from keyturn_receiver.core.consumer import Consumer, Reads
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation, rollout, written_at

# A workload is restarted when none of its Secrets has changed for this number of seconds. Kubernetes tells times in
# whole seconds, so between one and two seconds pass.
QUIET_SECONDS = 2
MAX_SECRETS = 64  # at most this many Secrets of a workload can delay its restart


def due_marks(
    consumer: Consumer, records: Mapping[str, Record], may_have_adopted: bool = False
) -> dict[str, RolloutAnnotation]:
    """Return a mark for each Secret whose change makes a restart of the consumer due, or may make it due. The keys are
    the names of the Secrets.

    ``records`` has the records of the Secrets that the consumer reads, without those for which it must not be
    restarted. If ``may_have_adopted`` is true, Secrets count for which only adopted pods can make the restart due.
    """
    marks = ((name, rollout(consumer, name, record)) for name, record in records.items())
    return {
        name: mark
        for name, mark in marks
        if mark and (mark.restart or mark.undecided or (may_have_adopted and mark.may_have_adopted))
    }


def quiet_at(consumer: Consumer, records: Mapping[str, Record], due: Iterable[str], now: float) -> float:
    """Return the time from which on a consumer may be restarted, in seconds since 1970. It is in the past if the last
    change was long ago.

    ``due`` has the names of the Secrets whose changes make the restart due. Two kinds of writes count as made at
    ``now``: a write of this process whose time is not known yet, and a write that is in the future by the receiver's
    clock.
    """
    times = (_written_at(consumer, name, records[name]) for name in due)
    return max((min(now, now if at is None else at) for at in times), default=0.0) + QUIET_SECONDS


def _written_at(consumer: Consumer, name: str, record: Record) -> int | None:
    reads = consumer.reads.get(name, Reads())
    times = record.latest_times if reads.whole else (record.write_times.get(key) for key in reads.keys)
    if any(time is not None and time.at is None for time in times):
        return None
    return written_at(consumer, name, record) or 0
