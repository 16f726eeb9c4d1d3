"""From one verified notification to its result: reconcile every binding it may concern, and say what came of it."""

import asyncio
import time
from collections.abc import Sequence

from keyturn_contract.message import EventType, Notification, Outcome, Result
from keyturn_receiver.cluster.index import BoundSecrets
from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import KeyturnError, Permanent
from keyturn_receiver.reconcile.queue import Queue
from keyturn_receiver.reconcile.request import Cause, Reconciled, because

_Ending = Reconciled | KeyturnError | TimeoutError


class Answer:
    """Answers notifications once their work is done."""

    def __init__(self, bound: BoundSecrets, queue: Queue) -> None:
        self._bound = bound
        self._queue = queue

    async def __call__(self, notification: Notification, deadline: float) -> Result:
        """Reconcile what the notification may concern, until ``deadline`` (monotonic seconds)."""
        if notification.type is EventType.HEARTBEAT:
            return Result(notification.id, Outcome.IGNORED, reason="heartbeat")
        targets = self._bound.naming(notification.subject, notification.data.name)
        if not targets:
            return Result(notification.id, Outcome.IGNORED, reason="no Secret is bound to it")
        endings = await asyncio.gather(*(self._reconcile(target, notification, deadline) for target in targets))
        return _result(notification, targets, endings)

    async def _reconcile(self, target: Target, notification: Notification, deadline: float) -> _Ending:
        version_id = notification.data.version_id if notification.type is EventType.CHANGED else None
        request = because(Cause.NOTIFICATION, {version_id} if version_id else ())
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._queue.submit(target, request)
        except (KeyturnError, TimeoutError) as error:
            return error


def _result(notification: Notification, targets: Sequence[Target], endings: Sequence[_Ending]) -> Result:
    done = {target: ending for target, ending in zip(targets, endings, strict=True) if isinstance(ending, Reconciled)}
    touched = tuple(str(target) for target, ending in done.items() if ending.changed)
    consumers = tuple(str(ref) for ending in done.values() for ref in ending.restarted)
    faults = [(target, ending) for target, ending in zip(targets, endings, strict=True) if target not in done]
    reason = "; ".join(f"{target}: {_why(fault)}" for target, fault in faults)[:1000] or None
    if any(not isinstance(fault, Permanent) for _, fault in faults):
        outcome = Outcome.FAILED
    elif touched or consumers:
        outcome = Outcome.APPLIED
    elif faults:
        # Sending it again would change nothing: the Secret's Event tells its owner, whose correction is seen by itself.
        outcome = Outcome.IGNORED
    elif all(not ending.bound for ending in done.values()):
        outcome, reason = Outcome.IGNORED, "no Secret is bound to it any more"
    elif (named := notification.data.version_id) and not any(named in ending.version_ids for ending in done.values()):
        outcome = Outcome.SUPERSEDED
    else:
        outcome = Outcome.UNCHANGED
    return Result(notification.id, outcome, touched, consumers, reason)


def _why(fault: _Ending) -> str:
    return "not done within the deadline" if isinstance(fault, TimeoutError) else str(fault)
