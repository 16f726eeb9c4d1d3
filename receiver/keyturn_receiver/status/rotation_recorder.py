"""Decorators of the engine's parts. They report the work of these parts to the log of rotations.

They decorate the handler of notifications, the function that reconciles, and the spans of the legs. No part depends on
the log.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from keyturn_contract.message import EventType, Notification, Result
from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.request import ReconcileResult, Request
from keyturn_receiver.status.fault_barrier import FaultBarrier
from keyturn_receiver.status.rotation_log import RotationLog
from keyturn_receiver.telemetry.tracing import Span

Reconcile = Callable[[Target, Request], Awaitable[ReconcileResult]]


class Handler(Protocol):
    """A handler of notifications (``web/notification_handler.py``)."""

    async def handle(
        self, notification: Notification, deadline: Callable[[], float], keeps_running: Callable[[], bool] = ...
    ) -> Result: ...


Legs = dict[str, float]  # the time at which each leg of a reconcile last ended

_legs: ContextVar[Legs | None] = ContextVar("legs", default=None)  # the times of the reconcile that runs in this task


class RotationRecorder:
    """Factory of the decorators. An error in the log does not make a reconcile or a delivery fail
    (``FaultBarrier``)."""

    def __init__(self, log: RotationLog) -> None:
        self._log = log
        self._barrier = FaultBarrier()

    def handling(self, handler: Handler) -> Handler:
        """Return a handler that also records each delivered notification in the log, except heartbeats."""
        return _RecordingHandler(self._log, handler, self._barrier)

    def recorded(self, reconcile: Reconcile) -> Reconcile:
        """Decorate a reconcile function, so that the log also gets its results."""
        log, call = self._log, self._barrier.call

        async def run(target: Target, request: Request) -> ReconcileResult:
            call(log.begun, target, request)
            legs: Legs = {}
            changed = False
            token = _legs.set(legs)
            call(log.writes.begin, target)
            try:
                result = await reconcile(target, request)
                changed = result.changed
            finally:
                call(log.writes.finish, target, changed)
                _legs.reset(token)
            call(log.finished, target, request, result, legs)
            return result

        return run

    def traced(self, span: Span) -> Span:
        """Decorate a function that opens spans, so that the log also gets the end of each leg of a reconcile."""

        def open_span(name: str, event_ids: Sequence[str] = (), **attributes: str) -> AbstractContextManager[Any]:
            opened, legs = span(name, event_ids, **attributes), _legs.get()
            return opened if legs is None else self._timed(opened, legs, name)

        return open_span

    @contextmanager
    def _timed(self, opened: AbstractContextManager[Any], legs: Legs, name: str) -> Iterator[Any]:
        with opened as span:
            yield span
        self._barrier.call(self._end_leg, legs, name)

    def _end_leg(self, legs: Legs, name: str) -> None:
        legs[name] = self._log.wall()


class _RecordingHandler:
    """Decorator of a handler of notifications. It reports each notification and its answer to the log, except
    heartbeats."""

    def __init__(self, log: RotationLog, handler: Handler, barrier: FaultBarrier) -> None:
        self._log = log
        self._handler = handler
        self._barrier = barrier

    async def handle(
        self,
        notification: Notification,
        deadline: Callable[[], float],
        keeps_running: Callable[[], bool] = lambda: True,
    ) -> Result:
        if notification.type is EventType.HEARTBEAT:
            return await self._handler.handle(notification, deadline, keeps_running)
        self._barrier.call(self._log.arrived, notification)
        result: Result | None = None
        try:
            result = await self._handler.handle(notification, deadline, keeps_running)
        finally:
            self._barrier.call(self._log.answered, notification, result)
        return result
