"""The README's section "On EKS": its commands, and the output that it shows for each of them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("\n## On EKS\n")[2].partition("\n## ")[0]
SIGNING_KEY = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:keyturn-AbCdEf"
LEFT_OUT = "..."  # stands for any text in shown output


@dataclass(frozen=True)
class Step:
    """A command as the README prints it, and the lines of output that the README shows for it."""

    command: str
    prints: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command with its continuation lines joined."""
        return re.sub(r" *\\\n *", " ", self.command)

    def words(self, **variables: str) -> list[str]:
        """Return the words of the command. ``$NAME`` is replaced for each of the variables."""
        return shlex.split(re.sub(r"\$(\w+)", lambda found: variables.get(found[1], found[0]), self.line))


def steps(section: str = SECTION) -> list[Step]:
    """Return the commands in order."""
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    found = []
    for text in (each for block in blocks for each in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]):
        command, prints = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        found.append(Step(command, tuple(filter(None, prints.splitlines()))))
    return found


def step(beginning: str) -> Step:
    """Return the one command that starts with ``beginning``."""
    (found,) = (each for each in steps() if each.command.startswith(beginning))
    return found


def variables() -> dict[str, str]:
    """Return the variables that the first command sets."""
    return dict(word.split("=", 1) for word in step("export CLUSTER").words()[1:])


def unprinted(shown: tuple[str, ...], output: str) -> list[str]:
    """Return the shown lines that are missing in the output, or that come in another order there."""
    lines = iter([line.rstrip() for line in output.splitlines()])
    return [each for each in shown if not any(_is_shown(each, line) for line in lines)]


def _is_shown(shown: str, line: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, shown.split(LEFT_OUT))), line))
