"""What listens on this machine is reached straight, whatever proxy the environment names."""

import os


def bypass_proxies() -> None:
    """Add loopback to NO_PROXY, for this process and all that it starts.

    Both spellings, since programs disagree on which counts.
    """
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))
