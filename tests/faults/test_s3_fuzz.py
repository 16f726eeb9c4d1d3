"""S3, fuzzed: whatever bytes arrive, the webhook gives one of its documented answers and keeps working. The seeds are
in tests/fuzz/corpus."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyturn_contract.message import (
    CONTENT_TYPE,
    CONTENT_TYPE_BATCH,
    EventType,
    MalformedMessage,
    UnsupportedMediaType,
    decode,
    encode,
)
from keyturn_contract.signature import NotVerified, sign, verify
from keyturn_local.receiver.process import LocalReceiver
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.notification_handler import NotificationHandler
from keyturn_receiver.web.server import Server
from keyturn_receiver.web.webhook import WebhookConfig, WebhookEndpoint
from support.bindings import KEYED
from support.deliveries import notification, signed
from support.fault_env import FaultEnv
from support.raw_http import RawConnection, raw_connections, request

CORPUS = {file.name: file.read_bytes() for file in sorted((Path(__file__).parents[1] / "fuzz" / "corpus").glob("*.*"))}
CORPUS.pop("README.md")
STATUSES = {200, 400, 401, 404, 405, 408, 413, 415}
KEY = bytes(range(32))
NOW = 1_800_000_000
UNREADABLE = (MalformedMessage, UnsupportedMediaType)

# Every run uses the same examples, and only as many as CI has time for.
fuzzed = settings(
    derandomize=True,
    database=None,
    max_examples=800,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def delivery(body: bytes, headers: Mapping[str, str]) -> bytes:
    return request(*(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}", body=body)


def signed_as_of_now(body: bytes) -> dict[str, str]:
    return {
        "content-type": CONTENT_TYPE_BATCH,
        "webhook-id": "msg_1",
        "webhook-timestamp": str(NOW),
        "webhook-signature": sign(KEY, "msg_1", NOW, body),
    }


def raw(name: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes to send for a file of the corpus. A file whose name begins with ``body-`` becomes the body of a
    signed delivery, and any other file is sent unchanged."""
    content = CORPUS[name]
    return delivery(content, headers or signed_as_of_now(content)) if name.startswith("body-") else content


class Wire(asyncio.Transport):
    """A transport without a network. It keeps the bytes that are written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self._closed = True

    abort = close

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class NoQueue:
    """A work queue that fails if anything is submitted to it. Nothing is submitted, because no Secret is bound."""

    def submit(self, *_: object) -> None:
        raise AssertionError


class DoorInHand:
    """The webhook, run in the test's own process on the connections of its real server, with a clock that stands
    still."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._run = runner.run
        metrics = Metrics()
        handler = NotificationHandler(
            SecretCache(KEYED),
            NoQueue(),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            lambda sent: None,
            metrics,
            lambda: datetime.fromtimestamp(NOW, UTC),
        )
        config = WebhookConfig(public_keys=[], deadline=8.0, max_deliveries=64)
        webhook = WebhookEndpoint(handler, lambda: [KEY], lambda: True, lambda: float(NOW), config, metrics)
        self._server = Server(webhook.app(), "127.0.0.1", 0, ConnectionLimiter(100, metrics), 1.0)
        self._server.config.load()

    def hear(self, pieces: Sequence[bytes]) -> bytes:
        """Send ``pieces`` one after another on a new connection, and return all that is answered."""
        return self._run(self._hear(pieces))

    async def _hear(self, pieces: Sequence[bytes]) -> bytes:
        state = self._server.server_state
        wire, connection = Wire(), self._server.new_connection()
        connection.connection_made(wire)
        for piece in pieces:
            if wire.is_closing():
                break
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(30):
            if state.tasks and not wire.is_closing():
                await asyncio.sleep(0)
        heard = wire.written
        connection.connection_lost(None)
        await asyncio.gather(*state.tasks)  # the tasks end by themselves, because the client is gone
        return heard


@contextmanager
def door_in_hand() -> Iterator[DoorInHand]:
    with asyncio.Runner() as runner:
        yield DoorInHand(runner)


def answers(heard: bytes) -> list[tuple[int, bytes]]:
    """Return the status and the body of each final response (one that is not a 100)."""
    found = []
    for part in re.split(rb"(?=HTTP/1\.1 \d{3} [A-Z])", heard):
        if part:
            head, _, body = part.partition(b"\r\n\r\n")
            found.append((int(head.split(b" ")[1]), body))
    return [each for each in found if each[0] != 100]


def check(heard: bytes) -> None:
    """Check that all responses are documented ones."""
    for status, body in answers(heard):
        assert status in STATUSES
        assert status != 401 or body == b'{"error":"not verified"}'
        assert len(body) < 1000 or status == 200  # error responses do not repeat the request


def status_in(name: str) -> int:
    return int(name.rpartition(".")[2])


@pytest.mark.fault("S3")
def test_corpus_is_answered_as_named_in_any_chunks() -> None:
    """Each file of the corpus is sent in one piece, in two pieces and, if it has less than 1,000 bytes, byte by byte.
    The first response has the status that the file's name states."""
    with door_in_hand() as door:
        for name in CORPUS:
            content = raw(name)
            ways = [[content], [content[: len(content) // 2], content[len(content) // 2 :]]]
            if len(content) < 1000:
                ways.append([content[at : at + 1] for at in range(len(content))])
            for pieces in ways:
                heard = door.hear(pieces)
                check(heard)
                assert [status for status, _ in answers(heard)][:1] == [status_in(name)], (name, len(pieces), heard)


@pytest.mark.fault("S3")
def test_running_receiver_answers_the_corpus_as_named(env: FaultEnv) -> None:
    """The corpus is sent over the network to a running receiver, which answers with the same statuses and keeps
    working."""
    receiver = env.receiver()
    with raw_connections() as made:
        for name, content in CORPUS.items():
            headers = signed(env.key, content) if name.startswith("body-") else None
            made.append(RawConnection(receiver, raw(name, headers)))
        for name, each in zip(CORPUS, made, strict=True):
            heard = each.socket.recv(65536) + each.read_to_end(0.05)
            check(heard)
            assert [status for status, _ in answers(heard)][:1] == [status_in(name)], (name, heard)
    assert '"level": "ERROR"' not in receiver.log
    assert "Traceback" not in receiver.log
    assert beat(env, receiver) == 200


def beat(env: FaultEnv, receiver: LocalReceiver) -> int:
    body = encode([notification("keyturn", kind=EventType.HEARTBEAT)])
    with raw_connections() as made:
        made.append(RawConnection(receiver, delivery(body, {**signed(env.key, body), "Connection": "close"})))
        return answers(made[0].read_to_end())[0][0]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Draw a file of the corpus with random changes, and cut it into pieces."""
    content = bytearray(raw(draw(st.sampled_from(list(CORPUS)))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.integers(0, 8)))
        match draw(st.sampled_from(("put", "cut", "again", "graft"))):
            case "put":
                content[at:until] = draw(st.binary(max_size=8) | st.sampled_from(TELLING))
            case "cut":
                del content[at:until]
            case "again":
                content[at:at] = content[at:until] * draw(st.integers(1, 50))
            case "graft":
                other = raw(draw(st.sampled_from(list(CORPUS))))
                begin = draw(st.integers(0, len(other)))
                content[at:until] = other[begin : begin + draw(st.integers(0, 200))]
    return cut_up(draw, bytes(content))


TELLING = (b"\r\n", b"\n", b"\r\n\r\n", b"\0", b" ", b":", b"\xff", b"0", b"-1", b"chunked", b"\r\nContent-Length: 0")


@st.composite
def grammatical(draw: st.DrawFn) -> list[bytes]:
    """Draw one to three requests made of valid parts that may contradict each other, and cut them into pieces."""
    content = b""
    for _ in range(draw(st.integers(1, 3))):
        body = draw(st.sampled_from([CORPUS[name] for name in CORPUS if name.startswith("body-")]) | st.binary())
        lines = [f"{name}: {value}".encode() for name, value in signed_as_of_now(body).items()]
        lines += draw(st.lists(st.sampled_from(LINES) | st.binary(max_size=30), max_size=6))
        lines += [b"Content-Length: %d" % (len(body) + draw(st.sampled_from((0, 0, 0, 1, -1)) if body else st.just(0)))]
        for _ in range(draw(st.integers(0, 2))):
            lines.pop(draw(st.integers(0, len(lines) - 1)))
        method = draw(st.sampled_from((b"POST",) * 5 + (b"GET", b"HEAD", b"CONNECT", b"OPTIONS", b"BREW")))
        path = draw(st.sampled_from((b"/v1/notifications",) * 5 + (b"/", b"*", b"//", b"/%", b"http://a/b", b"a:1")))
        version = draw(st.sampled_from((b"HTTP/1.1",) * 5 + (b"HTTP/1.0", b"HTTP/2.0", b"")))
        content += b"\r\n".join([b" ".join((method, path, version)), *draw(st.permutations(lines)), b"", b""]) + body
    return cut_up(draw, content)


LINES = (
    b"Host: a",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Content-Type: text/plain",
    b"Content-Encoding: gzip",
    b"webhook-id: other",
    b"webhook-timestamp: -1",
    b"webhook-signature: v1,",
    b" folded",
)


def cut_up(draw: st.DrawFn, content: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=4)))
    return [content[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True) if begin < end]


@pytest.mark.fault("S3")
@pytest.mark.parametrize(
    "said", [mutated(), grammatical(), st.lists(st.binary(max_size=200), max_size=4)], ids=["mutated", "parts", "bytes"]
)
def test_arbitrary_bytes_get_a_documented_status(said: st.SearchStrategy[list[bytes]]) -> None:
    """Thousands of requests are made from the corpus, from valid parts, and from random bytes. Each response has a
    documented status, which is never 500, and all 401 responses have the same words."""
    with door_in_hand() as door:
        seen: set[int] = set()

        @fuzzed
        @given(said)
        def hold(pieces: list[bytes]) -> None:
            heard = door.hear(pieces)
            check(heard)
            seen.update(status for status, _ in answers(heard))

        hold()
        body = CORPUS["body-heartbeat.200"]
        assert answers(door.hear([delivery(body, signed_as_of_now(body))]))[0][0] == 200
    assert seen  # at least one request was answered


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
(EVENT,) = json.loads(CORPUS["body-heartbeat.200"])


@st.composite
def events(draw: st.DrawFn) -> object:
    """Draw an event in which up to three attributes are replaced by arbitrary JSON."""
    event = {**EVENT, "data": dict(EVENT["data"])}
    for _ in range(draw(st.integers(0, 3))):
        fields = event["data"] if isinstance(event["data"], dict) and draw(st.booleans()) else event
        fields[draw(st.sampled_from(list(fields)) if fields else st.text())] = draw(JSON)
    return event


BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda content: json.dumps(content).encode())
    | st.lists(events(), max_size=3).map(lambda content: json.dumps(content).encode())
    | st.lists(events(), max_size=2).map(
        lambda content: json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
)


@pytest.mark.fault("S3")
@fuzzed
@given(BODIES, st.sampled_from((CONTENT_TYPE, CONTENT_TYPE_BATCH)) | st.text(max_size=40))
def test_arbitrary_signed_body_is_read_or_refused_as_malformed(body: bytes, content_type: str) -> None:
    """A correctly signed body holds arbitrary JSON, or events whose attributes have any type. The decoder either reads
    the body or refuses it as malformed."""
    headers = signed_as_of_now(body)
    assert verify([KEY], headers, body, NOW) == "msg_1"
    with suppress(*UNREADABLE):
        read = decode(content_type, body)
        assert decode(CONTENT_TYPE_BATCH, encode(read)) == read  # encoding and decoding keep a batch the same


NAMES = st.sampled_from(("webhook-id", "webhook-timestamp", "webhook-signature", "content-type"))
VALUES = (
    st.text(max_size=60)
    | st.characters(max_codepoint=255).map(str)
    | st.sampled_from((str(NOW), f" {NOW}", "v1,", "v1a,", "v1, v1,", "whsec_", "9" * 5000, "a.b", "\ud800"))
    | st.binary(min_size=32, max_size=32).map(lambda key: sign(key, "msg_1", NOW, b"[]"))
)


@pytest.mark.fault("S3")
@fuzzed
@given(st.dictionaries(NAMES, VALUES), st.binary(max_size=50))
def test_arbitrary_headers_are_refused_as_not_verified(changed: dict[str, str], body: bytes) -> None:
    """A webhook header with another value than the correct one makes verification raise NotVerified and nothing else. A
    different content type does not."""
    right = signed_as_of_now(body)
    relevant = {name: value for name, value in changed.items() if name != "content-type" and value != right[name]}
    if not relevant:
        assert verify([KEY], {**right, **changed}, body, NOW) == "msg_1"
        return
    with pytest.raises(NotVerified):
        verify([KEY], {**right, **changed}, body, NOW)


@pytest.mark.fault("S3")
@fuzzed
@given(st.binary(max_size=100), st.integers(0), st.integers(1, 255))
def test_changed_byte_is_refused(body: bytes, at: int, change: int) -> None:
    """Verification refuses a delivery if a single byte of its body, id, timestamp or signature has been changed."""
    headers = signed_as_of_now(body)
    signature = headers["webhook-signature"].encode()
    everything = [bytearray(part) for part in (body, b"msg_1", str(NOW).encode(), signature)]
    where = [(part, place) for part in everything for place in range(len(part))]
    where.pop(-2)  # two bits of the last base64 letter have no meaning, so its change may go unnoticed
    part, place = where[at % len(where)]
    part[place] ^= change
    turned, message_id, timestamp, signed_so = (bytes(each) for each in everything)
    changed = {
        "webhook-id": message_id.decode("latin-1"),
        "webhook-timestamp": timestamp.decode("latin-1"),
        "webhook-signature": signed_so.decode("latin-1"),
    }
    with pytest.raises(NotVerified):
        verify([KEY], changed, turned, NOW)
