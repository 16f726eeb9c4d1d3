"""The command line's entry point: the list of the commands."""

from typing import Annotated

import typer

from keyturn_cli.commands.doctor import doctor
from keyturn_cli.commands.explain import explain
from keyturn_cli.commands.reconcile import reconcile
from keyturn_cli.commands.redeliver import redeliver
from keyturn_cli.commands.rotate import RotateCommand, rotate
from keyturn_cli.commands.send import send
from keyturn_cli.commands.status import status
from keyturn_cli.commands.trace import trace
from keyturn_cli.commands.ui import ui
from keyturn_cli.commands.wait import wait
from keyturn_receiver import __version__

app = typer.Typer(
    name="keyturn",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help fits every terminal, and can be pasted into pages
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(status)
app.command()(explain)
app.command()(trace)
app.command()(wait)
app.command(cls=RotateCommand)(rotate)
app.command()(reconcile)
app.command()(ui)
app.command()(send)
app.command()(redeliver)
app.command()(doctor)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"keyturn {__version__}")
        raise typer.Exit


@app.callback()
def keyturn(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Shows what Keyturn has made of your AWS secrets, predicts what a rotation restarts, and finds what is broken.

    Exit codes: 0 fine, 1 a finding, 2 usage, 3 time-out, 4 a rollout failed.
    """


def main() -> None:
    """Run the command line. The process ends with one of ``errors.ExitCode``."""
    app(prog_name="keyturn")
