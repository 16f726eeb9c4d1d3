"""From one verified notification to its result: reconcile every binding it may concern, and say what came of it."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from keyturn_contract.message import EventType, Notification, Outcome, Result
from keyturn_receiver.cluster.bound_secrets import BoundSecrets
from keyturn_receiver.core.binding import CURRENT, VERSION_STAGE, Target
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
        expected = [self._expected(target, notification) for target in targets]
        endings = await asyncio.gather(*map(partial(self._reconcile, deadline=deadline), targets, expected))
        return _result(notification.id, [*zip(targets, expected, endings, strict=True)])

    def _expected(self, target: Target, notification: Notification) -> frozenset[str]:
        """The version that the Secret should be made from: none, if the notification is about another label."""
        bound = self._bound.get(target)
        stage = bound.annotations.get(VERSION_STAGE, CURRENT) if bound else CURRENT
        told = notification.data
        concerns = notification.type is EventType.CHANGED and told.label in (None, stage)
        return frozenset({told.version_id} if concerns and told.version_id else ())

    async def _reconcile(self, target: Target, expected: frozenset[str], deadline: float) -> _Ending:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._queue.submit(target, because(Cause.NOTIFICATION, expected))
        except (KeyturnError, TimeoutError) as error:
            return error


def _result(notification_id: str, ends: Sequence[tuple[Target, frozenset[str], _Ending]]) -> Result:
    done = [(target, expected, ending) for target, expected, ending in ends if isinstance(ending, Reconciled)]
    faults = [(target, ending) for target, _, ending in ends if not isinstance(ending, Reconciled)]
    secrets = tuple(str(target) for target, _, ending in done if ending.changed)
    consumers = tuple(str(ref) for _, _, ending in done for ref in ending.restarted)
    reason = "; ".join(f"{target}: {_why(fault)}" for target, fault in faults)[:1000] or None
    if any(not isinstance(fault, Permanent) for _, fault in faults):
        outcome = Outcome.FAILED
    elif secrets or consumers:
        outcome = Outcome.APPLIED
    elif faults:
        # Sending it again would change nothing: the Secret's Event tells its owner, whose correction is seen by itself.
        outcome = Outcome.IGNORED
    elif not any(ending.bound for _, _, ending in done):
        outcome, reason = Outcome.IGNORED, "no Secret is bound to it any more"
    elif all(expected - ending.version_ids for _, expected, ending in done):
        outcome = Outcome.SUPERSEDED
    else:
        outcome = Outcome.UNCHANGED
    return Result(notification_id, outcome, secrets, consumers, reason)


def _why(fault: _Ending) -> str:
    return "not done within the deadline" if isinstance(fault, TimeoutError) else str(fault)
