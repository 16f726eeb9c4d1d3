"""Runs the CLI as people do: as a program of its own, with a kubeconfig."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from support.project_files import ROOT


@dataclass(frozen=True)
class Ran:
    """How a program ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> object:
        """What `-o json` wrote, decoded."""
        return msgspec.json.decode(self.out)


def environment(kubeconfig: Path | None, **variables: str) -> dict[str, str]:
    """Return the environment for the CLI. If ``kubeconfig`` is None, the CLI finds no kubeconfig at all."""
    roots = os.pathsep.join(str(ROOT / each) for each in ("cli", "receiver", "lambda"))
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": roots}
    return {**own, "HOME": "/proc/no-home", "KUBECONFIG": str(kubeconfig or ""), "TERM": "xterm", **variables}


def command(*arguments: str) -> list[str]:
    """Return the command that starts the CLI with these arguments."""
    return [sys.executable, "-m", "keyturn_cli", *arguments]


def run(kubeconfig: Path | None, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 60) -> Ran:
    """Run a command of the CLI to its end. Fail if it prints a traceback."""
    ended = subprocess.run(
        command(*arguments),
        env=environment(kubeconfig, **(env or {})),
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return Ran(ended.returncode, ended.stdout, ended.stderr)
