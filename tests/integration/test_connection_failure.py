"""The notifier's messages for the ways in which a POST can end without an answer, tested with real sockets."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import urllib3

from keyturn_notifier.authorities import Authorities, tls_context
from keyturn_notifier.certificates import Certificates, parse_file
from keyturn_notifier.connection_failure import describe
from keyturn_notifier.delivery import connection_pool
from keyturn_notifier.exchange_deadline import ExchangeDeadline, ReplyTooSlow
from keyturn_notifier.proxy import parse_proxy
from support.authority import Authority
from support.fake_receiver import FakeReceiver

CONNECT, REPLY = 0.4, 0.6  # seconds


def trusting(ca: bytes) -> ssl.SSLContext:
    """Return the notifier's TLS context, which also trusts the CAs of a PEM file."""
    return Authorities(parse_file(ca.decode()) if ca else Certificates(), None, pytest.fail).context


def failure(url: str, ca: bytes = b"", proxy: str = "") -> str:
    """POST as the notifier does, but with shorter timeouts. Return the message for the error."""
    pool = connection_pool(url, trusting(ca), parse_proxy(proxy, ()) if proxy else None)
    timeout = urllib3.Timeout(connect=CONNECT, read=REPLY)
    with pytest.raises(urllib3.exceptions.HTTPError) as caught, ExchangeDeadline(CONNECT + REPLY):
        pool.request("POST", url, body=b"[]", retries=False, timeout=timeout)
    return describe(caught.value, CONNECT, REPLY)


@pytest.fixture
def server() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Return a function that starts a server and returns the server's port. The server passes its first connection to
    ``serve``."""
    with ExitStack() as stack:

        def start(serve: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def accept() -> None:
                connection = stack.enter_context(listener.accept()[0])
                serve(connection)

            threading.Thread(target=accept, daemon=True).start()
            return int(listener.getsockname()[1])

        yield start


@contextmanager
def full_server() -> Iterator[str]:
    """Yield the URL of a server whose backlog is full. Linux drops further connections then."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def replying(content: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(content)
        connection.close()

    return serve


def test_name_that_does_not_resolve() -> None:
    assert failure("https://receiver.invalid/v1/notifications") == "its name does not resolve"


def test_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert failure(f"https://127.0.0.1:{port}/v1/notifications") == "connection refused"


def test_network_without_a_route() -> None:
    assert failure("https://255.255.255.255/v1/notifications") == "no route to it"


def test_connection_that_nobody_accepts() -> None:
    with full_server() as url:
        assert failure(f"{url}/v1/notifications") == "no connection within 0.4 s (security group, route)"


def test_connection_that_answers_no_handshake(server: Callable[..., int]) -> None:
    port = server(lambda connection: None)
    assert failure(f"https://127.0.0.1:{port}/v1/notifications") == "TLS: no handshake within 0.4 s"


def test_port_that_speaks_no_tls(server: Callable[..., int]) -> None:
    port = server(replying(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert failure(f"https://127.0.0.1:{port}/v1/notifications").startswith("TLS: ")


def test_request_without_an_answer(server: Callable[..., int]) -> None:
    port = server(lambda connection: None)
    assert failure(f"http://127.0.0.1:{port}/v1/notifications") == "no answer within 0.6 s"


TOO_SLOW = "no complete answer within 1 s"
BEGINNINGS = {
    "status line": b"HTTP/1.1 200 ",
    "headers": b"HTTP/1.1 200 OK\r\na: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n",
    "body without a length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
}


def dripping(beginning: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client closes the connection
            connection.recv(65536)
            connection.sendall(beginning)
            while True:
                connection.sendall(b"1")
                time.sleep(0.1)

    return serve


class TestAnswerThatDrips:
    """The answer never ends, and its next byte always comes before the timeout."""

    @pytest.mark.parametrize("part", BEGINNINGS)
    def test_without_tls(self, server: Callable[..., int], part: str) -> None:
        assert failure(f"http://127.0.0.1:{server(dripping(BEGINNINGS[part]))}/v1/notifications") == TOO_SLOW

    @pytest.mark.parametrize("part", BEGINNINGS)
    def test_with_tls(self, server: Callable[..., int], tmp_path: Path, part: str) -> None:
        authority = Authority()
        context, serve = authority.server_context(tmp_path), dripping(BEGINNINGS[part])
        port = server(lambda connection: serve(context.wrap_socket(connection, server_side=True)))
        assert failure(f"https://127.0.0.1:{port}/v1/notifications", authority.pem) == TOO_SLOW

    def test_of_a_proxy(self, server: Callable[..., int]) -> None:
        proxy = f"http://127.0.0.1:{server(dripping(BEGINNINGS['headers']))}"
        assert failure("https://receiver.example/v1/notifications", proxy=proxy) == TOO_SLOW

    def test_connection_of_an_earlier_exchange(self, server: Callable[..., int]) -> None:
        def serve(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
            dripping(BEGINNINGS["headers"])(connection)

        url = f"http://127.0.0.1:{server(serve)}/v1/notifications"
        pool = connection_pool(url, trusting(b""), None)
        with ExchangeDeadline(0.3):
            assert pool.request("POST", url, retries=False).data == b"1"
        time.sleep(0.5)  # the deadline of the first exchange must not close the connection, which is idle
        start = time.monotonic()
        with pytest.raises(ReplyTooSlow), ExchangeDeadline(0.3):
            pool.request("POST", url, retries=False, timeout=5)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "the answer is incomplete"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            "the answer is not encoded as it says",
        ),
    ],
)
def test_answer_that_is_none(server: Callable[..., int], content: bytes, words: str) -> None:
    assert failure(f"http://127.0.0.1:{server(replying(content))}/v1/notifications") == words


class TestProxy:
    RECEIVER = "https://receiver.example/v1/notifications"

    def test_proxy_that_does_not_resolve(self) -> None:
        assert failure(self.RECEIVER, proxy="http://proxy.invalid:3128") == "the proxy: its name does not resolve"

    def test_proxy_that_is_down(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert failure(self.RECEIVER, proxy=f"http://127.0.0.1:{port}") == "the proxy: connection refused"

    @pytest.mark.parametrize("status", [403, 407, 502])
    def test_proxy_that_refuses_the_receiver(self, server: Callable[..., int], status: int) -> None:
        """The text after the status is written by the proxy, and may contain anything."""
        port = server(replying(f"HTTP/1.1 {status} no way to receiver.example\r\n\r\n".encode()))
        words = f"the proxy: it refuses the receiver with status {status}"
        assert failure(self.RECEIVER, proxy=f"http://127.0.0.1:{port}") == words

    def test_proxy_that_accepts_no_connection(self) -> None:
        with ExitStack() as stack:
            proxy = stack.enter_context(full_server())
            words = "the proxy: no connection within 0.4 s (security group, route)"
            assert failure(self.RECEIVER, proxy=proxy) == words


class TestCertificates:
    """The rules for certificates are those of Python 3.13, which is the functions' runtime, no matter which Python runs
    the test."""

    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[[Authority], FakeReceiver]]:
        started: list[FakeReceiver] = []

        def make(authority: Authority) -> FakeReceiver:
            started.append(FakeReceiver(authority.server_context(tmp_path)))
            started[-1].respond = lambda headers, body: (200, b"")
            return started[-1]

        yield make
        for receiver in started:
            receiver.close()

    def test_certificate_by_the_rules_is_accepted(self, start: Callable[[Authority], FakeReceiver]) -> None:
        authority = Authority()
        pool = urllib3.PoolManager(ssl_context=trusting(authority.pem))
        assert pool.request("POST", start(authority).url, body=b"[]", retries=False).status == 200

    def test_unknown_authority(self, start: Callable[[Authority], FakeReceiver]) -> None:
        assert failure(start(Authority()).url) == "TLS: unable to get local issuer certificate"

    def test_certificate_for_another_host(self, start: Callable[[Authority], FakeReceiver]) -> None:
        authority = Authority()
        url = start(authority).url.replace("127.0.0.1", "localhost")
        assert failure(url, authority.pem).startswith("TLS: Hostname mismatch")

    @pytest.mark.parametrize(
        ("authority", "words"),
        [
            (Authority(key_identifier=False), "TLS: Missing Authority Key Identifier"),
            (Authority(critical=False), "TLS: Basic Constraints of CA cert not marked critical"),
        ],
    )
    def test_authority_that_breaks_rfc_5280(
        self, start: Callable[[Authority], FakeReceiver], authority: Authority, words: str
    ) -> None:
        assert tls_context().verify_flags & ssl.VERIFY_X509_STRICT
        assert failure(start(authority).url, authority.pem) == words
