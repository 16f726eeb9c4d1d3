"""HTTP server: uvicorn with our own protocol classes."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from keyturn_receiver.web.certificate import ReloadingCertificate
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.http_protocol import HttpConnection, TlsHandshake

# At most this many seconds between two requests on a connection. Most load balancers have a shorter limit. So the load
# balancer, and not the receiver, closes an idle connection.
KEEP_ALIVE_SECONDS = 75


class Server(uvicorn.Server):
    """HTTP server. A process may have several of them. The process itself handles signals, logging and the event loop.

    After ``should_exit`` is set, open requests may take ``shutdown_timeout`` more seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        limiter: ConnectionLimiter,
        shutdown_timeout: float,
        certificate: ReloadingCertificate | None = None,
    ) -> None:
        self._limiter = limiter
        self._certificate = certificate
        new_context: Callable[..., ssl.SSLContext] | None = (lambda *_: certificate.context) if certificate else None
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=HttpConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,  # nothing reads the address of the client
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(shutdown_timeout),
                ssl_context_factory=new_context,
            )
        )

    def new_connection(self) -> HttpConnection:
        """Return the protocol for one new connection."""
        return HttpConnection(self._limiter, self.config, self.server_state)

    async def startup(self, sockets: object = None) -> None:
        """Start to listen. uvicorn's own method is not used, because it would leave TLS to the event loop (see
        TlsHandshake)."""
        config, loop, certificate = self.config, asyncio.get_running_loop(), self._certificate

        def new_protocol() -> Any:
            connection = self.new_connection()
            return TlsHandshake(connection, certificate.context) if certificate else connection

        host = config.host or None  # None means all addresses, IPv4 and IPv6
        self.servers = [await loop.create_server(new_protocol, host=host, port=config.port, backlog=config.backlog)]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections at once, and wait for the responses to open requests."""
        for server in self.servers:
            server.close()
        # uvicorn does not know the connections that are still in a TLS handshake. But it would wait until they are
        # closed.
        self._limiter.abort_all_but(self.server_state.connections)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing, because the process handles the signals."""
        yield
