"""Logs: one JSON object per line, on standard output."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default={})  # noqa: B039 - never mutated


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add fields to every line that is logged within the body of the ``with`` statement.

    Lines with the same id in ``event_ids`` belong to the same AWS event.
    """
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class RepeatedWarnings:
    """Log of warnings. A repeated warning is logged at most once per ``interval`` seconds. ``now`` returns monotonic
    seconds."""

    def __init__(
        self, logger: logging.Logger, interval: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._now = now
        self._last: dict[str, tuple[str, float]] = {}  # by subject: the last message, and when it was logged

    def warning(self, subject: str, message: str, with_error: bool = False) -> None:
        """Log a warning about ``subject``, unless the same message was logged less than ``interval`` seconds ago.
        ``with_error`` adds the error that is being handled."""
        last, at = self._last.get(subject, ("", 0.0))
        if message != last or self._now() - at >= self._interval:
            self._last[subject] = message, self._now()
            self._logger.warning("%s", message, exc_info=with_error)

    def over(self, subject: str) -> None:
        """Record that the problem with ``subject`` is over. The next warning about it is then logged at once."""
        self._last.pop(subject, None)


class JsonFormatter(logging.Formatter):
    """Formatter that writes a log record as JSON: time, level, logger, message and further fields.

    The further fields are those of ``log_context``, those passed as ``extra={"fields": {...}}``, and the type and the
    frames of an error.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line.update(fields)
        if record.exc_info and record.exc_info[1]:
            error = _first(record.exc_info[1])
            line["error"] = type(error).__name__
            line["traceback"] = _frames(error)
        return json.dumps(line, default=str)


def _first(error: BaseException) -> BaseException:
    # The text of an exception group says little, so its first error is logged instead.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _frames(error: BaseException) -> list[str]:
    # Only the frames are logged. The text of an exception may quote its input, which may be a secret value.
    frames: list[str] = []
    traceback = error.__traceback__
    while traceback:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames


def log_unhandled(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log an error that no code has caught. The event loop calls this function as its exception handler.

    asyncio's own handler would print the text of the error and the arguments of the task, which may be secret values.
    """
    logging.getLogger(__name__).error("unhandled error", exc_info=context.get("exception"))


def configure_logging(level: str) -> None:
    """Send all logs to standard output as JSON lines. Libraries log at WARNING or above. The receiver logs at ``level``
    or above."""
    # Do not collect the caller, the thread and the process, because the formatter does not use them.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("keyturn_receiver").setLevel(level)
    # The SDK logs a traceback for each failed renewal of credentials. The receiver itself logs the reason of the
    # failure.
    logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)
    # uvicorn logs a warning for each malformed request. A client that sends many of them must not flood the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
