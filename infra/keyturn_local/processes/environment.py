"""Parts of the environment of child processes: this repository's import roots, no settings of the user for AWS and
Keyturn, and no proxy for loopback."""

import os

from keyturn_local.paths import ROOT

IMPORT_ROOTS = os.pathsep.join(str(ROOT / name) for name in ("lambda", "receiver", "infra"))


def bypass_proxies() -> None:
    """Add loopback to NO_PROXY and to no_proxy, for this process and its children. Both are set, because some programs
    read only one of them."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the user's own settings for AWS and Keyturn."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTURN_"))}
