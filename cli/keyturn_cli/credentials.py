"""Errors of credentials. The official client writes those of exec plugins to the log alone, and goes on without
credentials."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from keyturn_cli.errors import CliError, Unreachable


@contextmanager
def credentials_errors(context: str) -> Iterator[None]:
    """Turn errors of the official client, and what it writes to the log, into Unreachable."""
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
    except Exception as error:  # the loader raises errors of any kind for a kubeconfig that is wrong
        told.append(str(error) if type(error).__name__ == "ConfigException" else type(error).__name__)
    finally:
        root.removeHandler(handler)
    if told:
        raise Unreachable(
            f"the credentials of context {context} cannot be had: {'; '.join(told)}",
            f"try kubectl --context {context} auth whoami",
        )
