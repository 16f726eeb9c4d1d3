"""The environment of child processes: import roots, no AWS of the user's own, no proxy to loopback."""

import os

from keyturn_local.paths import ROOT

IMPORT_ROOTS = os.pathsep.join(str(ROOT / name) for name in ("lambda", "receiver", "infra"))


def bypass_proxies() -> None:
    """Add loopback to NO_PROXY for this process and its children, in both spellings, as programs differ."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def clean_environment() -> dict[str, str]:
    """This process's environment without the user's own settings of AWS and of Keyturn."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTURN_"))}
