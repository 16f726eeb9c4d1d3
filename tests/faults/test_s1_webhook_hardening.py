"""S1 to S4: clients without the signing key cost the receiver almost nothing, delay nobody, and learn nothing."""

import asyncio
import gzip
import json
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from keyturn_contract.message import MAX_BODY, EventType, encode
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import LocalReceiver
from keyturn_notifier.delivery import connection_pool
from support.deliveries import notification, signed
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault
from support.raw_http import RawConnection, raw_connections, request, send_without_reading
from support.wait import eventually

MB = 2**20
BEAT = encode([notification("keyturn", kind=EventType.HEARTBEAT)])


@pytest.fixture(scope="module")
def shared_env(
    control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultEnv]:
    """An environment with one receiver. Tests that share it leave it as they found it."""
    with FaultEnv.start(control_plane, session_aws, signing_key_id, tmp_path_factory.mktemp("door"), {}) as env:
        env.receiver()
        yield env


class Authority:
    """A CA that clients trust, and the receiver's certificate and key in files."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.client = ssl.create_default_context()
        self.certificate_text, self.key_text = self.issue()
        self.certificate.write_bytes(self.certificate_text)
        self.key.write_bytes(self.key_text)

    def issue(self) -> tuple[bytes, bytes]:
        """Create a new CA that clients trust from now on, and return a certificate of this CA and its private key."""
        authority = trustme.CA()
        authority.configure_trust(self.client)
        made = authority.issue_cert("127.0.0.1")
        return b"".join(each.bytes() for each in made.cert_chain_pems), made.private_key_pem.bytes()

    @property
    def settings(self) -> dict[str, str]:
        return {"KEYTURN_TLS_CERTIFICATE_FILE": str(self.certificate), "KEYTURN_TLS_KEY_FILE": str(self.key)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def url(receiver: LocalReceiver, tls: bool) -> str:
    return receiver.url.replace("http://", "https://") if tls else receiver.url


def honest(env: FaultEnv, receiver: LocalReceiver, authority: Authority | None = None) -> int:
    """Deliver a heartbeat as the notifier does, and return the status of the answer, or 0 if there was no answer."""
    try:
        with httpx.Client(verify=authority.client if authority else True, timeout=5) as http:
            reply = http.post(url(receiver, bool(authority)), content=BEAT, headers=signed(env.key, BEAT))
            return env.deliveries.record(reply).status
    except httpx.TransportError:
        return 0


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[begin : begin + size] for begin in range(0, len(body), size))
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


def head_of(key: bytes, body: bytes, *more: str) -> bytes:
    """Return the head of a signed delivery of ``body``. One of the headers in ``more`` has to be Content-Length or
    Transfer-Encoding."""
    return request(*(f"{name}: {value}" for name, value in signed(key, body).items()), *more)


@pytest.mark.fault("S1")
@pytest.mark.parametrize("size", [10, 1000, 16 * 1024])
def test_body_of_the_limit_is_accepted_and_one_byte_more_refused(shared_env: FaultEnv, size: int) -> None:
    """The receiver accepts a body of exactly 16 KiB and answers 413 to a body that is one byte longer. This holds with
    a declared length and with chunks."""
    (receiver,) = shared_env.receivers
    exactly = BEAT + b" " * (MAX_BODY - len(BEAT))
    for body, status in ((exactly, b"200"), (exactly + b" ", b"413")):
        ways = (
            (f"Content-Length: {len(body)}", body),
            (f"Content-Length: {len(body):040}", body),  # llhttp accepts leading zeros, so our check must, too
            ("Transfer-Encoding: chunked", chunked(body, size)),
        )
        for told, sent in ways:
            with raw_connections() as made:
                made.append(RawConnection(receiver, head_of(shared_env.key, body, told, "Connection: close") + sent))
                assert made[0].read_to_end().startswith(b"HTTP/1.1 " + status), (told, len(sent))


@pytest.mark.fault("S1")
def test_declared_length_over_the_limit_is_refused_before_the_body(shared_env: FaultEnv) -> None:
    """The receiver answers 413 as soon as a head declares a length over the limit. It waits for no body and checks no
    signature."""
    for length in (MAX_BODY + 1, 10**9, 2**63 - 1):
        with raw_connections() as made:
            made.append(RawConnection(shared_env.receivers[0], request(f"Content-Length: {length}")))
            begun = time.monotonic()
            assert made[0].read_to_end().startswith(b"HTTP/1.1 413")
            assert time.monotonic() - begun < 5  # well before the 10 s that a body may take


CHUNKED = request("Transfer-Encoding: chunked")
# For each endless input: the bytes that are sent first, and the bytes that are then sent again and again.
ENDLESS: Mapping[str, tuple[bytes, bytes]] = {
    "a body": (request("Content-Length: 200000000"), b"x" * 65536),
    "chunks": (CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "chunks of one byte": (CHUNKED, b"1\r\nx\r\n" * 10000),
    "a chunk's size": (CHUNKED, b"0" * 65536),
    "a chunk's extension": (CHUNKED + b"1;", b"x" * 65536),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 10000),
    "one trailer": (CHUNKED + b"1\r\nx\r\n0\r\na: ", b"x" * 65536),
    "a body for nobody": (request("Content-Length: 200000000", path="/elsewhere"), b"x" * 65536),
    "headers": (b"POST / HTTP/1.1\r\n", b"a: b\r\n" * 10000),
    "one header": (b"POST / HTTP/1.1\r\na: ", b"x" * 65536),
    "a path": (b"POST /", b"x" * 65536),
    "empty lines": (b"", b"\r\n" * 30000),
    "requests": (b"", request("Content-Length: 0") * 1000),
    "requests for nothing": (b"", b"GET / HTTP/1.1\r\n\r\n" * 4000),
}


@contextmanager
def memory(receiver: LocalReceiver, most: int) -> Iterator[None]:
    """Check that the receiver's memory grows by less than ``most`` bytes during the block."""
    before = peak = receiver.metric("process_resident_memory_bytes")
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, receiver.metric("process_resident_memory_bytes"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()
    assert peak - before < most, f"{(peak - before) / MB:.0f} MB more"


@pytest.mark.fault("S1")
@pytest.mark.parametrize(("first", "again"), ENDLESS.values(), ids=ENDLESS)
def test_endless_input_is_read_no_further_than_the_limit(shared_env: FaultEnv, first: bytes, again: bytes) -> None:
    """A client tries to send 200 MB of a body, chunks, chunk extensions, trailers, headers, a path or requests. The
    receiver stops reading at the limit, and does not hold the rest in memory."""
    (receiver,) = shared_env.receivers
    with memory(receiver, 16 * MB), raw_connections() as made:
        made.append(RawConnection(receiver, first))
        taken = made[0].send_repeatedly(again, 200 * MB)
        assert taken < 20 * MB  # this much fits into socket buffers, which are not part of the receiver's memory
        eventually(lambda: made[0].closed, 5)
        assert honest(shared_env, receiver) == 200


@pytest.mark.fault("S1")
def test_endless_input_of_many_connections_takes_little_memory(shared_env: FaultEnv) -> None:
    """Seven hundred clients each send as much of a head, of trailers or of one long trailer as the receiver accepts,
    and then stop. The receiver's memory grows by less than 40 MB."""
    (receiver,) = shared_env.receivers
    tiny = b"a:b\r\n" * 6000
    with memory(receiver, 40 * MB), raw_connections() as made:
        for _ in range(300):
            made.append(RawConnection(receiver, b"POST / HTTP/1.1\r\n" + tiny))
            made.append(RawConnection(receiver, CHUNKED + b"1\r\nx\r\n0\r\n" + tiny))
        for _ in range(100):
            made.append(RawConnection(receiver, CHUNKED + b"1\r\nx\r\n0\r\na: " + b"x" * 30000))
        assert honest(shared_env, receiver) == 200


def hello() -> bytes:
    """Return the first message of a TLS handshake."""
    said = ssl.MemoryBIO()
    shaking = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        shaking.do_handshake()
    return said.read()


ANSWERED = request("Content-Length: 0")  # is answered with 401
# For each case: the bytes that are sent first, and the bytes that follow at one byte a second. The receiver closes
# these connections after it has waited ten seconds, except for the last case, which it answers with 404 at once.
WAITING: Mapping[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a head": (b"POST /v1/notifications HTTP/1.1\r\nHost: keyt", b""),
    "a head, byte by byte": (b"", request("Content-Length: 5")),
    "headers, byte by byte": (b"POST / HTTP/1.1\r\n", b"a: b\r\n" * 20),
    "empty lines": (b"", b"\n" * 60),
    "half a body": (request("Content-Length: 100", body=b"half"), b""),
    "a body, byte by byte": (request("Content-Length: 100"), b"x" * 60),
    "no body": (request("Content-Length: 100"), b""),
    "a body that it waits to be asked for": (request("Content-Length: 100", "Expect: 100-continue"), b""),
    "chunks of one byte": (CHUNKED, b"1\r\nx\r\n" * 10),
    "a chunk's extension, byte by byte": (CHUNKED + b"1;", b"x" * 60),
    "trailers, byte by byte": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10),
    "a second head, byte by byte": (ANSWERED, request("Content-Length: 5")),
    "empty lines after an answer": (ANSWERED, b"\n" * 60),
    "half a body after an answer": (ANSWERED + request("Content-Length: 100", body=b"half"), b""),
    "a body for nobody, byte by byte": (request("Content-Length: 100", path="/elsewhere"), b"x" * 60),
}
SHAKING: Mapping[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a handshake": (hello()[:50], b""),
    "a handshake, byte by byte": (b"", hello()),
    "a handshake without its end": (hello(), b""),
}


def long_answered(env: FaultEnv) -> bytes:
    """Return a delivery whose answer is long, because the answer repeats the delivery's long ids. Only a client with
    the key can get such an answer."""
    beats = (replace(notification("keyturn", kind=EventType.HEARTBEAT), id=f"{number}" * 1300) for number in range(10))
    body = encode(list(beats))
    return head_of(env.key, body, f"Content-Length: {len(body)}") + body


@pytest.mark.fault("S2")
def test_stalled_connection_is_closed_after_ten_seconds(env: FaultEnv, authority: Authority) -> None:
    """Connections send nothing, stop halfway through a head, a body or a TLS handshake, send a byte a second, or do not
    read their answers. The receiver closes all of them within 30 s (its own limit is ten seconds), and one with a body
    for an unknown path at once. It serves clients with the key meanwhile."""
    plain, tls = env.receiver(), env.receiver(**authority.settings)
    with raw_connections() as made:
        cases = {"answers unread": (RawConnection(plain), b"")}
        send_without_reading([cases["answers unread"][0]], long_answered(env), plain)
        cases |= {name: (RawConnection(plain, first), again) for name, (first, again) in WAITING.items()}
        cases |= {f"TLS: {name}": (RawConnection(tls, first), again) for name, (first, again) in SHAKING.items()}
        cases["TLS: hands shaken"] = (RawConnection(tls, tls=authority.client), b"")
        cases["TLS: half a head"] = (RawConnection(tls, b"POST / HTT", authority.client), b"")
        made += [each for each, _ in cases.values()]
        begun = time.monotonic()
        ended: dict[str, float] = {}
        for second in range(60):
            for name, (each, again) in cases.items():
                if name not in ended and each.closed:
                    ended[name] = time.monotonic() - begun
                if name not in ended and second < len(again):
                    each.send(again[second : second + 1])
            if len(ended) == len(cases):
                break
            assert honest(env, plain) == 200
            assert honest(env, tls, authority) == 200
            time.sleep(max(0.0, begun + second + 1 - time.monotonic()))
        assert ended.keys() == cases.keys(), f"never cut: {sorted(cases.keys() - ended.keys())}"
        assert max(ended.values()) < 30, ended
        at_once = {name for name, after in ended.items() if after < 5}
        assert at_once == {"a body for nobody, byte by byte"}, ended  # the 404 does not wait for the body
        reasons = ("slow head", "slow reader")
        assert all(plain.metric("keyturn_connections_closed_total", reason=reason) for reason in reasons)
        assert not [line for line in (plain.log + tls.log).splitlines() if '"level": "ERROR"' in line]


@pytest.mark.fault("S2")
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
def test_connections_over_the_limit_close_the_oldest(env: FaultEnv, authority: Authority, over_tls: bool) -> None:
    """Four hundred strangers connect to a receiver that allows four connections, and stay silent, stop halfway, linger
    after an answer, or do not read answers. The receiver closes the oldest connections, and serves clients with the key
    throughout."""
    receiver = env.receiver(KEYTURN_MAX_CONNECTIONS="4", **(authority.settings if over_tls else {}))
    holder, client = (authority, authority.client) if over_tls else (None, None)
    firsts = (b"", b"POST / HTTP/1.1\r\n", request("Content-Length: 100", body=b"half"), ANSWERED)
    with raw_connections() as made:
        for _ in range(25):
            made += [RawConnection(receiver, first, client) for first in firsts for _ in range(3)]
            made += [RawConnection(receiver) for _ in range(4)]
            assert honest(env, receiver, holder) == 200
        unread = [RawConnection(receiver, tls=client) for _ in range(4)]
        made += unread
        send_without_reading(unread, long_answered(env), receiver)
        assert len([each for each in unread if not each.closed]) == 4
        for _ in range(10):
            assert honest(env, receiver, holder) == 200
        eventually(lambda: len([each for each in made if not each.closed]) <= 4)
        assert receiver.metric("keyturn_connections_closed_total", reason="no room") > 400


@pytest.mark.fault("S2")
def test_pipelined_deliveries_are_answered_in_order_and_limited(shared_env: FaultEnv) -> None:
    """Ten pipelined deliveries are answered in order. Ten thousand pipelined requests make the receiver close the
    connection."""
    (receiver,) = shared_env.receivers
    bodies = [encode([notification("keyturn", kind=EventType.HEARTBEAT)]) for _ in range(10)]
    deliveries = b"".join(head_of(shared_env.key, body, f"Content-Length: {len(body)}") + body for body in bodies)
    with raw_connections() as made:
        made.append(RawConnection(receiver, deliveries))
        heard = made[0].read_to_end(2)
        assert heard.count(b"HTTP/1.1 200") == 10
        ids = [body.partition(b'"id":"')[2][:36] for body in bodies]
        assert sorted(ids, key=heard.index) == ids
        made.append(RawConnection(receiver))
        made[1].send_repeatedly(b"GET / HTTP/1.1\r\n\r\n" * 1000, 180_000)
        eventually(lambda: made[1].closed, 5)
        assert honest(shared_env, receiver) == 200


def serial(receiver: LocalReceiver, authority: Authority) -> bytes:
    """Return the certificate, in DER form, that the receiver shows to a new connection."""
    with raw_connections() as made:
        made.append(RawConnection(receiver, tls=authority.client))
        assert isinstance(made[0].socket, ssl.SSLSocket)
        return made[0].socket.getpeercert(True) or b""


@pytest.mark.fault("S2")
def test_replaced_certificate_serves_new_connections_without_a_restart(env: FaultEnv, authority: Authority) -> None:
    """The files of the certificate and the key are replaced one after the other while deliveries arrive. New
    connections get the new certificate without a restart, open connections stay open, and no delivery is lost."""
    receiver = env.receiver(**authority.settings)
    before = serial(receiver, authority)
    done, statuses = threading.Event(), []

    def deliver() -> None:
        while not done.wait(0.02):
            statuses.append(honest(env, receiver, authority))

    delivering = threading.Thread(target=deliver)
    with httpx.Client(verify=authority.client) as standing:
        assert standing.post(url(receiver, True), content=BEAT, headers=signed(env.key, BEAT)).status_code == 200
        delivering.start()
        try:
            certificate, key = authority.issue()
            authority.certificate.write_bytes(certificate)
            eventually(lambda: "new certificate cannot be used" in receiver.log, 20)
            assert serial(receiver, authority) == before
            authority.key.write_bytes(key)
            eventually(lambda: serial(receiver, authority) != before, 20)
        finally:
            done.set()
            delivering.join()
        assert standing.post(url(receiver, True), content=BEAT, headers=signed(env.key, BEAT)).status_code == 200
    assert len(statuses) > 50
    assert set(statuses) == {200}


def stop(receiver: LocalReceiver) -> float:
    """Send SIGTERM, wait for the end of the process, and return how long it took."""
    begun = time.monotonic()
    receiver.stop()
    assert receiver.status == 0
    assert "graceful shutdown exceeded" not in receiver.log
    return time.monotonic() - begun


@pytest.mark.fault("F25")
def test_idle_connections_of_the_notifier_do_not_hold_up_a_shutdown(env: FaultEnv, authority: Authority) -> None:
    """Five pools of the notifier each hold an idle TLS connection, which they do not read. One more client is in a
    handshake, and another one has sent nothing since its handshake. The receiver closes all these connections at once
    when it shuts down, and ends in less than 4 s. After a restart, each pool can deliver again."""
    receiver = env.receiver(**authority.settings, KEYTURN_DRAIN_SECONDS="0")
    address = url(receiver, tls=True)
    pools = [connection_pool(address, authority.client, None) for _ in range(5)]
    for pool in pools:
        reply = pool.request("POST", address, body=BEAT, headers=signed(env.key, BEAT), retries=False)
        assert reply.status == 200
    with raw_connections() as made:
        made.append(RawConnection(receiver, hello()[:50]))
        made.append(RawConnection(receiver, tls=authority.client))
        assert stop(receiver) < 4  # this would take 9 s if the receiver waited for the clients
        assert all(each.closed for each in made)
    receiver.start()
    for pool in pools:  # each opens a new connection in place of the closed one, as the notifier does
        address = url(receiver, tls=True)
        assert pool.request("POST", address, body=BEAT, headers=signed(env.key, BEAT), retries=1).status == 200
        pool.clear()


@pytest.mark.fault("F25")
def test_request_under_way_over_tls_is_answered_before_a_shutdown(env: FaultEnv, authority: Authority) -> None:
    """At the time of SIGTERM a delivery over TLS is being worked on, the body of another is on its way, and a client
    has sent half a head. The receiver answers the three, and then ends at once, although the clients keep their
    connections open."""
    receiver = env.receiver(**authority.settings, KEYTURN_DRAIN_SECONDS="0")
    env.create_bound_secret("db", consumers=())
    told = env.rotate("db")
    reading = threading.Event()

    def slow(call: Call) -> Fault:
        if call.action in ("GetSecretValue", "BatchGetSecretValue"):
            reading.set()
            time.sleep(2)
        return None

    env.aws_proxy.fault_for = slow
    body = encode([told])
    change, beat = (head_of(env.key, each, f"Content-Length: {len(each)}") + each for each in (body, BEAT))
    with raw_connections() as made, ThreadPoolExecutor() as beside:
        made.append(RawConnection(receiver, change, tls=authority.client))
        made.append(RawConnection(receiver, beat[:-10], tls=authority.client))
        made.append(RawConnection(receiver, beat[:50], tls=authority.client))
        assert reading.wait(10)
        stopped = beside.submit(stop, receiver)
        eventually(lambda: "shutting down" in receiver.log, 5)
        time.sleep(0.5)  # within this time, the receiver closes idle connections
        made[1].send(beat[-10:])
        made[2].send(beat[50:])
        answers = [each.read_to_end() for each in made]
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 3
        assert stopped.result() < 6
        assert env.is_current("db")
    env.aws_proxy.heal()
    receiver.start()
    env.wait_converged()


def sent(shared_env: FaultEnv, body: bytes = BEAT, **changed: str | bytes | None) -> bytes:
    """Return a correctly signed delivery in which the headers in ``changed`` are replaced. A header whose value is None
    is left out."""
    headers: dict[str, str | bytes | None] = {**signed(shared_env.key, body), "content-length": str(len(body))}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [b"POST /v1/notifications HTTP/1.1", b"host: keyturn"]
    for name, value in headers.items():
        if value is not None:
            lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    return b"\r\n".join([*lines, b"", b""]) + body


GOOD = "v1," + "A" * 43 + "="
NOT_VERIFIED: Mapping[str, Mapping[str, str | bytes | None]] = {
    "no signature": {"webhook_signature": None},
    "an empty one": {"webhook_signature": ""},
    "of nobody's key": {"webhook_signature": GOOD},
    "without its version": {"webhook_signature": "A" * 43 + "="},
    "of another version": {"webhook_signature": "v2," + "A" * 43 + "="},
    "of a kind that is not checked here": {"webhook_signature": "v1a," + "A" * 86 + "=="},
    "cut off": {"webhook_signature": GOOD[:-5]},
    "no base64": {"webhook_signature": "v1," + "%" * 44},
    "base64 for URLs": {"webhook_signature": "v1," + "_" * 43 + "="},
    "bytes that are no text": {"webhook_signature": b"v1,\xff\xfe\x80"},
    "other letters": {"webhook_signature": "v1,é".encode()},
    "a thousand of them": {"webhook_signature": " ".join([GOOD] * 500)},
    "one after eight others": {"webhook_signature": "%s"},
    "no id": {"webhook_id": None},
    "an empty id": {"webhook_id": ""},
    "another id": {"webhook_id": "msg_2"},
    "an id with a dot": {"webhook_id": "msg.1"},
    "an id without end": {"webhook_id": "x" * 300},
    "an id of other letters": {"webhook_id": "nachricht-ä".encode()},
    "no timestamp": {"webhook_timestamp": None},
    "a timestamp of before": {"webhook_timestamp": "1"},
    "a timestamp of far ahead": {"webhook_timestamp": "999999999999"},
    "a negative timestamp": {"webhook_timestamp": "-1700000000"},
    "a timestamp with a fraction": {"webhook_timestamp": "1700000000.5"},
    "a timestamp in words": {"webhook_timestamp": "now"},
    "a timestamp that is no number": {"webhook_timestamp": "nan"},
    "a timestamp of five thousand digits": {"webhook_timestamp": "9" * 5000},
    "a timestamp in other digits": {"webhook_timestamp": "\u0661\u0667".encode()},
}


@pytest.mark.fault("S3")
def test_unverified_deliveries_get_identical_answers(shared_env: FaultEnv) -> None:
    """The signature, the timestamp or the id is missing, malformed, forged, too old, too long or not text. The receiver
    gives the same 401 answer each time, byte for byte."""
    answers: dict[str, bytes] = {}
    late = " ".join([GOOD] * 8 + [signed(shared_env.key, BEAT)["webhook-signature"]])
    with raw_connections() as made:
        for name, changed in NOT_VERIFIED.items():
            changed = {each: late if value == "%s" else value for each, value in changed.items()}
            made.append(RawConnection(shared_env.receivers[0], sent(shared_env, connection="close", **changed)))
            answers[name] = made[-1].read_to_end()
        for name, body in (("another body", BEAT.replace(b"keyturn", b"keytorn")), ("no body", b"")):
            headers = signed(shared_env.key, BEAT)
            made.append(
                RawConnection(
                    shared_env.receivers[0],
                    request(*(f"{each}: {headers[each]}" for each in headers), f"Content-Length: {len(body)}") + body,
                )
            )
            answers[name] = made[-1].read_to_end(1)
    starts = {
        name: answer for name, answer in answers.items() if not answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    }
    assert not starts
    assert {answer.partition(b"\r\n\r\n")[2] for answer in answers.values()} == {b'{"error":"not verified"}'}
    assert len({answer for name, answer in answers.items() if name in NOT_VERIFIED}) == 1  # including headers


def changed_event(**changes: object) -> bytes:
    (event,) = json.loads(BEAT)
    return json.dumps([{**event, **changes}]).encode()


MALFORMED: Mapping[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "UTF-16": BEAT.decode().encode("utf-16"),
    "a BOM": b"\xef\xbb\xbf" + BEAT,
    "a number": b"1",
    "NaN": b"[NaN]",
    "no events": b"[]",
    "eleven events": b"[" + b",".join([BEAT[1:-1]] * 11) + b"]",
    "the same event twice": b"[" + BEAT[1:-1] + b"," + BEAT[1:-1] + b"]",
    "one event that is no batch": BEAT[1:-1],
    "deep": b"[" * 8000 + b"]" * 8000,
    "a number of four thousand digits": b'[{"specversion": ' + b"9" * 5000 + b"}]",
    "events of numbers": b"[1, 2]",
    "half a surrogate pair": changed_event(id="\ud800"),
    "an id that is no text": changed_event(id=1),
    "an id that is empty": changed_event(id=""),
    "an id of lines": changed_event(id="a\nb"),
    "an id that is too long": changed_event(id="x" * 3000),
    "no subject": changed_event(subject=None),
    "another version": changed_event(specversion="2.0"),
    "a type that nobody knows": changed_event(type="dev.keyturn.unknown.v1"),
    "a type that is no text": changed_event(type={}),
    "a time that is none": changed_event(time="yesterday"),
    "data that is no object": changed_event(data=[]),
    "data that is empty": changed_event(data={}),
    "data of other kinds": changed_event(data={"eventName": [], "account": 1, "region": None}),
}


@pytest.mark.fault("S3")
def test_verified_malformed_delivery_gets_400_or_415(shared_env: FaultEnv) -> None:
    """The body of a correctly signed delivery is not JSON, not UTF-8, too deeply nested, of the wrong types, or in
    another encoding. The receiver answers 400 or 415, and never 500."""
    answers: dict[str, tuple[int, str]] = {}
    with httpx.Client(timeout=10) as http:
        for name, body in MALFORMED.items():
            reply = http.post(shared_env.receivers[0].url, content=body, headers=signed(shared_env.key, body))
            answers[name] = reply.status_code, reply.text
        for kind in (
            "",
            "text/plain",
            "application/json",
            "application/cloudevents+xml",
            "application/cloudevents",
            "é",
        ):
            headers = {**signed(shared_env.key, BEAT), "content-type": kind.encode()}
            reply = http.post(shared_env.receivers[0].url, content=BEAT, headers=headers)
            answers[f"of type {kind}"] = reply.status_code, reply.text
        packed = gzip.compress(BEAT)  # the receiver does not decompress bodies
        reply = http.post(
            shared_env.receivers[0].url,
            content=packed,
            headers={**signed(shared_env.key, packed), "content-encoding": "gzip"},
        )
        answers["packed"] = reply.status_code, reply.text
    wanted = {name: 415 if name.startswith("of type") else 400 for name in answers}
    assert {name: status for name, (status, _) in answers.items()} == wanted
    assert all(len(json.loads(text)["error"]) < 200 for _, text in answers.values())  # errors do not quote the body
    assert shared_env.receivers[0].running


def altered(env: FaultEnv, *more: str, drop: str = "", version: str = "HTTP/1.1") -> bytes:
    """Return a signed heartbeat with further headers, and without those whose names begin with ``drop``."""
    headers = {"Host": "keyturn", **signed(env.key, BEAT), "Content-Length": str(len(BEAT)), "Connection": "close"}
    lines = [f"{name}: {value}" for name, value in headers.items() if not drop or not name.startswith(drop)]
    return "\r\n".join((f"POST /v1/notifications {version}", *lines, *more, "", "")).encode() + BEAT


# Requests that two readers could read in two ways. The second value of each is the header that is left out.
AMBIGUOUS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no Host": ((), "Host"),
    "two Hosts": (("Host: keyturn",), ""),
    "two Hosts of different names": (("host: other",), ""),
    "two ids": (("webhook-id: other",), ""),
    "two ids that are the same, and no other": (("Webhook-Id: a", "webhook-id: a"), "webhook-id"),
    "two timestamps": (("webhook-timestamp: 1",), ""),
    "two signatures": (("WEBHOOK-SIGNATURE: v1,",), ""),
    "two headers of webhook- that nobody knows": (("webhook-x: 1", "webhook-x: 1"), ""),
    "two content types": (("content-type: text/plain",), ""),
    "two encodings": (("Content-Encoding: identity", "Content-Encoding: gzip"), ""),
    "two lengths": ((f"Content-Length: {len(BEAT) + 1}",), ""),
    "two lengths that are the same": ((f"Content-Length: {len(BEAT)}",), ""),
    "a list of lengths": ((f"Content-Length: {len(BEAT)}, {len(BEAT)}",), "Content-Length"),
    "a length and chunks": (("Transfer-Encoding: chunked",), ""),
    "two transfer encodings": (("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "Content-Length"),
    "a transfer encoding that is none": (("Transfer-Encoding: xchunked",), "Content-Length"),
    "a transfer encoding that is not the last": (("Transfer-Encoding: chunked, identity",), "Content-Length"),
    "a folded line": (("webhook-x: 1", " folded"), ""),
    "a folded line of a tab": (("webhook-x: 1", "\tfolded"), ""),
    "a space before the colon": (("webhook-x : 1",), ""),
    "a header without a name": ((": 1",), ""),
    "a header without a colon": (("webhook-x",), ""),
    "a length with a sign": ((f"Content-Length: +{len(BEAT)}",), "Content-Length"),
    "a length in hexadecimal": ((f"Content-Length: {len(BEAT):#x}",), "Content-Length"),
}


@pytest.mark.fault("S3")
@pytest.mark.parametrize(("more", "drop"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_request_is_refused_and_its_connection_closed(
    shared_env: FaultEnv, more: tuple[str, ...], drop: str
) -> None:
    """A signed delivery has no Host or two, one of its headers twice, two lengths, a length and chunks, a folded line,
    or another form that two readers could read in two ways. The receiver answers 400, closes the connection, and does
    no work. It does not put its own mark on the answer, so the notifier keeps the message."""
    (receiver,) = shared_env.receivers
    taken = receiver.metric("keyturn_notifications_total", outcome="ignored")
    with raw_connections() as made:
        made.append(RawConnection(receiver, altered(shared_env, *more, drop=drop)))
        answer = made[0].read_to_end()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert b"keyturn-receiver" not in answer.lower()
    assert receiver.metric("keyturn_notifications_total", outcome="ignored") == taken


@pytest.mark.fault("S3")
def test_headers_that_are_there_once_are_accepted(shared_env: FaultEnv) -> None:
    """The same delivery is accepted if nothing in it is ambiguous. It may have a header twice that the receiver does
    not use. In HTTP/1.0 it may lack a Host, as the health checks of some load balancers do."""
    (receiver,) = shared_env.receivers
    sent = (
        altered(shared_env),
        altered(shared_env, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2"),
        altered(shared_env, "webhook-other: 1"),
        altered(shared_env, drop="Host", version="HTTP/1.0"),
    )
    with raw_connections() as made:
        for each in sent:
            made.append(RawConnection(receiver, each))
            assert made[-1].read_to_end().startswith(b"HTTP/1.1 200 "), each


FORGED = 3000


@pytest.mark.fault("S4")
def test_flood_of_forgeries_causes_no_call_and_delays_no_sender(env: FaultEnv) -> None:
    """The receiver gets three thousand forged deliveries about a bound secret, and as many other bad requests. It makes
    no call to AWS or Kubernetes, logs only a few lines, and serves clients with the key throughout."""
    receiver = env.receiver()
    env.create_bound_secret()
    told = env.rotate()
    forged = encode([told])
    with quiet(env) as (before, log_before):
        begun = time.monotonic()
        statuses = asyncio.run(flood(receiver, forged, lambda: honest(env, receiver)))
        seconds = time.monotonic() - begun
        assert statuses.pop("honest") == {200}
        assert statuses == {"forged": {401}, "elsewhere": {404}, "of another method": {405}, "no HTTP": {400}}
        assert calls(env) == before
    lines = receiver.log[log_before:].splitlines()
    refused = [line for line in lines if "delivery refused" in line]
    assert 1 <= len(refused) <= seconds + 2
    assert len(lines) - len(refused) <= receiver.metric("keyturn_notifications_total", outcome="ignored") + 5
    assert receiver.metric("keyturn_deliveries_total", code="401") >= FORGED  # the metric counts every forgery
    assert env.send(told).outcome == "applied"
    env.wait_converged()


def calls(env: FaultEnv) -> int:
    """Return how many calls the receiver has made to AWS and Kubernetes so far. Watches and calls about Leases are not
    counted."""
    kubernetes = [call for call in env.kubernetes_proxy.calls if not call.watch and "/leases/" not in call.path]
    return len(kubernetes) + len(env.aws_proxy.calls)


@contextmanager
def quiet(env: FaultEnv) -> Iterator[tuple[int, int]]:
    """Wait until the receiver makes no more calls. Yield the number of its calls so far and the length of its log."""
    while (before := calls(env)) != (time.sleep(1) or calls(env)):
        pass
    yield before, len(env.receivers[-1].log)


async def flood(receiver: LocalReceiver, forged: bytes, honest: Callable[[], int]) -> dict[str, set[int]]:
    """Send forgeries, other bad requests and ``honest`` deliveries at the same time. Return the statuses of the answers
    for each kind."""
    found: dict[str, set[int]] = defaultdict(set)
    headers = signed(b"x" * 32, forged)
    parts = urlsplit(receiver.url)
    signed_head = request(*(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(forged)}")
    kinds = {
        "forged": signed_head + forged,
        "elsewhere": request("Content-Length: 0", path="/"),
        "of another method": request(method="GET"),
        "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    }

    async def send(kind: str, count: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in range(count):
            if reader.at_eof() or writer.is_closing():
                writer.close()
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(kinds[kind])
            head = await reader.readuntil(b"\r\n\r\n")
            found[kind].add(int(head.split(b" ")[1]))
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            if kind == "no HTTP":
                await reader.read()
        writer.close()

    async def serve() -> None:
        for _ in range(20):
            found["honest"].add(await asyncio.to_thread(honest))
            await asyncio.sleep(0.05)

    strangers = [send("forged", FORGED // 30) for _ in range(30)]
    strangers += [send(kind, 100) for kind in kinds if kind != "forged" for _ in range(10)]
    await asyncio.gather(serve(), *strangers)
    return dict(found)
