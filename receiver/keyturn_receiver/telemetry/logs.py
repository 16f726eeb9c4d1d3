"""Logs: one JSON object a line, on standard output."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_about: ContextVar[Mapping[str, object]] = ContextVar("about", default={})  # noqa: B039 - never written to


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Put these fields on every line that is logged within: ``event_ids`` join what belongs to one event in AWS."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, the fields of ``about``, and those given as ``extra={"fields": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_about.get(),
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
    # Of a group, which says nothing itself, what happened first.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _frames(error: BaseException) -> list[str]:
    # The frames alone: an exception's own text may quote what it stumbled over, a secret value for one.
    frames: list[str] = []
    traceback = error.__traceback__
    while traceback:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames


def unforeseen(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log what nobody has caught: asyncio's own words would quote the error's text, and what was worked on."""
    error = context.get("exception")
    logging.getLogger(__name__).error("an error that nobody has caught", exc_info=error)


def configure_logging(level: str) -> None:
    """Send all logs to standard output as JSON lines; libraries speak from WARNING on."""
    # What no line shows need not be found out: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("keyturn_receiver").setLevel(level)
    # It warns of each request that is none: whoever sends many of them shall not flood the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
