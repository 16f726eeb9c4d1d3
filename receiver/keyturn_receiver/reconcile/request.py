"""Requests for reconciles, and the results of reconciles."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.errors import KeyturnError

MAX_EVENT_IDS = 10  # at most this many event ids in one request; they are only for people


class Cause(StrEnum):
    """The cause of a reconcile. The causes are in order of priority, the most urgent first."""

    NOTIFICATION = "notification"
    NEW = "new"  # the Secret was never filled
    # The Secret, its binding or the policy of its namespace was edited, or the cause of an error may be gone.
    DRIFT = "drift"
    CONSUMER = "consumer"  # a consumer has not been restarted since its keys changed
    POLL = "poll"


PRIORITIES = tuple(Cause)
_NAMING = frozenset({Cause.NOTIFICATION, Cause.POLL})  # the causes that name the AWS secrets which may have changed


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """A request to reconcile a binding because of ``causes``.

    ``since`` is the time, in monotonic seconds, at which the last cause became known. A value that was read earlier
    must not be used. ``expected`` has the ids of the versions that have the staging label according to the causes.
    ``event_ids`` are the ids of EventBridge events. ``unversioned`` is true if one of the notifications names no
    version. ``moved_at`` maps a version id to the time at which the staging label moved to that version, in seconds
    since 1970 by AWS's clock. It leaves out versions whose time is not known.

    ``about`` and ``awaited`` are empty if the Secret is made from a single AWS secret. Otherwise ``about`` has the AWS
    secrets that notifications or the poller name, with the version ids that are expected of each. ``awaited`` has the
    AWS secrets for which a delivery waits. ``next_is_awaited`` returns whether a delivery waits for the next reconcile
    of this binding. Two requests for the same binding merge into one request that serves both.
    """

    causes: frozenset[Cause]
    since: float
    expected: frozenset[str] = frozenset()
    event_ids: tuple[str, ...] = ()
    unversioned: bool = False
    about: Mapping[Source, frozenset[str]] = field(default_factory=dict)
    awaited: frozenset[Source] = frozenset()
    moved_at: Mapping[str, int] = field(default_factory=dict)
    next_is_awaited: Callable[[], bool] = field(default=_never, compare=False, repr=False)

    @classmethod
    def now(
        cls,
        cause: Cause,
        expected: Iterable[str] = (),
        event_id: str = "",
        about: Iterable[Source] = (),
        moved_at: int | None = None,
    ) -> "Request":
        """Return a request for one cause that has become known just now. ``moved_at`` is the time at which the staging
        label moved to the expected version, or None if the time is not known."""
        versions = frozenset(expected)
        event_ids = (event_id,) if event_id else ()
        moved = {} if moved_at is None else dict.fromkeys(versions, moved_at)
        about_each = dict.fromkeys(about, versions)
        return cls(frozenset({cause}), time.monotonic(), versions, event_ids, about=about_each, moved_at=moved)

    @property
    def priority(self) -> Cause:
        """The most urgent cause, which decides when the request is served."""
        return min(self.causes, key=PRIORITIES.index)

    @property
    def confined_to(self) -> frozenset[Source]:
        """The AWS secrets that may have changed, if the Secret is made from several.

        The set is empty if anything else may have changed, too.
        """
        return frozenset(self.about if self.causes <= _NAMING else ())

    @property
    def _names_none(self) -> bool:
        return not self.about and not self.causes.isdisjoint(_NAMING)

    def __or__(self, other: "Request") -> "Request":
        event_ids = dict.fromkeys((*self.event_ids, *other.event_ids))
        return Request(
            self.causes | other.causes,
            max(self.since, other.since),
            self.expected | other.expected,
            tuple(event_ids)[:MAX_EVENT_IDS],
            self.unversioned or other.unversioned,
            {} if self._names_none or other._names_none else _union(self.about, other.about),
            self.awaited | other.awaited,
            {**self.moved_at, **other.moved_at},
        )


def _union(
    first: Mapping[Source, frozenset[str]], second: Mapping[Source, frozenset[str]]
) -> Mapping[Source, frozenset[str]]:
    return {each: first.get(each, frozenset()) | second.get(each, frozenset()) for each in {**first, **second}}


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """The result of a reconcile. ``error`` is the error with which it ended, or None.

    ``version_ids`` are the versions that the Secret is now made from. ``restarted`` has the consumers that were
    restarted. ``filled`` is true if the Secret was filled, or needed no change. A binding can name several AWS secrets.
    ``met`` has the AWS secrets that the error does not concern. Every key that depends on them was filled.
    ``unavailable`` has the AWS secrets that could not be read now, although a retry may read them. Both sets are empty
    unless the fill failed and the restarts did not. ``partial`` is true if some keys were changed, and the error
    prevented the change of others. If no retry can help until the Secret changes, ``terminal_version`` is the resource
    version of the Secret. Otherwise it is empty.
    """

    bound: bool
    changed: bool = False
    version_ids: frozenset[str] = frozenset()
    restarted: tuple[WorkloadRef, ...] = ()
    error: KeyturnError | None = None
    filled: bool = False
    terminal_version: str = ""
    met: frozenset[Source] = frozenset()
    unavailable: frozenset[Source] = frozenset()
    partial: bool = False

    @property
    def outcome(self) -> str:
        """The outcome as the label value of ``keyturn_reconciles_total``."""
        if self.error:
            return self.error.reason
        return "applied" if self.changed else "unchanged" if self.bound else "not_bound"


NOT_BOUND = ReconcileResult(bound=False)
