"""Errors of the command line. Each error has three parts: a message about the fault, advice about the next step, and
the exit code of the process.

No error quotes a secret value. The text of an error may come from the API server.
"""

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from keyturn_cli.advice import register, running
from keyturn_receiver.core.printable import printable

P = ParamSpec("P")


class ExitCode(IntEnum):
    """Exit codes of the process. Scripts rely on them."""

    FINE = 0
    FINDING = 1  # the command has found a fault, or could not get an answer
    USAGE = 2
    TIMEOUT = 3
    ROLLOUT_FAILED = 4
    INTERRUPTED = 130  # 128 + SIGINT, as in shells
    CLOSED_PIPE = 141  # 128 + SIGPIPE


class CliError(Exception):
    """An error that ends the command. ``advice`` says what to do next. It may be empty."""

    exit_code = ExitCode.FINDING

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice

    def __str__(self) -> str:
        message = printable(str(self.args[0]))
        return f"{message}: {printable(self.advice)}" if self.advice else message


class UsageError(CliError):
    """The arguments of the command are wrong."""

    exit_code = ExitCode.USAGE


class TimedOut(CliError):
    """The command has reached its time limit."""

    exit_code = ExitCode.TIMEOUT


class RolloutFailed(CliError):
    """A rollout that the command waits for has failed."""

    exit_code = ExitCode.ROLLOUT_FAILED


class Unreachable(CliError):
    """The API server cannot be reached or cannot answer now, or there is no usable configuration or credential for
    it."""


class Refused(CliError):
    """The API server refuses a request."""


class Forbidden(Refused):
    """The caller does not have the right that a request needs."""


class NotFound(Refused):
    """The object, or the kind of the object, does not exist."""


def reported(command: Callable[P, ExitCode | None]) -> Callable[P, None]:
    """Decorator for the function of a command. The result of the function becomes the exit code of the process. Each
    error becomes a line on stderr.

    The command ends without a message after Ctrl-C, and when the reader of a pipe, such as `head`, closes the pipe.
    """

    register(command)

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with running(command, kwargs):
                code = command(*args, **kwargs) or ExitCode.FINE
            sys.stdout.flush()
        except CliError as error:
            typer.echo(f"Error: {error}", err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:
            _leave_closed_pipe()
        raise typer.Exit(code)

    return run


def _leave_closed_pipe() -> NoReturn:
    """End the process, and discard the rest of stdout. Python would otherwise flush stdout at its exit, and print a
    second error.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(ExitCode.CLOSED_PIPE)
