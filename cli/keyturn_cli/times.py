"""Times for people. All times of the API are RFC 3339 in UTC."""

from datetime import UTC, datetime


def seconds_of(text: str) -> float | None:
    """Return a time in seconds since 1970, with its fraction, or None if ``text`` is not a time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def ago(text: str, now: float) -> str:
    """Return the age of a time as a text, such as `96s ago`, or `never` if ``text`` is not a time."""
    at = seconds_of(text)
    return "never" if at is None else f"{duration(now - at)} ago"


def duration(seconds: float) -> str:
    """Return a duration with one unit, in the format of kubectl: 96s, 12m, 5h, 3d."""
    seconds = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def read_duration(text: str) -> float | None:
    """Parse a duration such as 90s, 5m or 1h. Return seconds, or None if ``text`` is not a duration."""
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    return float(number) * unit if unit and number.isdecimal() and len(number) < 7 else None
