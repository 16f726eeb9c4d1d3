"""What asks for a reconcile, and what comes of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyturn_receiver.core.consumer import WorkloadRef


class Cause(StrEnum):
    """Why a binding is looked at."""

    NOTIFICATION = "notification"
    POLL = "poll"
    SECRET = "secret"  # noqa: S105 - the Secret itself is new or was edited
    CONSUMER = "consumer"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True)
class Request:
    """Look at a binding because of ``causes``; ``expected`` are version ids that notifications named.

    Two requests for the same binding join into one that serves both.
    """

    causes: frozenset[Cause]
    expected: frozenset[str] = frozenset()

    def __or__(self, other: "Request") -> "Request":
        return Request(self.causes | other.causes, self.expected | other.expected)


def because(cause: Cause, expected: Iterable[str] = ()) -> Request:
    """A request for one cause."""
    return Request(frozenset({cause}), frozenset(expected))


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconcile has done: ``version_ids`` that the Secret is made from now, consumers that were restarted."""

    bound: bool
    changed: bool = False
    version_ids: frozenset[str] = frozenset()
    restarted: tuple[WorkloadRef, ...] = ()
