"""Commands that the command line advises: they have the target of the command that advises them."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from keyturn_cli.advice import NOTHING_CHOSEN, Chosen, advised, chosen, running
from keyturn_cli.commands.doctor import doctor
from keyturn_cli.commands.wait import wait
from keyturn_cli.main import app
from keyturn_receiver.core.binding import Target
from support.command_line import unknown_words
from support.project_files import ROOT

EVERYTHING = Chosen(
    {
        "namespace": ("shop",),
        "context": ("blue",),
        "release": ("ops/blue",),
        "stack": ("keyturn-blue",),
        "log_group": ("/receipts",),
    }
)
SOURCES = sorted((ROOT / "cli" / "keyturn_cli").rglob("*.py"))
COMMANDS = [str(each.callback.__name__) for each in app.registered_commands if each.callback]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trace", "db"), "keyturn trace db -n shop --context blue --release ops/blue"),
        (
            ("trace", "db", "--aws"),
            "keyturn trace db --aws -n shop --context blue --release ops/blue --log-group /receipts",
        ),
        (("trace", Target("pay", "db")), "keyturn trace pay/db --context blue --release ops/blue"),
        (("status",), "keyturn status -n shop --context blue"),
        (("status", "-A", "--failing"), "keyturn status -A --failing --context blue"),
        (("doctor",), "keyturn doctor --context blue --release ops/blue"),
        (("doctor", "--aws"), "keyturn doctor --aws --context blue --release ops/blue --stack keyturn-blue"),
        (("redeliver", "--list"), "keyturn redeliver --list --stack keyturn-blue"),
    ],
)
def test_advised_command_has_the_options_that_it_takes(words: tuple[str, ...], told: str) -> None:
    assert EVERYTHING.command(*words) == told
    assert unknown_words(told) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_can_be_advised(name: str) -> None:
    assert unknown_words(EVERYTHING.command(name, "--aws" if name == "doctor" else "x")) == []


def test_stack_that_nobody_has_named_is_a_placeholder_or_the_known_one() -> None:
    assert NOTHING_CHOSEN.command("doctor", "--aws", or_stack="NAME") == "keyturn doctor --aws --stack NAME"
    assert EVERYTHING.command("doctor", "--aws", or_stack="NAME").endswith(" --stack keyturn-blue")


def test_one_of_several_contexts_is_named() -> None:
    several = Chosen({"context": ("blue", "green")})
    assert several.command("trace", "db", context="green") == "keyturn trace db --context green"
    assert several.command("wait", "db") == "keyturn wait db --context blue --context green"
    assert NOTHING_CHOSEN.command("trace", "db", context="green") == "keyturn trace db"  # it is the current one
    assert several.kubectl("get pods") == "kubectl get pods"
    assert EVERYTHING.kubectl("get pods") == "kubectl --context blue get pods"


def test_odd_name_is_quoted() -> None:
    words = shlex.split(Chosen({"context": ("my cluster; ls",)}).command("trace", "$(ls)"))
    assert words == ["keyturn", "trace", "$(ls)", "--context", "my cluster; ls"]


def test_options_of_the_command_that_runs_are_those_that_differ_from_the_defaults() -> None:
    arguments = {"subject": "db", "namespace": "shop", "context": ["blue"], "release": "keyturn/keyturn"}
    with running(wait, arguments):
        assert advised("trace", "db") == "keyturn trace db -n shop --context blue"
        assert chosen().takes_namespace
    with running(doctor, {"stack": "keyturn", "context": None}):
        assert advised("doctor", "--aws") == "keyturn doctor --aws"
        assert not chosen().takes_namespace
    assert advised("trace", "db") == "keyturn trace db"


@pytest.mark.parametrize("source", SOURCES, ids=lambda each: each.name)
def test_no_message_names_a_command_by_itself(source: Path) -> None:
    """``advice`` makes each command that a message advises."""
    tree = ast.parse(source.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {ast.get_docstring(each, clean=False) for each in ast.walk(tree) if isinstance(each, documented)}
    texts = {each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    named = re.compile(rf"\bkeyturn ({'|'.join(COMMANDS)})\b")
    assert [text for text in texts - docstrings if named.search(text)] == []
