"""Lambda sandbox on this machine. The real `awslambdaric` runs a built artifact with a Runtime API on loopback.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import queue
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from keyturn_local.processes.program import Program, Stoppable

API = "/2018-06-01/runtime/"
FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:keyturn-notifier"
CLIENT = ("awslambdaric", "runtime_client*", "simplejson", "snapshot_restore_py")  # files of the Runtime API's client
START_SECONDS = 10.0  # Lambda's own limit for the init phase


class FunctionError(RuntimeError):
    """The function failed. ``kind`` is Lambda's name for the error."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass
class _Invocation:
    event: object
    deadline: float  # seconds since the epoch
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    done: threading.Event = field(default_factory=threading.Event)
    answer: object = None
    error: str | None = None


class LambdaRuntime(Stoppable):
    """One sandbox for one handler. Besides the standard library, it can import only the artifact and ``awslambdaric``.

    ``timeout`` is in seconds. ``extra`` holds further folders that the handler can import from, such as a layer's.
    """

    def __init__(
        self,
        artifact: Path,
        handler: str,
        environment: Mapping[str, str],
        directory: Path,
        timeout: float = 30.0,
        extra: Sequence[Path] = (),
    ) -> None:
        self._handler = handler
        self._directory = directory
        self._timeout = timeout
        self._pending: queue.Queue[_Invocation] = queue.Queue()
        self._running: dict[str, _Invocation] = {}
        self._init_error = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._api())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._environment = {
            **environment,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, [artifact, *extra, _client(directory)])),
            "PYTHONDONTWRITEBYTECODE": "1",  # as in Lambda, where the artifact is read-only
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "keyturn-notifier",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "LAMBDA_TASK_ROOT": str(artifact),
        }
        self._program = self._start()

    @property
    def output(self) -> str:
        """The function's output so far, which Lambda would write to CloudWatch."""
        return self._program.log.read_text(errors="replace")

    def invoke(self, event: object) -> object:
        """Invoke the function and return its answer. Raises FunctionError if the function fails or times out.

        As in Lambda, a timeout ends the sandbox, and the next invocation gets a new one.
        """
        invocation = _Invocation(event, time.time() + self._timeout)
        self._running[invocation.id] = invocation
        self._pending.put(invocation)
        while not invocation.done.wait(0.02):
            if not self._program.running:
                self._program = self._start()
                raise FunctionError(self._init_error or "Runtime.ExitError")
            if time.time() > invocation.deadline:
                self._program.kill()
                self._program = self._start()
                raise FunctionError("Sandbox.Timedout")
        if invocation.error is not None:
            raise FunctionError(invocation.error)
        return invocation.answer

    def __call__(self, event: dict[str, Any], _: object) -> object:
        """Invoke the function as a handler."""
        return self.invoke(event)

    def stop(self) -> None:
        """Stop the sandbox."""
        self._program.kill()
        self._server.shutdown()
        self._server.server_close()

    def _start(self) -> Program:
        self._pending = queue.Queue()
        self._running.clear()
        # -S hides the packages that are installed on this machine.
        interpreter = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        return Program(
            "lambda", [interpreter, "-S", "-m", "awslambdaric", self._handler], self._directory, self._environment
        )

    def _api(self) -> type[BaseHTTPRequestHandler]:
        runtime = self

        class Api(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != f"{API}invocation/next":
                    self._reply(404, b"")
                    return
                invocation = runtime._pending.get()
                headers = {
                    "Lambda-Runtime-Aws-Request-Id": invocation.id,
                    "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
                    "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
                }
                self._reply(200, json.dumps(invocation.event).encode(), headers)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == f"{API}init/error":
                    runtime._init_error = str(body.get("errorType"))
                    self._reply(202, b"{}")
                    return
                _, invocation_id, end = self.path.removeprefix(API).split("/")
                invocation = runtime._running.pop(invocation_id, None)
                self._reply(202 if invocation else 410, b"{}")
                if invocation:
                    if end == "response":
                        invocation.answer = body
                    else:
                        invocation.error = str(body.get("errorType"))
                    invocation.done.set()

            def _reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Api


def _client(directory: Path) -> Path:
    """Return a folder that holds only the Runtime API's client."""
    client = directory / "runtime-client"
    client.mkdir(exist_ok=True)
    installed = Path(sysconfig.get_paths()["platlib"])
    for pattern in CLIENT:
        for file in installed.glob(pattern):
            link = client / file.name
            if not link.exists() and file.suffix != ".dist-info":
                link.symlink_to(file)
    return client
