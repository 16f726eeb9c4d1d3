"""Raw HTTP connections to a receiver's webhook. They can send any bytes, and can leave answers unread."""

import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from keyturn_local.receiver.process import LocalReceiver


class RawConnection:
    """A connection to the webhook. It sends ``first`` as soon as it is open."""

    def __init__(self, receiver: LocalReceiver, first: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(receiver.url)
        self.socket = socket.socket()
        # The receive buffer is small, so that unread answers soon fill it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(10)
        self.socket.connect((parts.hostname, parts.port))
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.send(first)

    def send(self, data: bytes) -> bool:
        """Send bytes. Return False if the connection is closed or the receiver accepts no more bytes."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def send_repeatedly(self, piece: bytes, most: int) -> int:
        """Send the same bytes again and again, until an error occurs or ``most`` bytes are sent. Return the number of
        bytes sent."""
        taken = 0
        try:
            while taken < most:
                taken += self.socket.send(piece)
        except OSError:
            pass
        return taken

    def read_to_end(self, seconds: float = 10) -> bytes:
        """Read until the connection is closed, or until no byte has arrived for ``seconds``."""
        content = b""
        self.socket.settimeout(seconds)
        try:
            while piece := self.socket.recv(65536):
                content += piece
        except OSError:
            pass
        return content

    @property
    def closed(self) -> bool:
        """Whether the receiver has closed the connection. The check consumes no data."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


@contextmanager
def raw_connections() -> Iterator[list[RawConnection]]:
    """Yield a list for connections, and close the connections in it at the end of the test."""
    made: list[RawConnection] = []
    try:
        yield made
    finally:
        for each in made:
            each.close()


def request(*headers: str, body: bytes = b"", method: str = "POST", path: str = "/v1/notifications") -> bytes:
    """Return the bytes of a request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: keyturn", *headers, "", "")).encode() + body


def send_without_reading(
    some: Sequence[RawConnection], asked: bytes, receiver: LocalReceiver, most: int = 3000
) -> None:
    """Send deliveries on each connection without reading any answer, until the receiver stops reading from all of them.

    A receiver closes a connection with many unanswered deliveries. So as long as it keeps answering, at most 8
    deliveries may be unanswered at a time. If it falls behind for two seconds, it is assumed to be blocked by the
    unread answers.
    """
    answered_before = receiver.metric("keyturn_deliveries_total", code="200")
    writable, sent, answering = set(some), 0, True
    for each in some:
        each.socket.settimeout(0.5)
    for _ in range(most):
        writable = {each for each in writable if each.send(asked)}
        if not writable:
            return
        sent += len(writable)
        deadline = time.monotonic() + 2
        while answering and sent - (receiver.metric("keyturn_deliveries_total", code="200") - answered_before) > 8:
            answering = time.monotonic() < deadline
            time.sleep(0.002)
    raise AssertionError("the receiver goes on reading from a connection that reads no answers")
