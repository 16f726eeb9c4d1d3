"""POSTs of the command line to real servers on loopback, and the relay of a forwarded port."""

import socket
import ssl
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyturn_cli.doctor.finding import Unknown
from keyturn_cli.doctor.url_reader import read_url_facts
from keyturn_cli.errors import CliError, UsageError
from keyturn_cli.http_post import NoReply, post, read_url
from keyturn_cli.port_forward import Disconnected, Forwarder, by_client, by_kubectl, check_page, free_port
from keyturn_local.processes.ports import free_ports
from keyturn_local.receiver.certificate import Certificate
from support.fake_receiver import FakeReceiver


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.issue(tmp_path)


@pytest.fixture
def receiver(certificate: Certificate) -> Iterator[FakeReceiver]:
    with closing(FakeReceiver(certificate.context())) as running:
        running.respond = lambda headers, body: (401, b'{"error": "not verified"}')
        yield running


@pytest.fixture
def ca_file(certificate: Certificate, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(certificate.bundle)
    return file


@pytest.mark.parametrize("text", ["", "x", "ftp://a/b", "https://", "https://u:p@host/", "https://h:0/", "https://[/"])
def test_odd_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the URL of a receiver"):
        read_url(text)


def test_facts_of_a_url_are_read_without_a_signature(receiver: FakeReceiver, ca_file: Path) -> None:
    facts = read_url_facts(read_url(receiver.url), ca_file, datetime.now(UTC))
    assert (facts.status, facts.by_receiver) == (401, True)
    assert isinstance(facts.expires, datetime)
    assert facts.expires > datetime.now(UTC)
    ((headers, _),) = receiver.requests
    assert not [name for name in headers if name.startswith("webhook-")]


def test_mark_of_a_receiver_is_missed(receiver: FakeReceiver, ca_file: Path) -> None:
    receiver.is_marked = False
    assert not read_url_facts(read_url(receiver.url), ca_file, datetime.now(UTC)).by_receiver


def test_certificate_of_an_unknown_authority_is_a_fault(receiver: FakeReceiver) -> None:
    facts = read_url_facts(read_url(receiver.url), None, datetime.now(UTC))
    assert isinstance(facts.expires, Unknown)
    assert "unable to get local issuer certificate" in facts.expires.why
    assert receiver.requests == []


def test_url_without_tls_is_a_fault() -> None:
    facts = read_url_facts(read_url("http://keyturn.example.com/v1/notifications"), None, datetime.now(UTC))
    assert isinstance(facts.expires, Unknown)
    assert "it is not https" in facts.expires.why


def test_port_without_a_listener_has_a_plain_sentence() -> None:
    (port,) = free_ports(1)
    with pytest.raises(NoReply, match=r"no connection \(ConnectionRefusedError\): check the name"):
        post(read_url(f"https://127.0.0.1:{port}/"), b"", {})


def test_port_without_tls_has_a_plain_sentence() -> None:
    with (
        closing(FakeReceiver()) as plain,
        pytest.raises(NoReply, match="TLS failed: check that this port serves https"),
    ):
        post(read_url(plain.url.replace("http:", "https:")), b"", {})


def test_redirect_is_not_followed(receiver: FakeReceiver, ca_file: Path) -> None:
    receiver.respond = lambda headers, body: (307, b"")
    receiver.extra_headers = {"Location": receiver.url}
    assert post(read_url(receiver.url), b"", {}, ca_file).status == 307
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_ca_file_that_is_none_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "given.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as certificates"):
        post(read_url("https://127.0.0.1:9/"), b"", {}, file)


# --- forwarded ports


@pytest.fixture
def page(tmp_path: Path) -> Iterator[int]:
    """Serve a page, as a pod does, and yield its port."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 404)
            self.end_headers()
            self.wfile.write(b"x" * 1_000_000)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def test_relay_carries_several_requests_whole(page: int) -> None:
    local = free_port(0)
    with by_client(lambda: socket.create_connection(("127.0.0.1", page)), local):
        check_page(local)
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{local}/", timeout=10) as reply:
                assert reply.read() == b"x" * 1_000_000


def test_relay_that_cannot_dial_has_the_reason() -> None:
    def refuse() -> socket.socket:
        raise CliError("pods/portforward is forbidden")

    with pytest.raises(CliError, match=r"^pods/portforward is forbidden$"), by_client(refuse, free_port(0)):
        pass


def test_relay_ends_with_the_reason_once_it_cannot_dial(page: int) -> None:
    pods = [page, page]

    def dial() -> socket.socket:
        if not pods:
            raise CliError("the pod is gone", "an advice")
        return socket.create_connection(("127.0.0.1", pods.pop()))

    local = free_port(0)
    with by_client(dial, local) as wait:
        check_page(local)
        with pytest.raises(CliError, match="the pod serves no status page"):
            check_page(local)
        with pytest.raises(Disconnected, match=r"^the pod is gone$"):
            wait()


def test_page_that_is_not_there_is_said(page: int) -> None:
    (port,) = free_ports(1)
    with pytest.raises(CliError, match="the pod serves no status page"):
        check_page(port)


def test_taken_port_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port


def test_forwarder_listens_on_loopback_alone() -> None:
    with Forwarder(0, lambda: None) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_words_of_kubectl_are_shown_if_it_does_not_start() -> None:
    program = "import sys; print('error: pods \"x\" is forbidden', file=sys.stderr); sys.exit(1)"
    with (
        pytest.raises(CliError, match=r'does not start: pods "x" is forbidden: ask for the right'),
        by_kubectl([sys.executable, "-c", program]),
    ):
        pass


def test_kubectl_that_neither_listens_nor_ends_is_ended() -> None:
    program = "import time; print('Waiting for a login', flush=True); time.sleep(600)"
    with (
        pytest.raises(CliError, match="does not start: Waiting for a login: ask for the right"),
        by_kubectl([sys.executable, "-c", program], seconds=1),
    ):
        pass


def test_forwarding_of_kubectl_that_ends_is_an_error() -> None:
    # The output is larger than the buffer of a pipe, so kubectl goes on only if somebody reads it.
    program = (
        "import sys; print('Forwarding from 127.0.0.1:9091 -> 9091');"
        "print('Handling connection for 9091\\n' * 10000, flush=True);"
        "print('E1129 an error occurred forwarding\\nerror: lost connection to pod', file=sys.stderr)"
    )
    with (
        pytest.raises(Disconnected, match=r"^lost connection to pod$"),
        by_kubectl([sys.executable, "-c", program]) as wait,
    ):
        wait()


def test_context_verifies_names() -> None:
    from keyturn_cli.http_post import tls_context

    assert tls_context(None).verify_mode is ssl.CERT_REQUIRED
    assert tls_context(None).check_hostname
