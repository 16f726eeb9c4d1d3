"""A proxy in front of Kubernetes or AWS: it records every call, and does to it what a test says.

Threads and blocking sockets, on loopback: slow, and free to hang, cut and garble as no well-behaved server would.
"""

import json
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3


@dataclass(frozen=True)
class Call:
    """One request as the server behind gets it."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def watch(self) -> bool:
        return self.query.get("watch") == ["true"]

    @property
    def action(self) -> str:
        """What is called of AWS, such as "GetSecretValue"; empty for Kubernetes."""
        return self.headers.get("x-amz-target", "").partition(".")[2]

    @property
    def content(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body) if self.body else {}

    def about(self, text: str) -> bool:
        """Whether path or body name something."""
        return text in self.path or text.encode() in self.body


@dataclass(frozen=True)
class Reply:
    """Answer so, and do not ask the server behind."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Cut:
    """Close the connection and do not ask the server behind."""


class CutAfter:
    """Ask the server behind, and close the connection in place of its answer."""


class Hang:
    """Say nothing until the proxy is told to let go."""


@dataclass(frozen=True)
class Edit:
    """Hand each piece of the answer on as this makes it; of a watch, each event. None: keep it back."""

    edit: Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class Drip:
    """Hand the answer on byte by byte, so many seconds apart, until the proxy is told to let go."""

    seconds: float = 1.0


Fate = Reply | Cut | CutAfter | Hang | Edit | Drip | None
"""What becomes of a call; None: it passes."""


class FaultProxy:
    """Serves on loopback. ``fate`` decides on each call, ``answered`` is told of each that was answered behind."""

    def __init__(self, url: str, ca_file: Path | None = None) -> None:
        self.calls: list[Call] = []
        self._behind = url
        context = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._pool = urllib3.PoolManager(maxsize=100, ssl_context=context)
        self._let_go = threading.Event()
        self.heal()
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
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                pass  # connections break when their receiver is killed: that is what it is for

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def kubeconfig(self, original: Path, file: Path) -> Path:
        """Write a copy of a kubeconfig that goes through the proxy."""
        content = json.loads(original.read_text())
        content["clusters"][0]["cluster"] = {"server": self.url}
        file.write_text(json.dumps(content))
        return file

    def heal(self) -> None:
        """From now on everything passes; what hangs is let go, its connection closed."""
        self.fate: Callable[[Call], Fate] = lambda call: None
        self.answered: Callable[[Call, int], None] = lambda call, status: None
        self._let_go.set()
        self._let_go = threading.Event()

    def close(self) -> None:
        """End it."""
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._pool.clear()

    def matching(self, method: str, pattern: str) -> list[Call]:
        """The calls so far of this method whose path fits."""
        return [call for call in self.calls if call.method == method and re.search(pattern, call.path)]

    def actions(self, action: str, about: str = "") -> list[Call]:
        """The calls so far of one action of AWS, about something."""
        return [call for call in self.calls if call.action == action and call.about(about)]

    def _handle(self, request: Any) -> None:
        parts = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.command, parts.path, parse_qs(parts.query), headers, body)
        self.calls.append(call)
        let_go = self._let_go  # before the fate, so that who heals meanwhile lets this one go, too
        fate = self.fate(call)
        if isinstance(fate, Cut | Hang):
            if isinstance(fate, Hang):
                let_go.wait(120)
            request.close_connection = True
        elif isinstance(fate, Reply):
            content = fate.body if isinstance(fate.body, bytes) else json.dumps(fate.body).encode()
            request.send_response(fate.status)
            for name, value in {**fate.headers, "Content-Length": str(len(content))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)
        else:
            self._forward(request, call, fate, let_go)

    def _forward(self, request: Any, call: Call, fate: Edit | CutAfter | Drip | None, let_go: threading.Event) -> None:
        passed = {name: value for name, value in call.headers.items() if name not in ("host", "connection")}
        answer = self._pool.request(
            call.method,
            self._behind + request.path,
            body=call.body or None,
            headers={**passed, "accept-encoding": "identity"},
            preload_content=False,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=None),
        )
        try:
            self.answered(call, answer.status)
            if isinstance(fate, CutAfter):
                answer.read()
                request.close_connection = True
                return
            request.send_response(answer.status)
            for name in ("Content-Type", "Retry-After", "x-amzn-RequestId", "x-amzn-ErrorType"):
                if name in answer.headers:
                    request.send_header(name, answer.headers[name])
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            pieces = self._drops(answer, fate, let_go) if isinstance(fate, Drip) else self._pieces(answer, call, fate)
            for piece in pieces:
                request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            request.wfile.write(b"0\r\n\r\n")
        finally:
            answer.close()

    def _drops(self, answer: Any, fate: Drip, let_go: threading.Event) -> Any:
        content = answer.read()
        for number in range(len(content)):
            if let_go.wait(fate.seconds):
                yield content[number:]
                return
            yield content[number : number + 1]

    def _pieces(self, answer: Any, call: Call, fate: Edit | CutAfter | None) -> Any:
        edit = fate.edit if isinstance(fate, Edit) else lambda piece: piece
        if not isinstance(fate, Edit):
            while piece := answer.read1(65536):
                yield piece
        elif call.watch:
            rest = b""
            while piece := answer.read1(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if edited := edit(line + b"\n"):
                        yield edited
        elif edited := edit(answer.read()):
            yield edited
