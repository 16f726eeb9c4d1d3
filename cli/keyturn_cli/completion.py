"""Shell completion of names: bound Secrets, and the AWS secrets that they are made from.

A completion runs while a person types, so it has a time limit. It prints nothing but names. After an error, it prints
nothing. It reads the metadata of Secrets, with the rights of the caller.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer

from keyturn_cli.cluster import Cluster
from keyturn_cli.errors import Forbidden
from keyturn_cli.secret_rows import Row, list_rows
from keyturn_receiver.core.arn import candidate_names

SECONDS, MAX_SECONDS = 2.0, 60.0
TIME_LIMIT = "KEYTURN_COMPLETION_SECONDS"  # environment variable with another limit in seconds, for slow credentials
# Tenants write the names of AWS secrets, and the shell inserts a completed name into the command line unchanged. So a
# name is completed only if no shell gives a meaning to one of its characters, and if it cannot be an option.
_PLAIN = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9/_+=.@-]*")


def complete_secrets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the bound Secrets that begin with ``incomplete``: NS/NAME, or NAME after ``--namespace``."""
    return _complete(ctx.params, incomplete, lambda row: [_name(ctx.params, row)])


def complete_subjects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the bound Secrets and the names of AWS secrets that begin with ``incomplete``. After ``--aws``, return
    only names of AWS secrets."""
    if ctx.params.get("aws"):
        return complete_secret_ids(ctx, incomplete)
    return _complete(ctx.params, incomplete, lambda row: [_name(ctx.params, row), *_names(row)])


# The argument of the commands about an AWS secret or one Secret.
SecretSubject = Annotated[
    str,
    typer.Argument(metavar="SECRET-ID|NS/NAME", help="An AWS secret, or one Secret.", autocompletion=complete_subjects),
]


def complete_secret_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of AWS secrets that begin with ``incomplete``. If a binding has an ARN, the name inside the ARN
    is not suggested, because the secret may be in another account or region."""
    return _complete(ctx.params, incomplete, lambda row: row.secret_ids)


def _name(params: dict[str, Any], row: Row) -> str:
    return row.target.name if params.get("namespace") else str(row.target)


def _names(row: Row) -> Iterator[str]:
    for secret_id in row.secret_ids:
        yield candidate_names(secret_id)[-1]  # the name only: a shell may split an ARN at its colons


def _complete(params: dict[str, Any], incomplete: str, names_of: Callable[[Row], Any]) -> list[str]:
    """Return the names that begin with ``incomplete``. If the names are not known within the time limit, return no
    names."""
    listed: list[set[str]] = []

    def look() -> None:
        with suppress(Exception):  # without a cluster or a right, there are no names
            names = {name for row in _rows(params, incomplete) for name in names_of(row)}
            listed.append({name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)})

    _be_silent()
    thread = threading.Thread(target=look, daemon=True)  # the process can end although a daemon thread runs
    thread.start()
    thread.join(_time_limit())
    return sorted(listed[0]) if listed else []


def _rows(params: dict[str, Any], incomplete: str) -> Iterator[Row]:
    """Yield the rows of the namespace or, without one, of all. If the caller may not list these, yield those of the
    context's namespace and of the namespace that ``incomplete`` begins with."""
    context, namespace = params.get("context"), params.get("namespace")
    if isinstance(context, list | tuple):  # the command takes several contexts, of which the first one counts
        context = context[0] if context else None
    cluster = Cluster.connect(context)
    try:
        yield from list_rows(cluster, namespace)
    except Forbidden:
        begun, slash, _ = incomplete.partition("/")
        for each in () if namespace else dict.fromkeys([cluster.namespace, *([begun] if slash and begun else [])]):
            with suppress(Forbidden):
                yield from list_rows(cluster, each)


def _time_limit() -> float:
    with suppress(KeyError, ValueError):
        if 0 < (limit := float(os.environ[TIME_LIMIT])) <= MAX_SECONDS:
            return limit
    return SECONDS


def _be_silent() -> None:
    """Detach stdin and stderr from the terminal, because the person goes on typing. A library may log to the terminal,
    and the exec plugin of a kubeconfig may ask for a password."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 2)
