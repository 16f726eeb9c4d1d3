"""The server under the door: what uvicorn leaves open, is closed here.

Time limits on requests that do not come, room for those that do, and certificates that may be replaced under way.
uvicorn itself waits for ever for the rest of a request: https://github.com/encode/uvicorn/issues (measured in DESIGN).
"""

import asyncio
import logging
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from keyturn_receiver.telemetry.metrics import Metrics

HEAD_SECONDS = 10.0  # for the head of a request, from the connection or from its first byte
HEAD_BYTES = 64 * 1024
IDLE_SECONDS = 75  # between two requests; more than load balancers wait by default, so that it is they who close
HANDSHAKE_SECONDS = 10.0
CERTIFICATE_SECONDS = 10.0  # between two looks for new files

_log = logging.getLogger(__name__)


class Room:
    """The connections of one server: at most ``most``; the oldest that owes a request makes way for a new one."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self.most = most
        self._metrics = metrics
        self._owing: OrderedDict[Connection, None] = OrderedDict()

    def owes(self, connection: "Connection") -> None:
        """Note that a connection owes us a request."""
        self._owing[connection] = None
        self._owing.move_to_end(connection)

    def paid(self, connection: "Connection") -> None:
        """Note that it has sent one, or is gone."""
        self._owing.pop(connection, None)

    def make_way(self, newcomer: "Connection") -> None:
        """Close a connection, so that there is room for the others."""
        self.cut(next(iter(self._owing), newcomer), "no room")

    def cut(self, connection: "Connection", reason: str) -> None:
        """Close a connection at once."""
        self.paid(connection)
        self._metrics.connections_cut.labels(reason).inc()
        connection.transport.abort()


class Connection(HttpToolsProtocol):
    """uvicorn's own protocol, with an end to its patience."""

    room: Room  # of the server's own subclass

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.room.owes(self)
        self._expect()
        if len(self.connections) > self.room.most:
            self.room.make_way(self)

    def data_received(self, data: bytes) -> None:
        if self._patience:
            if self._head_bytes > HEAD_BYTES:
                self.room.cut(self, "large head")
                return
            self._head_bytes += len(data)
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._patience is None:  # not the first request of this connection
            self._expect()

    def on_headers_complete(self) -> None:
        self._stop_expecting()
        self.room.paid(self)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self.room.owes(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_expecting()
        self.room.paid(self)
        super().connection_lost(error)

    def _expect(self) -> None:
        self._head_bytes = 0
        self._patience = self.loop.call_later(HEAD_SECONDS, self.room.cut, self, "slow head")

    def _stop_expecting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None


class Certificate:
    """A certificate and its key in files that may be replaced, as a mounted Secret's are."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._stamps()
        self.context = _tls(self._files)

    def look(self) -> None:
        """Take new files into use, for connections from now on; files that do not fit each other leave it as it was."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return
            _tls(self._files)  # elsewhere first: half of a pair must not get into use
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            _log.warning("the new certificate cannot be used, the old one stays: %s", type(error).__name__)
            return
        self._seen = stamps
        _log.info("a new certificate is in use")

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            self.look()

    def _stamps(self) -> list[tuple[int, int, int]]:
        # Of what the links of a mounted Secret lead to.
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in self._files)]


class Server(uvicorn.Server):
    """A server among others in one process: signals, logs and the loop are the process's business."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        room: Room,
        grace: float,
        certificate: Certificate | None = None,
    ) -> None:
        factory: Callable[..., ssl.SSLContext] | None = (lambda *_: certificate.context) if certificate else None
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=type("Connection", (Connection,), {"room": room}),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=int(grace),
                ssl_context_factory=factory,
            )
        )

    async def startup(self, sockets: object = None) -> None:
        """Listen; as uvicorn does, but for the time limit on TLS handshakes, which it cannot be told."""
        config = self.config

        def connection() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(config, self.server_state, {})  # type: ignore[call-arg]
            return made

        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                connection,
                host=config.host,
                port=config.port,
                ssl=config.ssl,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if config.ssl else None,
                backlog=config.backlog,
            )
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _tls(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*files)
    return context
