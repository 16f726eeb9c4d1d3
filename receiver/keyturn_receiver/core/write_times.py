"""Write times: when the value of each key of a Secret was last written, by the API server's clock.

A consumer without a mark may have read an older value if its pods were created before the key was written. The API
server's clock gives the times of both pods and writes, so they can be compared. The time of a write is not known before
the write, so the annotation has "@" in place of the time. Keyturn later takes the time from the Secret's managed
fields. The next write of other keys replaces "@" by that time.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from keyturn_receiver.core.compact_json import compact_json

CHANGED_AT = "keyturn.dev/changed-at"
MAX_TEXT = 16 * 1024  # characters; if more were needed, all keys count as written now
MAX_TIME = 64  # characters; no time is longer
REMOVED = ""  # stands for all keys that were removed; no key of a Secret is an empty text

_LAST = "@"  # the time of the last write
_UNKNOWN = "?"  # the time of a write from before Keyturn recorded times
_NEW = "+"  # follows the time at which a key appeared
_REST = "*"  # all keys that are not listed elsewhere


@dataclass(frozen=True, slots=True)
class WriteTime:
    """When a key was last written, in seconds since 1970. ``at`` is None if the time is not known yet: for a write that
    this process is making now, and for a change of a watched Secret if the managed fields do not tell its time.

    ``appeared`` is true if the Secret did not have the key before that write, so that there was no older value to read.
    """

    at: int | None
    appeared: bool = False


WriteTimes = Mapping[str, WriteTime]

_decode = json.JSONDecoder(object_pairs_hook=tuple).decode


def parse_time(text: object) -> int | None:
    """Return a time of the Kubernetes API (RFC 3339, whole seconds) in seconds since 1970, or None if it is not a
    time."""
    text = str(text)
    return _parse_time(text) if len(text) <= MAX_TIME else None


@lru_cache(maxsize=1024)  # a Secret has the same times at many places, and Secrets that change together share them
def _parse_time(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        return None


def resolve(text: str | None, manager: str, managed_fields: Iterable[Mapping[str, object]]) -> str | None:
    """Replace "@" in the annotation by the time of the last apply by ``manager``, and return the new text.

    Return None if there is no annotation, or if it is too long. If the managed fields do not tell the time, "@" stays,
    and ``read_times`` leaves out the keys with "@".
    """
    if text is None or len(text) > 2 * MAX_TEXT:
        return None
    for entry in managed_fields:
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            applied_at = parse_time(entry.get("time"))
            # No key of a Secret contains "@".
            return text if applied_at is None else text.replace(f'"{_LAST}', f'"{rfc3339(applied_at)}')
    return text


def read_times(text: str | None, keys: Iterable[str]) -> WriteTimes:
    """Read the annotation that ``resolve`` has returned. ``keys`` are all keys of the record.

    A key without a known time is missing in the result. A malformed annotation is treated as missing.
    """
    try:
        # The names in the JSON object are times. Two writes within a second have the same time, so a name can occur
        # twice. A tuple of pairs has both.
        groups = _decode(text or "{}")
    except (ValueError, RecursionError):
        return {}
    listed: dict[str, WriteTime | None] = {}
    for stamp, names in groups if isinstance(groups, tuple) else ():
        at = parse_time(stamp.removesuffix(_NEW))
        time = WriteTime(at, stamp.endswith(_NEW)) if at is not None else None
        listed |= {name: time for name in names if isinstance(name, str)} if isinstance(names, list) else {}
    rest = listed.get(_REST)
    times = {key: listed.get(key, rest) for key in keys} | {REMOVED: listed.get(REMOVED)}
    return {key: time for key, time in times.items() if time}


def latest_times(times: WriteTimes) -> tuple[WriteTime, ...]:
    """Return the latest time at which a key appeared, and the latest time at which a key was overwritten or removed. A
    time is left out if there is no such key. A pod that reads all keys has read their values if the pod is newer than
    both times."""
    latest: dict[bool, WriteTime] = {}
    for time in times.values():
        other = latest.get(time.appeared)
        if other is None or (other.at is not None and (time.at is None or time.at > other.at)):
            latest[time.appeared] = time
    return tuple(latest.values())


def write_times(times: WriteTimes, keys: Iterable[str]) -> str:
    """Return the annotation from which ``read_times`` reads these times for ``keys``, or an empty text if no time is
    known.

    The length is at most MAX_TEXT.
    """
    if not times:
        return ""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted({*keys, *times}):
        groups[_stamp(times.get(key))].append(key)
    # The keys of the largest group are not listed. Most writes change either all keys or one key, so the text stays
    # short.
    largest = max(groups, key=lambda stamp: (len(groups[stamp]), stamp))
    groups[largest] = [_REST, *([REMOVED] if REMOVED in groups[largest] else [])]
    text = compact_json(groups)
    return text if len(text) <= MAX_TEXT else compact_json({_LAST: [_REST, REMOVED]})


def next_times(
    times: WriteTimes, keys: Iterable[str], changed: Iterable[str], appeared: Iterable[str], removed: bool
) -> WriteTimes:
    """Return the write times after a write. ``changed`` are the keys that it overwrites, and ``appeared`` are the keys
    that it adds. The other ``keys`` keep their times.

    ``removed`` tells whether the write removes a key.
    """
    result = {key: times[key] for key in (*keys, REMOVED) if key in times}
    result |= dict.fromkeys(changed, WriteTime(None)) | dict.fromkeys(appeared, WriteTime(None, appeared=True))
    return result | ({REMOVED: WriteTime(None)} if removed else {})


def _stamp(time: WriteTime | None) -> str:
    if time is None:
        return _UNKNOWN
    return (_LAST if time.at is None else rfc3339(time.at)) + (_NEW if time.appeared else "")


@lru_cache(maxsize=1024)
def rfc3339(seconds: int) -> str:
    """Format a time, given in seconds since 1970, as RFC 3339 text. ``parse_time`` reads this text."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
