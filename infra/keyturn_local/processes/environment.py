"""The environment of child processes: import roots, no AWS of the user's own, no proxy to loopback."""

import os

from keyturn_local.paths import ROOT

IMPORT_ROOTS = os.pathsep.join(str(ROOT / name) for name in ("lambda", "receiver", "infra"))


def bypass_proxies() -> None:
    """Add loopback to NO_PROXY, for this process and all that it starts.

    Both spellings, since programs disagree on which counts.
    """
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))


def clean_environment() -> dict[str, str]:
    """This process's environment without the user's own AWS, and without settings meant for a real Keyturn."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTURN_"))}
