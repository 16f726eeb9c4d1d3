"""Receivers that answer as a test says: plain HTTP on loopback, or TLS under a CA of the test's own."""

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from keyturn_contract.message import CONTENT_TYPE_BATCH, Notification, Outcome, Result, decode, encode_reply

Answer = Callable[[dict[str, str], bytes], tuple[int, bytes]]


class Receiver:
    """Answers with ``answer`` and ``more`` headers; keeps what it ``got`` and how many ``connections`` it had."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = lambda headers, body: (200, all_of(body, Outcome.APPLIED))
        self.more: dict[str, str] = {}
        self.got: list[tuple[dict[str, str], bytes]] = []
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
                receiver.got.append((headers, body))
                try:
                    status, content = receiver.answer(headers, body)
                except ConnectionError:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in receiver.more.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self._scheme = "http"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            self._scheme = "https"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it takes notifications."""
        return f"{self._scheme}://127.0.0.1:{self.server.server_port}/v1/notifications"

    @property
    def notifications(self) -> list[Notification]:
        """All that it got, in order."""
        return [each for _, body in self.got for each in decode(CONTENT_TYPE_BATCH, body)]

    def hang(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """An answer that does not come before the end of the test."""
        self.closed.wait(60)
        return 200, b""

    def close(self) -> None:
        """End it; nobody listens on its port any more."""
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


def all_of(body: bytes, outcome: Outcome) -> bytes:
    """The reply that all events of a body came out so."""
    return encode_reply([Result(event.id, outcome) for event in decode(CONTENT_TYPE_BATCH, body)])
