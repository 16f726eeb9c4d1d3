"""Strangers at a receiver's door: connections that say what they like, byte by byte."""

import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from keyturn_local.receiver.process import LocalReceiver


class Stranger:
    """One connection to the door, on which ``first`` has been said."""

    def __init__(self, receiver: LocalReceiver, first: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(receiver.url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it need not hear much
        self.socket.settimeout(10)
        self.socket.connect((parts.hostname, parts.port))
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.send(first)

    def send(self, data: bytes) -> bool:
        """Say something; False when nobody listens any more."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def pour(self, piece: bytes, most: int) -> int:
        """Say the same again and again; return how many bytes were taken before the end, or ``most``."""
        taken = 0
        try:
            while taken < most:
                taken += self.socket.send(piece)
        except OSError:
            pass
        return taken

    def answer(self, seconds: float = 10) -> bytes:
        """Hear what is answered, until the end or ``seconds`` without a word."""
        heard = b""
        self.socket.settimeout(seconds)
        try:
            while piece := self.socket.recv(65536):
                heard += piece
        except OSError:
            pass
        return heard

    @property
    def closed(self) -> bool:
        """Whether the other side has ended it; found out without reading."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """End it."""
        self.socket.close()


@contextmanager
def strangers() -> Iterator[list[Stranger]]:
    """A list whose connections are ended in the end."""
    made: list[Stranger] = []
    try:
        yield made
    finally:
        for each in made:
            each.close()


def request(*headers: str, body: bytes = b"", method: str = "POST", path: str = "/v1/notifications") -> bytes:
    """A request, word for word."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: keyturn", *headers, "", "")).encode() + body


def never_reading(some: Sequence[Stranger], asked: bytes, most: int = 600) -> None:
    """Let them ask, and not hear what they are answered, until nobody listens to them for now."""
    talking = set(some)
    for each in some:
        each.socket.settimeout(0.5)
    for _ in range(most):
        talking = {each for each in talking if each.send(asked)}
        if not talking:
            return
        time.sleep(0.008)  # so that no more wait for their answers than one connection may ask at once
    raise AssertionError("somebody goes on listening")
