"""Errors of credentials. If an exec plugin fails, the official client only logs the error, and then sends requests
without credentials. This module raises an error instead."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from keyturn_cli.errors import CliError, Unreachable


@contextmanager
def credentials_errors(context: str) -> Iterator[None]:
    """Context manager that raises Unreachable for errors that the official client raises or logs."""
    told: list[str] = []

    class _Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = _Told(logging.ERROR)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except CliError:
        raise
    except Exception as error:  # the loader raises errors of any kind for an invalid kubeconfig
        told.append(str(error) if type(error).__name__ == "ConfigException" else type(error).__name__)
    finally:
        root.removeHandler(handler)
    if told:
        raise Unreachable(
            f"the credentials of context {context} cannot be had: {'; '.join(told)}",
            f"try kubectl --context {context} auth whoami",
        )
