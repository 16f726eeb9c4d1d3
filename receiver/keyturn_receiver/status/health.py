"""Health lines: one line for each part that the receiver depends on (event path, poller, AWS and Kubernetes). They need
no call to an API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from keyturn_receiver.core.printable import printable
from keyturn_receiver.status.views import Health

OK, BAD, OFF = "ok", "bad", "off"
MAX_NAMES = 3  # at most this many missing lists are named
# Seconds without a renewal of the Lease after which no replica leads. Another replica takes over the Lease after half
# of this time.
NO_LEADER = 30.0


@dataclass(frozen=True, slots=True)
class Polling:
    """What this replica knows about the poller. All times are in seconds.

    ``leads`` says whether this replica is the leader. ``swept`` is the time since its last sweep that did not fail, or
    None before the first such sweep. ``overdue`` is the time for which no sweep of the leader has succeeded, or None if
    this is not long. ``failure`` is the text of the error of the last sweep, or empty. ``is_unanswered`` says whether
    this error is that AWS did not answer, or refused too many calls. ``unrenewed`` is the time since this replica last
    saw a renewal of the Lease.
    """

    leads: bool
    swept: float | None = None
    overdue: float | None = None
    failure: str = ""
    is_unanswered: bool = False
    unrenewed: float = 0.0


class Parts(Protocol):
    """Source of the health lines."""

    def event_path(self) -> tuple[bool, float | None]:
        """Return whether the event path is healthy, and the seconds since the last heartbeat. The seconds are None if
        no heartbeats are expected."""

    def deliveries(self) -> bool:
        """Return whether the receiver takes deliveries."""

    def poller(self) -> Polling:
        """Return what this replica knows about the poller."""

    def credentials_error(self) -> str | None:
        """Return the reason why the receiver's own credentials do not work, or are not known to work. Return None if
        they work."""

    def hung_for(self) -> float:
        """Return the seconds for which calls to AWS that did not end have occupied every thread, or 0."""

    def missing_lists(self) -> Sequence[str]:
        """Return the names of the lists and of the sources of signing keys that are still missing. The receiver cannot
        answer deliveries without them."""


def health(parts: Parts) -> tuple[Health, ...]:
    """Return the health lines of the four parts."""
    return (_event_path(parts), _poller(parts), _aws(parts), _kubernetes(parts))


def _event_path(parts: Parts) -> Health:
    title = "Event path"
    if not parts.deliveries():
        return Health(title, OFF, "deliveries are off: the poller alone carries changes")
    healthy, silence = parts.event_path()
    if silence is None:
        return Health(title, OFF, "no heartbeats are expected")
    if healthy:
        return Health(title, OK, f"heartbeat {ago(silence)}")
    return Health(title, BAD, f"no heartbeat for {span(silence)}: run `keyturn doctor`")


def _poller(parts: Parts) -> Health:
    title, polling = "Poller", parts.poller()
    if not polling.leads and polling.unrenewed > NO_LEADER:
        text = f"no replica polls: this one has seen no renewal of the Lease for {span(polling.unrenewed)}"
        return Health(title, BAD, text)
    if not polling.leads:
        return Health(title, OK, "another replica polls")
    if polling.overdue is not None:
        why = f": {polling.failure}" if polling.failure else ""
        return Health(title, BAD, printable(f"here, no sweep has succeeded for {span(polling.overdue)}{why}"))
    if polling.swept is None:
        return Health(title, OK, "here, no sweep has succeeded yet")
    return Health(title, OK, f"here, swept {ago(polling.swept)}")


def _aws(parts: Parts) -> Health:
    title, polling = "AWS", parts.poller()
    if error := parts.credentials_error():
        return Health(title, BAD, printable(error))
    if hung := parts.hung_for():
        return Health(title, BAD, f"calls that do not end have occupied every thread for {span(hung)}")
    if polling.leads and polling.overdue is not None and polling.is_unanswered:
        return Health(title, BAD, printable(f"no sweep had its answers for {span(polling.overdue)}: {polling.failure}"))
    return Health(title, OK, "credentials work")


def _kubernetes(parts: Parts) -> Health:
    missing = parts.missing_lists()
    if not missing:
        return Health("Kubernetes", OK, "every watch has its list")
    more = f" and {len(missing) - MAX_NAMES} more" if len(missing) > MAX_NAMES else ""
    return Health("Kubernetes", BAD, printable(f"waits for {', '.join(missing[:MAX_NAMES])}{more}"))


def ago(seconds: float) -> str:
    """Return a text for a time in the past."""
    return "just now" if seconds < 1.5 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """Return a text for a duration, in the largest unit that fits."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 48 * 3600 else f"{whole // 86400} days"
