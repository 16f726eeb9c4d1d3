"""Health lines: one line for each part that the receiver depends on (event path, poller, AWS and Kubernetes). They need
no call to an API."""

from collections.abc import Sequence
from typing import Protocol

from keyturn_receiver.core.printable import printable
from keyturn_receiver.status.views import Health

OK, BAD, OFF = "ok", "bad", "off"
MAX_NAMES = 3  # at most this many missing lists are named


class Parts(Protocol):
    """Source of the health lines."""

    def event_path(self) -> tuple[bool, float | None]:
        """Return whether the event path is healthy, and the seconds since the last heartbeat. The seconds are None if
        no heartbeats are expected."""

    def deliveries(self) -> bool:
        """Return whether the receiver takes deliveries."""

    def poller(self) -> tuple[bool, float | None]:
        """Return whether this replica is the leader, and the seconds since its last sweep that did not fail, or None
        before the first such sweep."""

    def credentials_error(self) -> str | None:
        """Return the reason why the receiver's own credentials do not work, or are not known to work. Return None if
        they work."""

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
    leads, swept = parts.poller()
    if not leads:
        return Health("Poller", OK, "another replica polls")
    return Health(
        "Poller", OK, f"here, swept {ago(swept)}" if swept is not None else "here, no sweep has succeeded yet"
    )


def _aws(parts: Parts) -> Health:
    error = parts.credentials_error()
    return Health("AWS", BAD, printable(error)) if error else Health("AWS", OK, "credentials work")


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
