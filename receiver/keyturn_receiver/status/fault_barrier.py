"""Fault barrier. An error in the recorder of the status page does not reach the engine. The engine is the code that
handles deliveries and reconciles."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from keyturn_receiver.telemetry.logs import RepeatedWarnings

FAILED = "the status page has not recorded a change, because of an error in its own code: report it with this line"

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class FaultBarrier:
    """Fault barrier. It logs an error in the recorder. Such an error does not make a reconcile or a delivery fail."""

    def __init__(self) -> None:
        self._warnings = RepeatedWarnings(_log)

    def call(self, part: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call ``part``, and return its result. If ``part`` raises an error, return None. The error is logged at most
        once a minute."""
        try:
            return part(*args, **kwargs)
        except Exception:
            self._warnings.warning(part.__qualname__, FAILED, with_error=True)
            return None

    def guarded(self, part: Callable[P, object]) -> Callable[P, None]:
        """Return a handler that calls ``part`` and raises no error."""

        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            self.call(part, *args, **kwargs)

        return run
