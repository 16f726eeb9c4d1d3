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
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from keyturn_cli.errors import CliError

START_SECONDS = 20.0
TICK = 0.5  # seconds
ADVICE = "ask for the right to create pods/portforward in the release's namespace"
_CHUNK = 65536  # bytes
# kubectl writes the first text when it listens, and the second one for each connection.
_READY, _CONNECTION = "Forwarding from", "Handling connection"

Dial = Callable[[], Any]
"""Function that opens a connection to the pod's port, and returns the socket. It raises CliError."""


class Disconnected(CliError):
    """A port was forwarded, but is not any more. The message is the reason."""


class Forwarder(socketserver.ThreadingTCPServer):
    """TCP server on loopback. For each connection to it, it opens a connection to the pod with ``dial``, and relays
    data between the two. ``failed`` is set once ``dial`` has failed, and ``failure`` is its first error."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, dial: Dial) -> None:
        self.dial = dial
        self.failed = threading.Event()
        self.failure: CliError | None = None
        super().__init__(("127.0.0.1", port), _Relay)

    def fail(self, failure: CliError) -> None:
        """Keep the first error of ``dial``, and set ``failed``."""
        self.failure = self.failure or failure
        self.failed.set()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a broken connection. The client itself notices that the connection has ended."""


class _Relay(socketserver.BaseRequestHandler):
    server: Forwarder

    def handle(self) -> None:
        try:
            remote = self.server.dial()
        except CliError as failure:
            self.server.fail(failure)
            return
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


class _Words:
    """Reader of kubectl's output. It reads until the output ends, because kubectl would stop at a full pipe."""

    def __init__(self, output: IO[str]) -> None:
        self.last = "kubectl gives no reason"
        self.is_ready = False
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._thread.start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            if _READY in line:
                self.is_ready = True
                self._started.set()
            elif line.strip() and not line.startswith(_CONNECTION):
                self.last = line.strip().removeprefix("error: ")
        self._started.set()

    def wait_until_ready(self, seconds: float) -> bool:
        """Wait until kubectl listens or its output has ended, but at most ``seconds``. Return whether it listens."""
        self._started.wait(seconds)
        return self.is_ready

    def wait_for_end(self) -> None:
        """Wait until the output is read to its end, but at most one second."""
        self._thread.join(1)


@contextlib.contextmanager
def by_kubectl(command: Sequence[str], seconds: float = START_SECONDS) -> Iterator[Callable[[], None]]:
    """Context manager that runs ``kubectl port-forward``. It yields a function that waits until kubectl ends, and then
    raises Disconnected.

    Raises CliError with kubectl's message if kubectl does not listen within ``seconds``.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")  # noqa: S603 - found on the PATH, without a shell
    assert process.stdout is not None  # noqa: S101 - for the type checker
    words = _Words(process.stdout)
    try:
        if not words.wait_until_ready(seconds):
            raise CliError(f"kubectl port-forward does not start: {words.last}", ADVICE)

        def wait() -> None:
            process.wait()
            words.wait_for_end()
            raise Disconnected(words.last)

        yield wait
    finally:
        process.terminate()
        process.wait()
        words.wait_for_end()
        process.stdout.close()


@contextlib.contextmanager
def by_client(dial: Dial, local: int) -> Iterator[Callable[[], None]]:
    """Context manager that relays through the official client. It yields a function that waits until a connection
    cannot be opened, and then raises Disconnected.

    Raises the CliError of ``dial`` if not even the first connection can be opened.
    """
    dial().close()
    with Forwarder(local, dial) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()

        def wait() -> None:
            # Python acts on Ctrl-C only in the main thread. A wait without a time-out would go on if the operating
            # system gave the signal to another thread: https://docs.python.org/3/library/signal.html#signals-and-threads
            while not server.failed.wait(TICK):
                pass
            raise Disconnected(str(server.failure.args[0] if server.failure else ""))

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
