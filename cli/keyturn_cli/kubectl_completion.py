"""Completion for `kubectl keyturn`. kubectl runs the program ``kubectl_complete-keyturn`` with the words of the command
line. The program prints one suggestion per line. The last line is a directive after a colon.

https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/ and ShellCompDirective in github.com/spf13/cobra.
"""

import sys

import typer

from keyturn_cli.main import app

NO_FILES = 4  # ShellCompDirectiveNoFileComp


def suggestions(words: list[str]) -> list[str]:
    """Return the commands or options that may follow. The last of ``words`` is still being typed."""
    group = typer.main.get_group(app)
    *before, begun = words or [""]
    names = [word for word in before if not word.startswith("-")]
    command = group.commands.get(names[0]) if names else None
    if command is None:
        return sorted(name for name in group.commands if name.startswith(begun))
    options = [name for each in command.params for name in each.opts if name.startswith("--")]
    return sorted(name for name in options if begun.startswith("-") and name.startswith(begun))


def main() -> None:
    """Print the suggestions for the words that kubectl gives."""
    for each in suggestions(sys.argv[1:]):
        print(each)
    print(f":{NO_FILES}")
