"""The environment of the recipe in lambda/Makefile. This module uses only the standard library."""

import os
from collections.abc import Collection

from keyturn_local.paths import ROOT

BIN = ROOT / ".venv-sam" / "bin"  # a folder with uv, so that the recipe does not fetch uv
_OUTER_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def environment(left_out: Collection[str] = ()) -> dict[str, str]:
    """Return this process's environment for the recipe, without the variables ``left_out``.

    The variables of an outer `make` are also left out. The recipe's own `make` would otherwise use them as its flags.
    """
    names = {*_OUTER_MAKE, *left_out}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return {**inherited, "PATH": f"{BIN}{os.pathsep}{inherited['PATH']}"}
