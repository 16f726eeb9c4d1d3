"""An HTTP proxy like those in companies. It tunnels TLS (CONNECT), and forwards plain requests, which name a whole
URL."""

import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class HttpProxy:
    """A proxy that connects to the requested port on loopback, whatever the host is. ``targets`` records each
    HOST:PORT."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                proxy.targets.append(self.path)
                with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as other:
                    self.send_response(200)
                    self.end_headers()
                    _join(self.connection, other)
                self.close_connection = True

            def do_POST(self) -> None:
                target = urlsplit(self.path)
                proxy.targets.append(target.netloc)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                connection = http.client.HTTPConnection("127.0.0.1", target.port or 80, timeout=10)
                connection.request("POST", target.path or "/", body, dict(self.headers))
                reply = connection.getresponse()
                content = reply.read()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _join(one: socket.socket, other: socket.socket) -> None:
    """Copy data between two sockets in both directions until one of them ends."""
    while True:
        for readable in select.select([one, other], [], [])[0]:
            content = readable.recv(65536)
            if not content:
                return
            (other if readable is one else one).sendall(content)
