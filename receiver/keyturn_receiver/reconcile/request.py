"""What asks for a reconcile, and what comes of it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.errors import KeyturnError

MAX_EVENT_IDS = 10  # of the events that a request serves; they are for people


class Cause(StrEnum):
    """Why a binding is reconciled, in the order of priority."""

    NOTIFICATION = "notification"
    NEW = "new"  # never filled
    DRIFT = "drift"  # the Secret, its binding or its namespace's policy was edited, or an error may be over
    CONSUMER = "consumer"  # a workload has not been restarted for what the Secret holds
    POLL = "poll"


PRIORITIES = tuple(Cause)


@dataclass(frozen=True, slots=True)
class Request:
    """Reconcile a binding because of ``causes``.

    ``since``: monotonic seconds at which the last cause was known; a value that was read before does not count.
    ``expected``: version ids that the staging label was said to be on. ``event_ids``: those of EventBridge.
    ``unversioned``: one of the notifications names no such version. Two requests for the same binding join into one
    that serves both.
    """

    causes: frozenset[Cause]
    since: float
    expected: frozenset[str] = frozenset()
    event_ids: tuple[str, ...] = ()
    unversioned: bool = False

    @classmethod
    def now(cls, cause: Cause, expected: Iterable[str] = (), event_id: str = "") -> "Request":
        """A request for one cause, as of now."""
        return cls(frozenset({cause}), time.monotonic(), frozenset(expected), (event_id,) if event_id else ())

    @property
    def priority(self) -> Cause:
        """The cause that decides when the request is served."""
        return min(self.causes, key=PRIORITIES.index)

    def __or__(self, other: "Request") -> "Request":
        event_ids = dict.fromkeys((*self.event_ids, *other.event_ids))
        return Request(
            self.causes | other.causes,
            max(self.since, other.since),
            self.expected | other.expected,
            tuple(event_ids)[:MAX_EVENT_IDS],
            self.unversioned or other.unversioned,
        )


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What a reconcile has done, and the error that it ended with, if any.

    ``version_ids``: the versions that the Secret is made from now. ``restarted``: the consumers that were restarted.
    ``filled``: the Secret's content is what AWS and the binding say, as far as this reconcile looked at it.
    ``terminal_version``: the Secret's resource version that only a person can help, where ``error`` is permanent.
    """

    bound: bool
    changed: bool = False
    version_ids: frozenset[str] = frozenset()
    restarted: tuple[WorkloadRef, ...] = ()
    error: KeyturnError | None = None
    filled: bool = False
    terminal_version: str = ""

    @property
    def outcome(self) -> str:
        """The label value of ``keyturn_reconciles_total``."""
        if self.error:
            return self.error.reason
        return "applied" if self.changed else "unchanged" if self.bound else "not_bound"


NOT_BOUND = ReconcileResult(bound=False)
