"""Requests for a reconcile, and the result of a reconcile."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.errors import KeyturnError

MAX_EVENT_IDS = 10  # event ids per request; they are for people


class Cause(StrEnum):
    """Why a binding is reconciled, in order of priority."""

    NOTIFICATION = "notification"
    NEW = "new"  # the Secret was never filled
    DRIFT = "drift"  # the Secret, its binding or its namespace's policy was edited, or an error may be over
    CONSUMER = "consumer"  # a consumer has not been restarted since its keys changed
    POLL = "poll"


PRIORITIES = tuple(Cause)


@dataclass(frozen=True, slots=True)
class Request:
    """Request to reconcile a binding because of ``causes``.

    ``since`` is when the last cause became known, in monotonic seconds; a value that was read earlier does not count.
    ``expected`` are the ids of the versions that have the staging label, according to the causes. ``event_ids`` are
    EventBridge's. ``unversioned`` says that one of the notifications names no version. Two requests for the same
    binding merge into one that serves both.
    """

    causes: frozenset[Cause]
    since: float
    expected: frozenset[str] = frozenset()
    event_ids: tuple[str, ...] = ()
    unversioned: bool = False

    @classmethod
    def now(cls, cause: Cause, expected: Iterable[str] = (), event_id: str = "") -> "Request":
        """Make a request for one cause that became known now."""
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
    """Result of a reconcile, with the error that it ended with, if any.

    ``version_ids`` are the versions that the Secret is made from now. ``restarted`` are the consumers that were
    restarted. ``filled`` says that the Secret was filled, or was found to be filled already. ``terminal_version`` is
    the resource version of a Secret that a retry cannot help; it is empty unless ``error`` is permanent.
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
