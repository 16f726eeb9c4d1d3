"""Tells whether a real node can run on this machine, and gets what it takes.

``python -m keyturn_local.node.preflight`` prints the obstacle in one line, and fails, if there is one. Standard library
alone.
"""

import os
import subprocess
import sys

from keyturn_local.node import enclosure, images, programs
from keyturn_local.paths import INFRA


def preflight() -> str:
    """Why no real node can run here, in one line; empty when one can, and then all it takes is in the cache."""
    if sys.platform != "linux" or os.geteuid():
        return "no real node here: it takes root on Linux"
    if complaint := _no_enclosure():
        return f"no real node here: {complaint}"
    try:
        programs.resolve()
        images.resolve()
    except (programs.NotFound, images.NotFound) as error:
        return f"no real node here: {' '.join(str(error).split())}"
    return ""


def _no_enclosure() -> str:
    if enclosure.MARK in os.environ:
        return ""
    environment = {**os.environ, "PYTHONPATH": str(INFRA)}
    command = [sys.executable, "-m", enclosure.__name__, "true"]
    tried = subprocess.run(command, env=environment, capture_output=True, text=True)
    return (tried.stderr.strip().splitlines() or ["no enclosure"])[-1] if tried.returncode else ""


if __name__ == "__main__":
    if found := preflight():
        print(found)
        sys.exit(1)
