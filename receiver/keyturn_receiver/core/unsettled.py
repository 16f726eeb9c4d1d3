"""Unsettled changes of a Secret: changes that overtook a restart.

A change is unsettled if the Secret changes again before each of its consumers was restarted for the former change. The
waiting consumers still have the marks of an older value. If that value returns, such a mark is right again, but a pod
that was created in the meantime has read the value in between. So the record of the Secret says since when pods are
uncertain, and the marks of the returned value get a suffix that no earlier mark has.
"""

from dataclasses import dataclass

from keyturn_receiver.core.write_times import parse_time, rfc3339

UNSETTLED = "keyturn.dev/unsettled-since"
_MAX_SUFFIX = 20  # characters; no number of seconds is longer
_MARK = "~"  # separates a mark from its suffix; neither a digest nor a prefix of a mark contains it


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Since when pods are uncertain. ``since`` is in seconds since 1970 by the API server's clock: pods that were
    created earlier have read the value that the mark of their workload stands for. ``suffix`` is a number that the
    marks of the present revisions end with. It is 0 if no older value has returned, and the marks then have no
    suffix."""

    since: int
    suffix: int = 0


def read_unsettled(text: object) -> Unsettled | None:
    """Read the annotation UNSETTLED. Returns None if the text is not one that ``write_unsettled`` has returned."""
    stamp, _, suffix = str(text).partition(_MARK)
    since = parse_time(stamp)
    if since is None or not (suffix.isascii() and suffix.isdecimal() and len(suffix) <= _MAX_SUFFIX):
        return None
    return Unsettled(since, int(suffix))


def write_unsettled(unsettled: Unsettled) -> str:
    """Return the annotation UNSETTLED, such as ``2027-01-15T08:00:00Z~1800000009``."""
    return f"{rfc3339(unsettled.since)}{_MARK}{unsettled.suffix}"


def with_suffix(mark: str, unsettled: Unsettled | None) -> str:
    """Return a mark with the suffix of the present revisions, if they have one."""
    return f"{mark}{_MARK}{unsettled.suffix}" if unsettled and unsettled.suffix else mark


def without_suffix(mark: str) -> str:
    """Return a mark without its suffix. Two marks stand for the same revisions if this result is the same."""
    return mark.partition(_MARK)[0]
