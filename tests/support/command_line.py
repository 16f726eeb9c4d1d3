"""Checks the commands of the CLI in the texts of pages, alerts and the dashboard."""

import typer

from keyturn_cli.main import app


def known_options(name: str) -> set[str] | None:
    """Return the options of a command, or None if there is no such command."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    if name not in commands:
        return None
    return {option for parameter in commands[name].params for option in parameter.opts}


def unknown_words(command: str) -> list[str]:
    """Return the words of a command such as `keyturn status --failing` that the CLI does not know."""
    program, name, *more = command.split()
    options = known_options(name)
    if program != "keyturn" or options is None:
        return [f"{program} {name}"]
    return [word for word in more if word.startswith("-") and word.partition("=")[0] not in options]
