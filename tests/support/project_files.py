"""The files of the project, without those that an earlier build has left."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def project_files() -> list[str]:
    """Their paths below ROOT: those that git knows, and those that it would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
