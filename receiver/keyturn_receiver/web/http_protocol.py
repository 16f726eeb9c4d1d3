"""HTTP protocol. It adds timeouts and size limits to uvicorn's own protocol.

uvicorn has two gaps: it has no timeout for the rest of a request that has begun, and no timeout for a client that does
not read its response (measured: docs/adr/013-webhook-server.md).
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]

from keyturn_receiver.web.connection_limiter import ConnectionLimiter

# Seconds in which the head of a request has to arrive. They are counted from the start of the connection or from the
# first byte of the head.
HEADER_TIMEOUT = 10.0
WRITE_TIMEOUT = 10.0  # seconds in which a client has to read its response
HANDSHAKE_TIMEOUT = 10.0  # seconds for a TLS handshake
MAX_OVERHEAD = 32 * 1024  # bytes of a request that are not its body: head, chunk sizes, chunk extensions, trailers
MAX_HEADERS = 100
MAX_PIPELINED = 16  # at most this many requests may wait on one connection while an earlier request is answered
PARSE_SIZE = 16 * 1024  # the number of bytes that are parsed between two checks of the overhead
CLOSE_TIMEOUT = 0.5  # seconds; during a shutdown, the server waits this long for the client of a closed connection

# A request may have each of these headers only once. If a request had two of them, a proxy could read the first one
# while the receiver reads the second one.
_SINGLE = frozenset({b"host", b"content-type", b"content-encoding", b"content-length", b"transfer-encoding"})
_SINGLE_PREFIX = b"webhook-"


class HttpConnection(HttpToolsProtocol):
    """One HTTP connection. It adds timeouts and size limits to uvicorn's protocol, and reports its state to the
    connection limiter."""

    def __init__(self, limiter: ConnectionLimiter, config: Config, server_state: ServerState) -> None:
        super().__init__(config, server_state, app_state={})
        self.limiter = limiter
        self._header_timer: asyncio.TimerHandle | None = None  # runs until the head of a request is complete
        self._write_timer: asyncio.TimerHandle | None = None  # runs while the client does not read its response
        self._request_complete = False  # whether the last request has been received completely
        self._overhead = 0  # bytes of the current request that are not its body
        self._in_head = False  # whether a head has begun and is not complete
        self._shutting_down = False
        self._current_cycle: Any = None  # uvicorn's state for the request that is being answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        super().connection_made(transport)
        self._start_header_timer()
        self.limiter.add(self)

    def data_received(self, data: bytes) -> None:
        if self._request_complete and self._header_timer is None:
            # The timer also covers empty lines. The parser skips them without starting a request.
            self._start_header_timer()
        for start in range(0, len(data), PARSE_SIZE):
            if self.transport.is_closing():
                return
            if self._overhead > MAX_OVERHEAD:
                self.limiter.abort(self, "large head")
                return
            piece = data[start : start + PARSE_SIZE]
            self._overhead += len(piece)
            super().data_received(piece)

    def send_400_response(self, msg: str) -> None:
        self.limiter.count_closed("malformed")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        super().on_message_begin()
        self._request_complete = False
        self._in_head = True
        if self._header_timer is None:  # this is the case for a later request on the same connection
            self._start_header_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._header_timer is None:
            return  # this is a trailer, and the application uses no trailers
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_header_timer()
        self._in_head = False
        _check_single_headers(self.parser.get_http_version(), (name for name, _ in self.headers))
        super().on_headers_complete()
        if self._shutting_down:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._request_complete = True
        self._overhead = 0
        if not self._write_timer:
            self.limiter.mark_idle(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # Some responses, such as a 404, are sent before the request has arrived completely. The connection is closed in
        # this case. Otherwise the client could send the rest of the body slowly without an end.
        incomplete = self.cycle.response_complete and self.cycle.more_body
        super().on_response_complete()
        self.limiter.mark_pending(self)
        if incomplete:
            self.transport.close()
        if self._shutting_down:
            self._abort_soon()

    def shutdown(self) -> None:
        """Close the connection: at once if it is idle, and otherwise after the response to its request."""
        self._shutting_down = True
        if not self._in_head:
            super().shutdown()
        if self.transport.is_closing():
            self._abort_soon()

    def _abort_soon(self) -> None:
        # Over TLS, the connection would wait half a minute for the client's close_notify. A client that keeps idle
        # connections in a pool does not read them, so it does not answer.
        self.loop.call_later(CLOSE_TIMEOUT, self._abort_if_sent)

    def _abort_if_sent(self) -> None:
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._abort_soon()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.limiter.mark_pending(self)
        self._write_timer = self._write_timer or self.loop.call_later(
            WRITE_TIMEOUT, self.limiter.abort, self, "slow reader"
        )

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle and not self.cycle.response_complete and not self.cycle.more_body:
            self.limiter.mark_idle(self)  # a complete request is unanswered; otherwise the server waits for the client
        self._stop_write_timer()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_header_timer()
        self._stop_write_timer()
        self.limiter.remove(self)
        if self._current_cycle:
            self._current_cycle.disconnected = True  # uvicorn itself marks only the last of several pipelined requests
        super().connection_lost(error)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._current_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def _start_header_timer(self) -> None:
        self._overhead = 0
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT, self.limiter.abort, self, "slow head")

    def _stop_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None


def _check_single_headers(http_version: str, names: Iterable[bytes]) -> None:
    """Raise ValueError if a request has no Host, or repeats a header that it may have only once.

    https://www.rfc-editor.org/rfc/rfc9112#section-3.2
    """
    count = Counter(names)
    if http_version != "1.0" and not count[b"host"]:
        raise ValueError("no Host")
    if any(times > 1 and (name in _SINGLE or name.startswith(_SINGLE_PREFIX)) for name, times in count.items()):
        raise ValueError("a header twice")


class TlsHandshake(SSLProtocol):  # type: ignore[misc]  # uvloop ships no types
    """The TLS layer below an HTTP connection. It extends uvloop's TLS layer. It adds the connection to the limiter
    before the handshake.

    The event loop calls ``HttpConnection.connection_made`` only after the handshake. Without this class, the number of
    connections that are still in a handshake would have no limit.
    """

    def __init__(self, connection: HttpConnection, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            connection,
            context,
            None,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
        )
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        # With this transport, the limiter can abort the connection during the handshake. After the handshake, the TLS
        # transport replaces it.
        self._connection.transport = transport
        self._connection.limiter.add(self._connection)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.limiter.remove(self._connection)
        super().connection_lost(error)
