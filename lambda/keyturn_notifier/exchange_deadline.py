"""Deadline of an exchange with a receiver. urllib3's timeouts apply to each read from the socket. A receiver that sends
one byte every few seconds never exceeds them, so the exchange as a whole has a deadline, too.

At the deadline, a thread shuts down the socket that the exchange uses. So the thread that reads or writes gets an error
at once, whether it is in the headers, in the body, or in a proxy's reply.
"""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

# Seconds between two attempts to shut down a socket after the deadline. A connection that is being opened may get a new
# socket after the first attempt.
_AGAIN_SECONDS = 0.2

_of_thread = threading.local()  # its attribute ``deadline`` is the deadline of the exchange that this thread makes


class ReplyTooSlow(Urllib3TimeoutError):
    """The exchange has not ended before its deadline."""


class ExchangeDeadline:
    """Context manager for the exchange that the current thread makes. If the exchange does not end within ``seconds``,
    it raises ReplyTooSlow.

    The connections have to come from a pool that ``watch`` has prepared.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()  # is held while a socket is shut down, so that none is shut down after the exit
        self._connection: HTTPConnection | None = None
        self._socket: object = None
        self._ended = threading.Event()
        self._passed = False

    def __enter__(self) -> Self:
        _of_thread.deadline = self
        threading.Thread(target=self._enforce, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _of_thread.deadline = None
        with self._lock:
            self._ended.set()
        # A reply without a length ends where its connection ends. So even without an error, the reply may be cut.
        if self._passed and (error is None or isinstance(error, Exception)):
            raise ReplyTooSlow(f"the exchange has not ended within {self._seconds:g} s") from error

    def use(self, connection: HTTPConnection) -> None:
        """Note the connection that the exchange uses from now on, and its socket.

        The socket is noted apart, because a connection forgets it when the reply's headers say that no further request
        may follow. The body of the reply is still read from the socket then.
        """
        self._connection, self._socket = connection, connection.sock

    def _enforce(self) -> None:
        seconds = self._seconds
        while not self._ended.wait(seconds):
            with self._lock:
                if self._ended.is_set():
                    return
                self._passed = True
                _shut_down(self._socket)
                if self._connection:
                    _shut_down(self._connection.sock)  # the socket of a connection that is being opened
            seconds = _AGAIN_SECONDS


def _shut_down(used: object) -> None:
    if isinstance(used, socket.socket):
        with suppress(OSError):  # the socket is closed already
            # SSLSocket's own method would also drop the TLS session that the other thread is using.
            socket.socket.shutdown(used, socket.SHUT_RDWR)


def watch(manager: PoolManager) -> None:
    """Make the connections of ``manager`` subject to the ExchangeDeadline of the thread that uses them."""
    manager.pool_classes_by_scheme = {"http": _WatchedHTTPPool, "https": _WatchedHTTPSPool}


def _use(connection: HTTPConnection) -> None:
    deadline: ExchangeDeadline | None = getattr(_of_thread, "deadline", None)
    if deadline:
        deadline.use(connection)


class _WatchedHTTPConnection(HTTPConnection):
    def connect(self) -> None:
        _use(self)
        super().connect()
        _use(self)

    def request(self, *args: Any, **options: Any) -> None:
        _use(self)
        super().request(*args, **options)


class _WatchedHTTPSConnection(HTTPSConnection):
    def connect(self) -> None:
        _use(self)
        super().connect()
        _use(self)

    def request(self, *args: Any, **options: Any) -> None:
        _use(self)
        super().request(*args, **options)


class _WatchedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTPConnection


class _WatchedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPSConnection
