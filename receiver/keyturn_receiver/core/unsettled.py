"""Unsettled marks: marks of values that a Secret no longer has, on workloads that still wait for their restart.

If such a value returns, the mark is right again, but a pod that was created in the meantime has read the value in
between. So the record of the Secret remembers each such mark, with the time since which pods are uncertain. If the
value returns, its mark gets a suffix, so the workloads with the former mark need a new one, and their pods are looked
at.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.compact_json import compact_json
from keyturn_receiver.core.write_times import parse_time, rfc3339

UNSETTLED = "keyturn.dev/unsettled"
# At most this many marks of one Secret are remembered. The pods of workloads with other marks are not looked at.
MAX_MARKS = 200
MAX_TEXT = 100 * MAX_MARKS  # characters of the annotation; a longer text is not one that Keyturn has written
_MAX_SUFFIX = 20  # characters; no number of seconds is longer
_SEPARATOR = "~"  # between a mark and its suffix; neither a digest nor a prefix of a mark contains it


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What is known about an unsettled mark. Such a mark stands for a value that the Secret had before. ``since`` is
    the time at which that value was replaced in the Secret, in seconds since 1970 by the API server's clock, or 0 if
    the time is not known. Pods that were created before ``since`` have read the value. ``suffix`` is 0 as long as the
    value has not returned to the Secret. After its return, ``suffix`` is the number at the end of the mark."""

    since: int
    suffix: int = 0


UnsettledMarks = Mapping[str, Unsettled]
"""What is known about each unsettled mark. A mark may have a suffix from an earlier return."""


def read_unsettled(text: str) -> UnsettledMarks:
    """Read the annotation UNSETTLED. Returns no marks if the text is not one that ``write_unsettled`` has returned."""
    try:
        content = json.loads(text) if len(text) <= MAX_TEXT else None
    except (ValueError, RecursionError):
        return {}
    read = {mark: _read(each) for mark, each in content.items()} if isinstance(content, dict) else {}
    return {mark: each for mark, each in read.items() if each}


def write_unsettled(marks: UnsettledMarks) -> str:
    """Return the annotation UNSETTLED: JSON with a text such as ``2027-01-15T08:00:00Z~1800000009`` for each mark."""
    return compact_json({mark: f"{rfc3339(each.since)}{_SEPARATOR}{each.suffix}" for mark, each in marks.items()})


def with_needed_suffix(mark: str, marks: UnsettledMarks) -> str:
    """Return a mark without a suffix as workloads need it now: with the suffix of its last return, if it has one."""
    if not marks:
        return mark
    suffix = max((each.suffix for text, each in marks.items() if without_suffix(text) == mark), default=0)
    return with_own_suffix(mark, suffix) if suffix else mark


def with_own_suffix(mark: str, suffix: int) -> str:
    """Return a mark with a suffix. A mark that has a suffix already keeps it."""
    return mark if _SEPARATOR in mark else f"{mark}{_SEPARATOR}{suffix}"


def stands_for(mark: str, needed: str) -> bool:
    """Return whether a mark is the one that a workload needs now (``with_needed_suffix``). If ``needed`` has no suffix,
    the suffix that the mark has from an earlier return or a restart does not matter."""
    return needed in (mark, without_suffix(mark))


def without_suffix(mark: str) -> str:
    """Return a mark without its suffix. Two marks stand for the same revisions if this result is the same."""
    return mark.partition(_SEPARATOR)[0]


def _read(text: object) -> Unsettled | None:
    stamp, _, suffix = str(text).partition(_SEPARATOR)
    since = parse_time(stamp)
    if since is None or not (suffix.isascii() and suffix.isdecimal() and len(suffix) <= _MAX_SUFFIX):
        return None
    return Unsettled(since, int(suffix))
