"""Completion for `kubectl keyturn`. kubectl runs the program ``kubectl_complete-keyturn`` with the words of the command
line. The program prints one suggestion per line. The last line is a colon and a directive for kubectl.

https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/ and ShellCompDirective in github.com/spf13/cobra. The
suggestions are the same as for bash. Click reads the words for bash from environment variables
(https://click.palletsprojects.com/en/stable/shell-completion/).
"""

import os
import shlex
import sys

from keyturn_cli.main import app

NO_FILES = 4  # ShellCompDirectiveNoFileComp


def main() -> None:
    """Print the suggestions for the words that kubectl gives. The last word is still being typed."""
    words = sys.argv[1:] or [""]
    os.environ["_KEYTURN_COMPLETE"] = "complete_bash"
    os.environ["COMP_WORDS"] = shlex.join(["keyturn", *words])
    os.environ["COMP_CWORD"] = str(len(words))
    try:
        app(prog_name="keyturn")
    finally:
        print(f":{NO_FILES}")
