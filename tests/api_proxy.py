"""A proxy between the receiver and the Kubernetes API: it records every request, and can act just before one."""

import json
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3


@dataclass(frozen=True)
class Call:
    """One request as the API server got it."""

    method: str
    path: str
    query: dict[str, list[str]]
    accept: str

    @property
    def watch(self) -> bool:
        return self.query.get("watch") == ["true"]


class ApiProxy:
    """Serves on loopback in place of the API server; ``before`` is called with each request, and may prevent it."""

    def __init__(self, url: str, ca_file: Path) -> None:
        self.calls: list[Call] = []
        self.before: Callable[[Call], bool] = lambda call: True
        self._url = url
        self._pool = urllib3.PoolManager(maxsize=50, ssl_context=ssl.create_default_context(cafile=ca_file))
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # connections break when their receiver is killed: that is what it is for

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def kubeconfig(self, original: Path, directory: Path) -> Path:
        """A copy of a kubeconfig that goes through the proxy."""
        content = json.loads(original.read_text())
        content["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self._server.server_port}"}
        file = directory / "kubeconfig-proxy"
        file.write_text(json.dumps(content))
        return file

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._pool.clear()

    def matching(self, method: str, pattern: str) -> list[Call]:
        return [call for call in self.calls if call.method == method and re.search(pattern, call.path)]

    def _handle(self, request: Any) -> None:
        parts = urlsplit(request.path)
        call = Call(request.command, parts.path, parse_qs(parts.query), request.headers.get("Accept", ""))
        self.calls.append(call)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if not self.before(call):
            request.close_connection = True
            return
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        headers["Accept-Encoding"] = "identity"
        answer = self._pool.request(
            request.command,
            self._url + request.path,
            body=body or None,
            headers=headers,
            preload_content=False,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=None),
        )
        request.send_response(answer.status)
        request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            while chunk := answer.read1(65536):
                request.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            request.wfile.write(b"0\r\n\r\n")
        finally:
            answer.close()
