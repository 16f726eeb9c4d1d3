"""Port forwarding from this machine's loopback to a pod. kubectl forwards the port. If there is no kubectl, the
official client does it.

The connections end on the pod's loopback. Only port forwarding reaches this loopback from outside the pod. The caller
needs the right to create pods/portforward.
"""

import contextlib
import http.client
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keyturn_cli.errors import CliError

START_SECONDS = 20.0
ADVICE = "ask for the right to create pods/portforward in the release's namespace"
_CHUNK = 65536  # bytes

Dial = Callable[[], Any]
"""Function that opens a connection to the pod's port, and returns the socket. It may raise any kind of error."""


class Forwarder(socketserver.ThreadingTCPServer):
    """TCP server on loopback. For each connection to it, it opens a connection to the pod with ``dial``, and relays
    between the two."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, dial: Dial) -> None:
        self.dial = dial
        super().__init__(("127.0.0.1", port), _Relay)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a broken connection. The client itself notices that the connection has ended."""


class _Relay(socketserver.BaseRequestHandler):
    server: Forwarder

    def handle(self) -> None:
        remote = self.server.dial()
        try:
            back = threading.Thread(target=_copy, args=(remote, self.request), daemon=True)
            back.start()
            _copy(self.request, remote)
            back.join()
        finally:
            remote.close()


def _copy(source: Any, target: Any) -> None:
    """Copy until the source ends. Then shut down the target for writing."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def free_port(preferred: int) -> int:
    """Return ``preferred`` if this port of loopback is free, or else any other free port."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as server:
            return int(server.getsockname()[1])
    raise CliError("no port of this machine's loopback is free")


@contextlib.contextmanager
def by_kubectl(command: Sequence[str], local: int) -> Iterator[Callable[[], None]]:
    """Context manager that runs ``kubectl port-forward``. It yields a function that waits until kubectl ends. Raises
    CliError with kubectl's message."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603 - found on the PATH, without a shell
    try:
        end = time.monotonic() + START_SECONDS
        while not _listens(local):
            if process.poll() is not None or time.monotonic() > end:
                raise CliError(f"kubectl port-forward does not start: {_last_line(process)}", ADVICE)
            time.sleep(0.05)

        def wait() -> None:
            process.wait()
            raise CliError(f"the connection to the pod has ended: {_last_line(process)}", "run keyturn ui again")

        yield wait
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def by_client(dial: Dial, local: int) -> Iterator[Callable[[], None]]:
    """Context manager that relays through the official client. It yields a function that waits until Ctrl-C."""
    with Forwarder(local, dial) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()

        def wait() -> None:
            threading.Event().wait()

        try:
            yield wait
        finally:
            server.shutdown()


def check_page(port: int, seconds: float = 10.0) -> None:
    """Check that the forwarded port serves a page. Raises CliError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    if status != 200:
        said = f" (status {status})" if status else ""
        raise CliError(
            f"the pod serves no status page{said}",
            f"set the chart's value statusPage.enabled, or upgrade the release; or {ADVICE}",
        )


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _last_line(process: "subprocess.Popen[str]") -> str:
    process.terminate()
    _, said = process.communicate()
    return (said.strip().splitlines() or ["it says nothing"])[-1]
