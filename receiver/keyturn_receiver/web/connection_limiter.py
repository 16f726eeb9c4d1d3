"""Limits how many connections a server holds open."""

import asyncio
from collections import OrderedDict
from typing import Protocol

from keyturn_receiver.telemetry.metrics import Metrics


class Connection(Protocol):
    """A connection that the limiter can abort."""

    transport: asyncio.Transport


class ConnectionLimiter:
    """Connection limiter: beyond ``max_connections``, it aborts the connection that has been pending longest.

    A connection is pending while the client owes us something: its TLS handshake, the rest of a request, or to read a
    response. A new connection is pending, so it is aborted itself if all the others are idle.
    """

    def __init__(self, max_connections: int, metrics: Metrics) -> None:
        self._max_connections = max_connections
        self._metrics = metrics
        self._open: set[Connection] = set()
        self._pending: OrderedDict[Connection, None] = OrderedDict()  # pending longest first

    def add(self, connection: Connection) -> None:
        """Add a new connection, which is pending, and abort one if there are too many."""
        self._open.add(connection)
        self.mark_pending(connection)
        if len(self._open) > self._max_connections:
            self.abort(next(iter(self._pending)), "no room")

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        self.mark_idle(connection)

    def mark_pending(self, connection: Connection) -> None:
        """Note that the client owes us something from now on."""
        self._pending[connection] = None
        self._pending.move_to_end(connection)

    def mark_idle(self, connection: Connection) -> None:
        """Note that the client owes us nothing."""
        self._pending.pop(connection, None)

    def abort(self, connection: Connection, reason: str) -> None:
        """Close a connection at once, without sending what is still buffered."""
        self.remove(connection)
        self.count_closed(reason)
        connection.transport.abort()

    def count_closed(self, reason: str) -> None:
        """Count a connection that the server closes."""
        self._metrics.connections_closed.labels(reason).inc()
        self._metrics.connections_cut.labels(reason).inc()
