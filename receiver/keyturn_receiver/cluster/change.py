"""What a watch has seen, in the words of those who act on it."""

from enum import StrEnum


class Change(StrEnum):
    """What a watch has seen that may ask for a reconcile."""

    SECRET = "secret"  # noqa: S105 - the word for a kind of change
    CONSUMER = "consumer"
    NAMESPACE = "namespace"
