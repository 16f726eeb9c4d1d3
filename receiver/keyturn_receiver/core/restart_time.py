"""Restart time: the time from which on every new pod reads the current values. Restarts by ``spec.restartAt`` need it
(``core/argo_rollouts.py``).

It is the time of the Secret's write. The API server's clock gives this time, and it also gives the time at which a pod
was created. The receiver's own clock may differ by minutes. The same write always gives the same time. So a repeated
request restarts no pod twice.
"""

from keyturn_receiver.core.consumer import Reads
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.write_times import REMOVED, WriteTime


def last_written(reads: Reads, record: Record) -> int | None:
    """Return when a key that a pod reads was last written or removed, in seconds since 1970. Return None if there is no
    such key, or if the time of one of these keys is not known. A key without a time was last written at
    ``record.unknown_until`` or earlier."""
    keys = record.revisions.keys() if reads.whole else reads.keys & record.revisions.keys()
    unknown = WriteTime(record.unknown_until)
    times = [record.write_times.get(key, unknown).at for key in keys]
    if REMOVED in record.write_times:
        times.append(record.write_times[REMOVED].at)
    known = [at for at in times if at is not None]
    return max(known) if known and len(known) == len(times) else None
