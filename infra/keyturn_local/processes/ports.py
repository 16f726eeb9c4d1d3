"""Free ports on the loopback address."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

# The ports FIRST to LAST are below the ports that Linux and macOS give to outgoing connections. So an outgoing
# connection never takes one of them before the server that should listen there starts. The ports of NodePort Services
# are above them, too.
FIRST, LAST = 15000, 29999


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports on which no server listens.

    If this function has recently returned a port to a process of this user, it does not return this port again.
    """
    taken = Path(tempfile.gettempdir()) / f"keyturn-ports-{os.getuid()}"
    with taken.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or FIRST)
        ports: list[int] = []
        for _ in range(LAST - FIRST):
            last = last + 1 if last < LAST else FIRST
            if _is_free(last):
                ports.append(last)
            if len(ports) == count:
                file.truncate(0)
                file.write(str(last))
                return ports
    raise OSError(f"no free ports between {FIRST} and {LAST}: stop some of the servers that listen there")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
