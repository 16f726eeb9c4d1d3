"""Generator of the help texts in docs/cli.md. It also finds the samples of output in this page.

``python -m keyturn_local.docs.cli_help`` writes the help texts. The rest of the page is written by hand. A comment
above a block of code, such as ``<!-- help: status -->``, names the block.
"""

import re

from typer.testing import CliRunner

from keyturn_cli.main import app
from keyturn_local.paths import ROOT

PAGE = ROOT / "docs" / "cli.md"
_BLOCK = re.compile(r"(<!-- (help|sample): ([\w -]+) -->\n\n```\n)(.*?)(```\n)", re.DOTALL)


def commands() -> list[str]:
    """Return the names of all commands, in the order of the help."""
    return [str(each.name or (each.callback.__name__ if each.callback else "")) for each in app.registered_commands]


def help_of(command: str) -> str:
    """Return the output of a command with the option ``--help``, in a terminal of 80 columns."""
    arguments = ["--help"] if command == "keyturn" else [command, "--help"]
    ran = CliRunner().invoke(app, arguments, prog_name="keyturn", env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    return ran.output.replace("\r\n", "\n")


def blocks(page: str, sort: str) -> dict[str, str]:
    """Return the blocks of a page, by name. ``sort`` is "help" or "sample"."""
    return {name: text for _, found, name, text, _ in _BLOCK.findall(page) if found == sort}


def with_blocks(page: str, sort: str, texts: dict[str, str]) -> str:
    """Return a page with ``texts`` in its blocks. A block that is not in ``texts`` stays unchanged."""

    def replaced(block: re.Match[str]) -> str:
        head, found, name, text, end = block.groups()
        return head + (texts.get(name, text) if found == sort else text) + end

    return _BLOCK.sub(replaced, page)


def page() -> str:
    """Return the text of docs/cli.md with the current help of each command."""
    return with_blocks(PAGE.read_text(), "help", {name: help_of(name) for name in ("keyturn", *commands())})


if __name__ == "__main__":
    PAGE.write_text(page())
