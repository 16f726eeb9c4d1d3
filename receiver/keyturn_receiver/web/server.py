"""The server under the door: what uvicorn leaves open, is closed here.

Time limits on requests that do not come, room for those that do, and certificates that may be replaced under way.
uvicorn itself has no time-out for the rest of a request (measured: docs/adr/013-webhook-server.md).
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
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]

from keyturn_receiver.telemetry.metrics import Metrics

HEAD_SECONDS = 10.0  # for the head of a request, from the connection or from its first byte
HEAD_BYTES = 32 * 1024  # of a request besides its body: its head, what chunks say of themselves, trailers
HEADERS = 100
PIPELINED = 16  # requests that wait for the answer to another of the same connection
PIECE = 16 * 1024  # bytes that are parsed before it is looked how much that makes
READ_SECONDS = 10.0  # for whoever does not read what it is answered
IDLE_SECONDS = 75  # between two requests; more than load balancers wait by default, so that it is they who close
HANDSHAKE_SECONDS = 10.0
CERTIFICATE_SECONDS = 10.0  # between two looks for new files

_log = logging.getLogger(__name__)


class ConnectionLimiter:
    """The connections of one server: at most ``most``; the oldest that owes something makes way for a new one.

    A connection owes us its handshake, a whole request, or to read what it was answered.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        self.most = most
        self._metrics = metrics
        self._open: set[HttpConnection] = set()
        self._owing: OrderedDict[HttpConnection, None] = OrderedDict()

    def enter(self, connection: "HttpConnection") -> None:
        """Take a connection in, and close another if they are too many."""
        self._open.add(connection)
        self.mark_pending(connection)
        if len(self._open) > self.most:
            self.abort_connection(next(iter(self._owing)), "no room")

    def leave(self, connection: "HttpConnection") -> None:
        """Note that it is gone."""
        self._open.discard(connection)
        self.mark_idle(connection)

    def mark_pending(self, connection: "HttpConnection") -> None:
        """Note that a connection owes us something."""
        self._owing[connection] = None
        self._owing.move_to_end(connection)

    def mark_idle(self, connection: "HttpConnection") -> None:
        """Note that it has done its part."""
        self._owing.pop(connection, None)

    def abort_connection(self, connection: "HttpConnection", reason: str) -> None:
        """Close a connection at once."""
        self.leave(connection)
        self.count(reason)
        connection.transport.abort()

    def count(self, reason: str) -> None:
        """Note that a connection was ended, and why."""
        self._metrics.connections_cut.labels(reason).inc()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's own protocol, with an end to its patience."""

    room: ConnectionLimiter  # of the server's own subclass

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience: asyncio.TimerHandle | None = None  # while a head is under way
        self._unread: asyncio.TimerHandle | None = None  # while answers pile up
        self._whole = False  # nothing is missing of the last request
        self._bytes = 0  # of the request under way, besides its body
        self._served: Any = None  # uvicorn's own of the request that is being answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect()
        self.room.enter(self)

    def data_received(self, data: bytes) -> None:
        if self._whole and self._patience is None:
            self._expect()  # though it may be empty lines, which begin no request
        for begin in range(0, len(data), PIECE):
            if self.transport.is_closing():
                return
            if self._bytes > HEAD_BYTES:
                self.room.abort_connection(self, "large head")
                return
            piece = data[begin : begin + PIECE]
            self._bytes += len(piece)
            super().data_received(piece)

    def send_400_response(self, msg: str) -> None:
        self.room.count("malformed")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests at once")
        super().on_message_begin()
        self._whole = False
        if self._patience is None:  # not the first request of this connection
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._patience is None:
            return  # a trailer: nobody asks for it
        if len(self.headers) >= HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_expecting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._whole = True
        self._bytes = 0
        if not self._unread:
            self.room.mark_idle(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # Answered before it was whole, as what goes elsewhere is: the rest of it would come for as long as it likes.
        unfinished = self.cycle.response_complete and self.cycle.more_body
        super().on_response_complete()
        self.room.mark_pending(self)
        if unfinished:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.room.mark_pending(self)
        self._unread = self._unread or self.loop.call_later(
            READ_SECONDS, self.room.abort_connection, self, "slow reader"
        )

    def resume_writing(self) -> None:
        super().resume_writing()
        self.room.mark_idle(self)
        self._stop_waiting()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_expecting()
        self._stop_waiting()
        self.room.leave(self)
        if self._served:
            self._served.disconnected = True  # of several requests uvicorn tells the last alone
        super().connection_lost(error)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def _expect(self) -> None:
        self._bytes = 0
        self._patience = self.loop.call_later(HEAD_SECONDS, self.room.abort_connection, self, "slow head")

    def _stop_expecting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _stop_waiting(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None


class TlsHandshake(SSLProtocol):  # type: ignore[misc]  # has no types
    """What the loop itself puts below a connection over TLS; here it takes part in the room from its first moment.

    The connection learns of itself only when hands are shaken, and there might be any number of them until then.
    """

    def __init__(self, connection: HttpConnection, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            connection,
            context,
            None,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._connection.transport = transport  # until there is one over TLS
        self._connection.room.enter(self._connection)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.room.leave(self._connection)
        super().connection_lost(error)


class ReloadingCertificate:
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
        room: ConnectionLimiter,
        grace: float,
        certificate: ReloadingCertificate | None = None,
    ) -> None:
        factory: Callable[..., ssl.SSLContext] | None = (lambda *_: certificate.context) if certificate else None
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=type("HttpConnection", (HttpConnection,), {"room": room}),
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
        """Listen; as uvicorn does, but for TLS handshakes, which take part in the room here."""
        config = self.config

        def connection() -> HttpConnection:
            made: HttpConnection = config.http_protocol_class(config, self.server_state, {})  # type: ignore
            return made

        def arrival() -> Any:
            return TlsHandshake(connection(), config.ssl) if config.ssl else connection()

        loop, host = asyncio.get_running_loop(), config.host or None  # None: every address, of either family
        self.servers = [await loop.create_server(arrival, host=host, port=config.port, backlog=config.backlog)]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _tls(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*files)
    return context
