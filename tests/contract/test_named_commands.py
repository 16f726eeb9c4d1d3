"""The documentation pages and the chart's notes name only commands of the CLI that exist."""

import re
from pathlib import Path

import pytest

from keyturn_local.kubernetes.chart import SOME_KEY, rendered_chart
from support.command_line import unknown_words

ROOT = Path(__file__).parents[2]
OWN_PAGE = "cli.md"  # test_cli_docs.py checks this page
PAGES = [ROOT / "README.md", *(page for page in sorted(ROOT.glob("docs/*.md")) if page.name != OWN_PAGE)]


def commands(text: str) -> list[str]:
    """Return the commands in inline code, and those on lines of their own in code blocks. Comments are left out."""
    inline = re.findall(r"`(keyturn [a-z][^`\n]*)`", text)
    lines = re.findall(r"^ *(?:\$ )?(keyturn [a-z].*)$", "\n".join(blocks(text)), re.MULTILINE)
    return [each.partition(" # ")[0].strip() for each in inline + lines]


def helm_commands(text: str) -> list[str]:
    """Return the commands of Helm that name a release, in inline code and in code blocks, each as one line."""
    joined = text.replace("\\\n", " ")
    inline = re.findall(r"`(helm \w+ [^`\n]*keyturn[^`\n]*)`", joined)
    lines = re.findall(r"^ *(?:\$ )?(helm .*)$", "\n".join(blocks(joined)), re.MULTILINE)
    return inline + lines


def blocks(text: str) -> list[str]:
    return re.findall(r"^ *```\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def notes(namespace: str, release: str) -> str:
    return rendered_chart(namespace, release, SOME_KEY)["keyturn/templates/NOTES.txt"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_commands_and_options_that_exist(page: Path) -> None:
    assert [word for command in commands(page.read_text()) for word in unknown_words(command)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_helm_name_the_namespace_and_forget_no_values(page: Path) -> None:
    for command in helm_commands(page.read_text()):
        assert "--namespace keyturn" in command, command
        # Helm forgets the values of the installation as soon as a command gives any.
        assert "helm upgrade keyturn" not in command or "--reset-then-reuse-values" in command, command


def test_commands_of_helm_are_found() -> None:
    text = "`helm test`, `helm rollback keyturn`\n\n```\n$ helm upgrade keyturn x \\\n  --wait\n```\n"
    assert [" ".join(each.split()) for each in helm_commands(text)] == [
        "helm rollback keyturn",
        "helm upgrade keyturn x --wait",
    ]


def test_readme_answers_the_first_questions() -> None:
    found = commands((ROOT / "README.md").read_text())
    for name in ("trace", "explain", "doctor", "ui", "wait", "rotate"):
        assert any(command.split()[1] == name for command in found), name


def test_commands_are_found_in_inline_code_and_in_blocks() -> None:
    text = "`keyturn a b`, `other c`\n\n```\nkeyturn d    # why\n$ keyturn e -n x\nhelm keyturn f\n```\nkeyturn is g\n"
    assert commands(text) == ["keyturn a b", "keyturn d", "keyturn e -n x"]


@pytest.mark.parametrize(
    ("namespace", "release", "option"),
    [
        ("keyturn", "keyturn", ""),
        ("keyturn", "blue", " --release keyturn/blue"),
        ("ops", "keyturn", " --release ops/keyturn"),
    ],
)
def test_notes_name_the_release_that_the_command_line_does_not_assume(
    namespace: str, release: str, option: str
) -> None:
    text = notes(namespace, release)
    named = [each.partition(" # ")[0].strip() for each in re.findall(r"^     (keyturn .*)$", text, re.MULTILINE)]
    assert {f"keyturn doctor{option}", f"keyturn explain NAMESPACE/NAME{option}", "keyturn status"} <= set(named)
    assert [unknown_words(each) for each in named] == [[]] * len(named)


def test_notes_say_how_to_get_the_command_line() -> None:
    text = notes("ops", "blue")
    assert "pipx install ." in text
    assert "kubectl exec -n ops deployment/blue-keyturn -- /opt/keyturn/bin/python -m keyturn_cli" in text
