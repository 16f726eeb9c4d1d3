"""`keyturn rotate`: rotates a secret in AWS, and waits until the new version has arrived."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from keyturn_cli.advice import advised
from keyturn_cli.aws import Aws
from keyturn_cli.aws_rotation import start, wait_for_label
from keyturn_cli.commands.wait import TIMEOUT, Goal, wait_for, watch
from keyturn_cli.completion import complete_secret_ids
from keyturn_cli.errors import ExitCode, UsageError, reported
from keyturn_cli.options import DEFAULT_RELEASE, Contexts, NoColor, OutputFormat, ReleaseName, read_release
from keyturn_cli.output import Format, Output
from keyturn_cli.times import duration, read_duration

SecretId = Annotated[
    str,
    typer.Argument(metavar="SECRET-ID", help="Name or ARN of the AWS secret.", autocompletion=complete_secret_ids),
]
BARE, FULL = "--wait", f"--wait={Goal.APPLIED}"


class RotateCommand(TyperCommand):
    """Command with an option ``--wait`` whose value is optional. Typer has no options with an optional value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default value of ``--wait`` if the value is left out."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [FULL if each == BARE else each for each in args[:end]] + args[end:])


@reported
def rotate(
    secret_id: SecretId,
    until: Annotated[
        Goal | None,
        typer.Option(
            "--wait",
            metavar="[=applied|live]",
            show_default=False,
            help="Wait until the Secrets have the new version, or until the pods run it.",
        ),
    ] = None,
    timeout: TIMEOUT = "5m",
    context: Contexts = None,
    release: ReleaseName = DEFAULT_RELEASE,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Rotate a secret by its rotation function.

    With --wait, it waits for the label in AWS and then as keyturn wait does, in one or several clusters. It takes the
    rights to secretsmanager:RotateSecret and DescribeSecret.
    """
    out = Output(output, no_color)
    seconds = read_duration(timeout)
    if seconds is None:
        raise UsageError(f"--timeout {timeout} is no duration", "write, for example, 90s, 5m or 1h")
    chosen = read_release(release)
    contexts: Sequence[str | None] = context or [None]
    # ``watch`` makes its checks before the rotation starts. A Secret that is itself called ``secret_id`` (NS/NAME) does
    # not count.
    watched = watch(secret_id, until, contexts, None, chosen, of_aws=True) if until else []
    aws = Aws()
    rotation = start(aws, secret_id)
    if until is None:
        follow = advised("wait", rotation.name, "--version", rotation.version_id)
        if out.is_data:
            out.data({"secret": rotation.name, "version": rotation.version_id})
        else:
            out.line(f"rotation of {rotation.name} has begun, version {rotation.version_id}; wait for it: {follow}")
        return ExitCode.FINE
    started = time.monotonic()
    moved = wait_for_label(aws, rotation, seconds)
    if not out.is_data:
        out.line(f"AWSCURRENT of {rotation.name} is on version {rotation.version_id[:8]} ({duration(moved)})")
    left = max(1.0, seconds - (time.monotonic() - started))
    return wait_for(out, secret_id, rotation.version_id, until, left, watched)
