"""The wall clock. Parts that need the time get ``utc_now`` as a function, which a test can replace."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
