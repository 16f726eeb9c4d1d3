"""Completion for `kubectl keyturn`. tests/integration/test_cli_names.py tests the completion of names."""

import os
import sys

import pytest

from keyturn_cli.kubectl_completion import main
from keyturn_local.docs.cli_help import commands


@pytest.fixture(autouse=True)
def no_changed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "KUBECONFIG": "/nonexistent"})


def suggestions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-keyturn", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    *lines, directive = capsys.readouterr().out.splitlines()
    assert directive == ":4"
    return [line for line in lines if line]  # kubectl leaves out empty lines, too


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], commands()),
        ([""], commands()),
        (["sta"], ["status"]),
        (["status", "--fail"], ["--failing"]),
        (["status", "-n", "shop", "--fail"], ["--failing"]),
        (["status", "-o", ""], ["table", "json", "yaml"]),
        (["rotate", "--wait", "--re"], ["--release"]),
        (["explain", "a b", "it's", ""], []),
        (["status", "shop/db", ""], []),
    ],
)
def test_words_are_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str]
) -> None:
    assert suggestions(monkeypatch, capsys, *words) == expected
