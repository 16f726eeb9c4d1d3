"""Fault barrier between the engine and the recorder of the status page."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from keyturn_receiver.telemetry.logs import RepeatedWarnings

FAILED = "the status page has not recorded a change, because of an error in its own code: report it with this line"

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class FaultBarrier:
    """Fault barrier. An error in the recorder is logged. It fails no reconcile and no delivery."""

    def __init__(self) -> None:
        self._warnings = RepeatedWarnings(_log)

    def call(self, part: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call ``part``. Return what it returns, or None if it raises an error, which is logged once a minute."""
        try:
            return part(*args, **kwargs)
        except Exception:
            self._warnings.warning(part.__qualname__, FAILED, with_error=True)
            return None

    def guarded(self, part: Callable[P, object]) -> Callable[P, None]:
        """Return ``part`` as a handler that raises no error."""

        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            self.call(part, *args, **kwargs)

        return run
