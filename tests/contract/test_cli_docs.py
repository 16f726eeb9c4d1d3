"""docs/cli.md, checked against the CLI. Other tests check the page's samples (``support.cli_samples``)."""

import pytest

from keyturn_cli.errors import ExitCode
from keyturn_local.docs import cli_help

PAGE = cli_help.PAGE.read_text()


def test_page_has_the_help_of_each_command() -> None:
    assert cli_help.page() == PAGE, "run `make docs`"
    assert set(cli_help.blocks(PAGE, "help")) == {"keyturn", *cli_help.commands()}


@pytest.mark.parametrize("command", cli_help.commands())
def test_command_has_a_section(command: str) -> None:
    assert f"\n## {command}\n" in PAGE


def test_each_command_has_a_sample() -> None:
    samples = cli_help.blocks(PAGE, "sample")
    assert set(cli_help.commands()) <= samples.keys()
    assert all(text.startswith("$ keyturn ") for text in samples.values())


@pytest.mark.parametrize("command", ["keyturn", *cli_help.commands()])
def test_help_fits_80_columns(command: str) -> None:
    text = cli_help.help_of(command)
    assert text.startswith("Usage: keyturn ")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("code", list(ExitCode))
def test_exit_code_has_a_row(code: ExitCode) -> None:
    assert f"\n| {code} | " in PAGE
