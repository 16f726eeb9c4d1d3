"""Preflight check for a real node. It finds out whether a node can run on this machine, and fills the caches that
programs in an enclosure need.

If no node can run, ``python -m keyturn_local.node.preflight`` prints the reason in one line, and exits with an error.
This module uses only the standard library.
"""

import os
import subprocess
import sys

from keyturn_local.node import enclosure, images, programs
from keyturn_local.paths import INFRA
from keyturn_local.toolchain import helm, lambda_packages


def preflight() -> str:
    """Check the machine, and fill the caches. Return an empty text, or the reason in one line why no real node can run
    here."""
    if sys.platform != "linux" or os.geteuid():
        return "no real node here: it takes root on Linux"
    if error := _enclosure_error():
        return f"no real node here: {error}"
    try:
        programs.resolve()
        images.resolve()
        helm.resolve()
        lambda_packages.resolve()
    except (programs.NotFound, images.NotFound, helm.NotFound, lambda_packages.NotFound) as error:
        return f"no real node here: {' '.join(str(error).split())}"
    return ""


def _enclosure_error() -> str:
    if enclosure.MARK in os.environ:
        return ""
    environment = {**os.environ, "PYTHONPATH": str(INFRA)}
    command = [sys.executable, "-m", enclosure.__name__, "true"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return (result.stderr.strip().splitlines() or ["no enclosure"])[-1] if result.returncode else ""


if __name__ == "__main__":
    if reason := preflight():
        print(reason)
        sys.exit(1)
