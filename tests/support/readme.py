"""The section "On EKS" of the README: its commands, the output that it shows, and the files that it names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("\n## On EKS\n")[2].partition("\n## ")[0]
SIGNING_KEY = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:keyturn-AbCdEf"


@dataclass(frozen=True)
class Step:
    """A command, and the lines of output that the README shows for it."""

    command: str
    prints: tuple[str, ...]


def steps() -> list[Step]:
    """Return the commands in order. A command that spans several lines is joined into one."""
    (block,) = _blocks("")
    found = []
    for text in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, prints = text.partition("\n")
        found.append(Step(re.sub(r" {2,}", " ", command), tuple(filter(None, prints.splitlines()))))
    return found


def step(beginning: str) -> Step:
    """Return the one command that starts with ``beginning``."""
    (found,) = (each for each in steps() if each.command.startswith(beginning))
    return found


def files() -> dict[str, Any]:
    """Return the two files that the commands use."""
    values, binding = _blocks("yaml")
    read = yaml.safe_load
    return {"keyturn.yaml": read(values.replace("<SigningKeySecretId>", SIGNING_KEY)), "db.yaml": read(binding)}


def _blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return [text for named, text in found if named == language]
