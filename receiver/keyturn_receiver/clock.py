"""The wall clock. Some parts get ``utc_now`` as an argument, so that a test can replace it."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
