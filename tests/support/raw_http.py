"""Raw HTTP: connections to a receiver's webhook that send any bytes, and read or do not read."""

import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from keyturn_local.receiver.process import LocalReceiver


class RawConnection:
    """One connection to the webhook, on which ``first`` has been sent."""

    def __init__(self, receiver: LocalReceiver, first: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(receiver.url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that unread answers soon fill it
        self.socket.settimeout(10)
        self.socket.connect((parts.hostname, parts.port))
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.send(first)

    def send(self, data: bytes) -> bool:
        """Send bytes; False when the receiver has closed the connection."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def send_repeatedly(self, piece: bytes, most: int) -> int:
        """Send the same again and again; return how many bytes were taken before the end, or ``most``."""
        taken = 0
        try:
            while taken < most:
                taken += self.socket.send(piece)
        except OSError:
            pass
        return taken

    def read_to_end(self, seconds: float = 10) -> bytes:
        """Read until the connection is closed, or until ``seconds`` have passed without a byte."""
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
        """Whether the other side has closed it; found out without reading."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it."""
        self.socket.close()


@contextmanager
def raw_connections() -> Iterator[list[RawConnection]]:
    """A list whose connections are closed at the end."""
    made: list[RawConnection] = []
    try:
        yield made
    finally:
        for each in made:
            each.close()


def request(*headers: str, body: bytes = b"", method: str = "POST", path: str = "/v1/notifications") -> bytes:
    """A request as its bytes."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: keyturn", *headers, "", "")).encode() + body


def send_without_reading(some: Sequence[RawConnection], asked: bytes, receiver: LocalReceiver, most: int = 600) -> None:
    """Send deliveries on each connection and read no answer, until the receiver stops reading from all of them.

    While the receiver answers, at most 8 deliveries wait for their answers: it closes a connection on which many more
    wait. Once it has answered nothing for two seconds, it waits for us to read.
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
