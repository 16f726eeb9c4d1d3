"""Connection limiter. It limits the number of open connections of a server."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from typing import Protocol

from keyturn_receiver.telemetry.metrics import Metrics


class Connection(Protocol):
    """A connection that the limiter can abort."""

    transport: asyncio.Transport


class ConnectionLimiter:
    """Connection limiter. If there are more than ``max_connections`` connections, it aborts the connection that has
    been pending for the longest time.

    A connection is pending while the server waits for the client: for a TLS handshake, for a request, or until the
    client reads a response. A new connection is pending, too. So if no other connection is pending, the new connection
    is aborted.
    """

    def __init__(self, max_connections: int, metrics: Metrics) -> None:
        self._max_connections = max_connections
        self._metrics = metrics
        self._open: set[Connection] = set()
        self._pending: OrderedDict[Connection, None] = OrderedDict()  # longest pending first

    def add(self, connection: Connection) -> None:
        """Add a new connection as pending. If there are too many connections, abort one."""
        self._open.add(connection)
        self.mark_pending(connection)
        if len(self._open) > self._max_connections:
            self.abort(next(iter(self._pending)), "no room")

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self.mark_idle(connection)

    def mark_pending(self, connection: Connection) -> None:
        """Record that the server is now waiting for the client."""
        self._pending[connection] = None
        self._pending.move_to_end(connection)

    def mark_idle(self, connection: Connection) -> None:
        """Record that the server is not waiting for the client."""
        self._pending.pop(connection, None)

    def abort(self, connection: Connection, reason: str) -> None:
        """Close a connection at once. Buffered data is not sent."""
        self.remove(connection)
        self.count_closed(reason)
        connection.transport.abort()

    def abort_all_but(self, kept: Collection[object]) -> None:
        """Abort the open connections that are not in ``kept``."""
        for connection in [each for each in self._open if each not in kept]:
            self.abort(connection, "shutdown")

    def count_closed(self, reason: str) -> None:
        """Count a connection that the server itself closes, with the reason."""
        self._metrics.connections_closed.labels(reason).inc()
        self._metrics.connections_cut.labels(reason).inc()
