"""The command of `helm test`, run as a separate process against a running receiver."""

import os
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyturn_contract.message import EventType
from keyturn_contract.signature import new_key
from keyturn_local.processes.environment import IMPORT_ROOTS
from keyturn_local.receiver.process import LocalReceiver
from support.fault_env import FaultEnv
from support.wait import eventually

KEY, OTHER_KEY = new_key(b"k" * 32), new_key(b"o" * 32)
NOWHERE = "http://127.0.0.1:1/v1/notifications"


def beat(url: str, *arguments: str, aws: FaultEnv | None = None, **settings: str) -> tuple[int, str]:
    """Send one heartbeat. Return the exit status and the output."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": IMPORT_ROOTS,
        **(aws.aws.environment() if aws else {}),
        **settings,
    }
    command = [sys.executable, "-m", "keyturn_receiver.self_test", url, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert not [key for key in (KEY, OTHER_KEY, *([aws.signing_key] if aws else [])) if key[6:] in said]
    return done.returncode, said


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a file with one key."""
    file = tmp_path / "signing-key"
    file.write_text(KEY)
    return file


def with_file(env: FaultEnv, key_file: Path, **settings: str) -> LocalReceiver:
    """Start a receiver whose only signing keys are those in a file."""
    return env.receiver(KEYTURN_SIGNING_KEY_SECRET_ID="", KEYTURN_SIGNING_KEY_FILE=str(key_file), **settings)


def test_heartbeat_signed_with_the_key_in_aws_passes_and_is_not_counted(env: FaultEnv) -> None:
    receiver = env.receiver(KEYTURN_HEARTBEAT_SILENCE_SECONDS="1")
    eventually(lambda: receiver.metric("keyturn_event_path_up") == 0)
    leases = env.cluster.list("leases", env.receiver_namespace)
    status, said = beat(receiver.url, aws=env, KEYTURN_SIGNING_KEY_SECRET_ID=env.signing_key_id)
    assert status == 0, said
    assert "answered with 200" in said
    assert receiver.metric("keyturn_notifications_total", outcome="ignored") == 1
    assert receiver.metric("keyturn_event_path_up") == 0
    assert [
        each for each in env.cluster.list("leases", env.receiver_namespace) if "event-path" in each["metadata"]["name"]
    ] == [each for each in leases if "event-path" in each["metadata"]["name"]]

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    env.send(replace(env.notification_without_version("keyturn", EventType.HEARTBEAT), time=now))
    assert receiver.metric("keyturn_event_path_up") == 1  # a heartbeat of the event path does count


def test_heartbeat_signed_with_a_key_file_passes(env: FaultEnv, key_file: Path, tmp_path: Path) -> None:
    receiver = with_file(env, key_file)
    status, said = beat(receiver.url, KEYTURN_SIGNING_KEY_FILE=str(key_file))
    assert status == 0, said
    assert str(key_file) in said

    other = tmp_path / "other"
    other.write_text(OTHER_KEY)
    status, said = beat(receiver.url, KEYTURN_SIGNING_KEY_FILE=str(other))
    assert status == 1
    assert "401" in said
    assert "another key" in said


class Tls:
    """Two certificates of the same authority. Neither of them names the receiver's host."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA().create_child_ca()
        self.certificate, self.key, self.other = (directory / name for name in ("tls.crt", "tls.key", "other.crt"))
        made, other = authority.issue_cert("keyturn.example.com"), authority.issue_cert("keyturn.example.com")
        self.certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())
        self.other.write_bytes(b"".join(each.bytes() for each in other.cert_chain_pems))


def test_tls_trusts_the_given_certificate_alone(env: FaultEnv, key_file: Path, tmp_path: Path) -> None:
    tls = Tls(tmp_path)
    files = {"KEYTURN_TLS_CERTIFICATE_FILE": str(tls.certificate), "KEYTURN_TLS_KEY_FILE": str(tls.key)}
    receiver = with_file(env, key_file, **files)
    url, keys = receiver.url.replace("http://", "https://"), {"KEYTURN_SIGNING_KEY_FILE": str(key_file)}
    status, said = beat(url, "--certificate", str(tls.certificate), **keys)
    assert status == 0, said

    for certificate in ([], ["--certificate", str(tls.other)]):  # no certificate, and another one of the same authority
        status, said = beat(url, *certificate, **keys)
        assert status == 1
        assert "its certificate is not" in said
    status, said = beat(url, "--certificate", str(key_file), **keys)
    assert (status, "contains no certificate" in said) == (1, True)
    status, said = beat(receiver.url, **keys)
    assert (status, "does this port serve https://?" in said) == (1, True)


def test_public_keys_alone_prove_that_unsigned_is_refused(env: FaultEnv) -> None:
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    keys = {"KEYTURN_SIGNING_PUBLIC_KEYS": "whpk_" + b64encode(public).decode()}
    receiver = env.receiver(KEYTURN_SIGNING_KEY_SECRET_ID="", **keys)
    status, said = beat(receiver.url, **keys)
    assert status == 0, said
    assert "unsigned" in said
    assert "Not tested" in said


def test_unreadable_key_is_named(env: FaultEnv, tmp_path: Path) -> None:
    status, said = beat(NOWHERE, aws=env, KEYTURN_SIGNING_KEY_SECRET_ID="keyturn/none")
    assert (status, "AWS secret keyturn/none does not exist" in said) == (1, True)
    status, said = beat(NOWHERE, KEYTURN_SIGNING_KEY_FILE=str(tmp_path / "none"))
    assert (status, "does not exist" in said) == (1, True)
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "us-east-1"}
    away |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    status, said = beat(NOWHERE, KEYTURN_SIGNING_KEY_SECRET_ID="keyturn/signing-key", **away)
    assert (status, "AWS cannot be reached" in said) == (1, True)
    status, said = beat(NOWHERE, KEYTURN_SIGNING_KEY_SECRET_ID="keyturn/signing-key")
    assert (status, "set AWS_REGION" in said) == (1, True)


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Serve one connection with a fixed answer, or without one if ``answer`` is None. Yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(65536)
                if answer is not None:
                    connection.sendall(answer)
                while answer is None and connection.recv(65536):
                    pass  # the rest of the request, and then nothing until the client gives up

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/notifications"
        thread.join(20)


STRANGERS = {
    "silence": (None, "no response within 10 s"),
    "something that is no HTTP": (b"220 mail.example.com ESMTP\r\n", "does not speak HTTP"),
    "a page": (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "Something else is at this address"),
    "a redirect": (
        b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "Use its target as the URL",
    ),
}


@pytest.mark.parametrize(("answer", "words"), STRANGERS.values(), ids=STRANGERS)
def test_answer_of_another_server_fails_with_the_reason(key_file: Path, answer: bytes | None, words: str) -> None:
    with answering(answer) as url:
        status, said = beat(url, KEYTURN_SIGNING_KEY_FILE=str(key_file))
    assert status == 1
    assert words in said


def test_unreachable_receiver_is_reported(key_file: Path) -> None:
    for url in (NOWHERE, "https://127.0.0.1:1/v1/notifications", "http://keyturn.invalid/v1/notifications"):
        status, said = beat(url, KEYTURN_SIGNING_KEY_FILE=str(key_file))
        assert (status, "cannot be reached" in said, "NetworkPolicy" in said) == (1, True, True), said


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        ([], {"KEYTURN_SIGNING_KEY_FILE": "/keys"}, "URL"),
        (["keyturn:8080"], {"KEYTURN_SIGNING_KEY_FILE": "/keys"}, "http(s)://"),
        (["http://keyturn:eighty"], {"KEYTURN_SIGNING_KEY_FILE": "/keys"}, "http(s)://"),
        ([NOWHERE, "--certificate", "tls.crt"], {"KEYTURN_SIGNING_KEY_FILE": "/keys"}, "https://"),
        ([NOWHERE], {}, "KEYTURN_SIGNING_KEY_FILE"),
        ([NOWHERE], {"KEYTURN_SIGNING_KEY_FILE": "/keys", "KEYTURN_PORT": "eighty"}, "KEYTURN_PORT"),
    ],
)
def test_wrong_arguments_and_settings_are_named(arguments: list[str], settings: dict[str, str], named: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": IMPORT_ROOTS, **settings}
    command = [sys.executable, "-m", "keyturn_receiver.self_test", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, named in done.stderr, "Traceback" in done.stderr) == (2, True, False)
