"""Completion for `kubectl keyturn`."""

from keyturn_cli.kubectl_completion import suggestions
from keyturn_local.docs.cli_help import commands


def test_first_word_is_a_command() -> None:
    assert suggestions([""]) == sorted(commands())
    assert suggestions(["sta"]) == ["status"]


def test_options_follow_a_command() -> None:
    assert suggestions(["status", "--fail"]) == ["--failing"]
    assert "--context" in suggestions(["status", "-o", "json", "--"])
    assert suggestions(["status", ""]) == []


def test_unknown_command_gives_nothing() -> None:
    assert suggestions(["nothing", "--"]) == []
