"""What asks for a reconcile, and what comes of it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.core.consumer import WorkloadRef

MOST_EVENTS = 10  # ids that a request keeps of the events it serves; they are for people


class Cause(StrEnum):
    """Why a binding is looked at; the first goes first."""

    NOTIFICATION = "notification"
    NEW = "new"  # never filled
    DRIFT = "drift"  # the Secret, its binding or what its namespace allows was edited, or an error may be over
    CONSUMER = "consumer"  # a workload has not been told of what the Secret holds
    POLL = "poll"


PRIORITIES = tuple(Cause)


@dataclass(frozen=True, slots=True)
class Request:
    """Look at a binding because of ``causes``.

    ``since``: monotonic seconds at which the last of them was known, so that what was read before does not count.
    ``expected`` are version ids that the label was said to be on, ``event_ids`` those of EventBridge; ``unnamed``: some
    notification names no such version. Two requests for the same binding join into one that serves both.
    """

    causes: frozenset[Cause]
    since: float
    expected: frozenset[str] = frozenset()
    event_ids: tuple[str, ...] = ()
    unnamed: bool = False

    @property
    def priority(self) -> Cause:
        """The cause that decides whose turn it is."""
        return min(self.causes, key=PRIORITIES.index)

    def __or__(self, other: "Request") -> "Request":
        events = dict.fromkeys((*self.event_ids, *other.event_ids))
        return Request(
            self.causes | other.causes,
            max(self.since, other.since),
            self.expected | other.expected,
            tuple(events)[:MOST_EVENTS],
            self.unnamed or other.unnamed,
        )


def because(cause: Cause, expected: Iterable[str] = (), event_id: str = "") -> Request:
    """A request for one cause, as of now."""
    return Request(frozenset({cause}), time.monotonic(), frozenset(expected), (event_id,) if event_id else ())


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What a reconcile has done: ``version_ids`` that the Secret is made from now, consumers that were restarted."""

    bound: bool
    changed: bool = False
    version_ids: frozenset[str] = frozenset()
    restarted: tuple[WorkloadRef, ...] = field(default=())
