"""A fake receiver that answers as the test specifies, over plain HTTP on loopback or over TLS."""

import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    CONTRACT_VERSION,
    RECEIVER_HEADER,
    Notification,
    Outcome,
    Result,
    decode,
    encode_reply,
)

DRIP_SECONDS = 0.1  # seconds between two bytes of an answer that drips

Respond = Callable[[dict[str, str], bytes], tuple[int, bytes]]


class FakeReceiver:
    """A server that answers with ``respond`` and ``extra_headers``, and records its ``requests`` and
    ``connections``."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.respond: Respond = lambda headers, body: (200, reply_to_all(body, Outcome.APPLIED))
        self.extra_headers: dict[str, str] = {}
        self.is_marked = True  # False imitates a proxy in front of the receiver, or a receiver of release 0.2
        self.drips = b""  # if it is set, these headers begin the answer, and the rest comes byte by byte without end
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.connections = 0
        self.closed = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append((headers, body))
                try:
                    status, content = receiver.respond(headers, body)
                except ConnectionError:
                    self.close_connection = True
                    return
                if receiver.drips:
                    self.drip()
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if receiver.is_marked:
                    self.send_header(RECEIVER_HEADER, CONTRACT_VERSION)
                for name, value in receiver.extra_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def drip(self) -> None:
                self.close_connection = True
                with suppress(ConnectionError):  # the notifier has closed the connection
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n" + receiver.drips)
                    while not receiver.closed.wait(DRIP_SECONDS):
                        self.wfile.write(b" ")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self._scheme = "http"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            self._scheme = "https"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        """The URL for notifications."""
        return f"{self._scheme}://127.0.0.1:{self.server.server_port}/v1/notifications"

    @property
    def notifications(self) -> list[Notification]:
        """All notifications received so far, in order."""
        return [each for _, body in self.requests for each in decode(CONTENT_TYPE_BATCH, body)]

    def hang(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Wait until ``close``, for at most 60 s. Assign this method to ``respond`` to imitate a receiver that
        hangs."""
        self.closed.wait(60)
        return 200, b""

    def close(self) -> None:
        """Stop listening."""
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


def reply_to_all(body: bytes, outcome: Outcome) -> bytes:
    """Return a reply that reports the same outcome for every event in a delivery's body."""
    return encode_reply([Result(event.id, outcome) for event in decode(CONTENT_TYPE_BATCH, body)])
