"""The commands that docs/aws.md prints, with a stack's outputs in place of the placeholders."""

import re
import subprocess
from pathlib import Path

from keyturn_local.aws.emulator.sam import Deployment

PAGE = (Path(__file__).parents[2] / "docs" / "aws.md").read_text()


def command(beginning: str, deployment: Deployment) -> str:
    """Return the page's one command that starts with ``beginning``. Each ``<Output>`` in it is replaced by that output
    of the stack."""
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(aws [^`]+)`", PAGE.replace("\n", " "))
    (found,) = {line for line in [*lines, *inline] if line.startswith(beginning)}
    return re.sub(r"<(\w+)>", lambda match: deployment.outputs[match[1]], found)


def run(beginning: str, deployment: Deployment) -> str:
    """Run the page's one command that starts with ``beginning``, as a user does. Return what it prints."""
    done = subprocess.run(
        ["sh", "-c", command(beginning, deployment)],  # noqa: S607 - the user's own shell
        env=deployment.emulator.tool_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
