"""A proxy in front of Kubernetes or AWS. It records every call, and injects the faults that a test chooses.

The proxy uses threads and blocking sockets on loopback. That makes it slow, but able to hang, to cut connections and to
send garbled data, which ordinary server libraries do not do.
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
    """A request in the form in which the upstream server receives it."""

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
        """The AWS action, such as "GetSecretValue". It is empty for calls to Kubernetes."""
        return self.headers.get("x-amz-target", "").partition(".")[2]

    @property
    def content(self) -> Any:
        """The request body, parsed as JSON."""
        return json.loads(self.body) if self.body else {}

    def about(self, text: str) -> bool:
        """Return whether the path or the body of the request contains a text."""
        return text in self.path or text.encode() in self.body


@dataclass(frozen=True)
class Reply:
    """A fault: the proxy sends this reply and does not call the upstream server."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Cut:
    """A fault: the proxy closes the connection and does not call the upstream server."""


class CutAfter:
    """A fault: the proxy calls the upstream server, and closes the connection instead of passing on the answer."""


class Hang:
    """A fault: the proxy sends no answer. It closes the connection when the fault is healed, or after 120 s."""


@dataclass(frozen=True)
class Edit:
    """A fault: the proxy passes the whole answer (for a watch, each event) through ``edit``.

    If ``edit`` returns None, the proxy drops the answer or the event.
    """

    edit: Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class Drip:
    """A fault: the proxy sends the answer byte by byte with ``seconds`` between two bytes, until the fault is
    healed."""

    seconds: float = 1.0


Fault = Reply | Cut | CutAfter | Hang | Edit | Drip | None
"""The fault of a call, or None if the call passes unchanged."""


class FaultProxy:
    """A proxy on loopback.

    ``fault_for`` chooses the fault of each call. ``on_answered`` is called for each call that the upstream server has
    answered. If ``keeps_host`` is true, the upstream server sees the host that the client has called, so AWS signatures
    stay valid.
    """

    def __init__(self, url: str, ca_file: Path | None = None, keeps_host: bool = False) -> None:
        self.calls: list[Call] = []
        self.answers: list[tuple[Call, int]] = []  # calls that the upstream server answered, and statuses
        self._upstream = url
        self._own_headers = ("connection",) if keeps_host else ("connection", "host")
        context = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._pool = urllib3.PoolManager(maxsize=100, ssl_context=context)
        self._released = threading.Event()
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
                pass  # a receiver that a test kills breaks its connections

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def kubeconfig(self, original: Path, file: Path) -> Path:
        """Write a copy of a kubeconfig to ``file``. The copy has the proxy as its server."""
        content = json.loads(original.read_text())
        content["clusters"][0]["cluster"] = {"server": self.url}
        file.write_text(json.dumps(content))
        return file

    def heal(self) -> None:
        """Let all new calls pass. The proxy closes the connections of calls that hang, and sends the rest of answers
        that drip. A watch that is already open is edited until it ends."""
        self.fault_for: Callable[[Call], Fault] = lambda call: None
        self.on_answered: Callable[[Call, int], None] = lambda call, status: None
        self._released.set()
        self._released = threading.Event()

    def close(self) -> None:
        """Stop the proxy."""
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._pool.clear()

    def matching(self, method: str, pattern: str) -> list[Call]:
        """Return the calls so far that have this method and whose path matches the pattern."""
        return [call for call in self.calls if call.method == method and re.search(pattern, call.path)]

    def succeeded(self, method: str, pattern: str) -> list[Call]:
        """Return those calls of ``matching`` that the upstream server has answered with success. A refused write, such
        as one with a conflict, is left out."""
        answers = list(self.answers)
        done = (call for call, status in answers if 200 <= status < 300)
        return [call for call in done if call.method == method and re.search(pattern, call.path)]

    def actions(self, action: str, about: str = "") -> list[Call]:
        """Return the calls so far of one AWS action, if their path or body contains ``about``."""
        return [call for call in self.calls if call.action == action and call.about(about)]

    def _handle(self, request: Any) -> None:
        parts = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.command, parts.path, parse_qs(parts.query), headers, body)
        self.calls.append(call)
        # This is read before the fault is chosen, so that a concurrent ``heal`` releases this call, too.
        released = self._released
        fault = self.fault_for(call)
        if isinstance(fault, Cut | Hang):
            if isinstance(fault, Hang):
                released.wait(120)
            request.close_connection = True
        elif isinstance(fault, Reply):
            content = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            request.send_response(fault.status)
            for name, value in {**fault.headers, "Content-Length": str(len(content))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)
        else:
            self._forward(request, call, fault, released)

    def _forward(
        self, request: Any, call: Call, fault: Edit | CutAfter | Drip | None, released: threading.Event
    ) -> None:
        passed = {name: value for name, value in call.headers.items() if name not in self._own_headers}
        answer = self._pool.request(
            call.method,
            self._upstream + request.path,
            body=call.body or None,
            headers={**passed, "accept-encoding": "identity"},
            preload_content=False,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=None),
        )
        self.answers.append((call, answer.status))
        try:
            self.on_answered(call, answer.status)
            if isinstance(fault, CutAfter):
                answer.read()
                request.close_connection = True
                return
            request.send_response(answer.status)
            for name in ("Content-Type", "Retry-After", "x-amzn-RequestId", "x-amzn-ErrorType"):
                if name in answer.headers:
                    request.send_header(name, answer.headers[name])
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            pieces = (
                self._drops(answer, fault, released) if isinstance(fault, Drip) else self._pieces(answer, call, fault)
            )
            for piece in pieces:
                request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            request.wfile.write(b"0\r\n\r\n")
        finally:
            answer.close()

    def _drops(self, answer: Any, fault: Drip, released: threading.Event) -> Any:
        content = answer.read()
        for number in range(len(content)):
            if released.wait(fault.seconds):
                yield content[number:]
                return
            yield content[number : number + 1]

    def _pieces(self, answer: Any, call: Call, fault: Edit | CutAfter | None) -> Any:
        edit = fault.edit if isinstance(fault, Edit) else lambda piece: piece
        if not isinstance(fault, Edit):
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
