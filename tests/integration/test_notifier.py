"""The notifier's real handler: records in, deliveries out, against a local receiver and moto over HTTP."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from keyturn_contract.message import Outcome, Result, decode, encode_reply
from keyturn_contract.signature import new_key, parse_key, verify
from keyturn_local.aws import EventPath, LocalAws
from keyturn_local.event_source import Context
from keyturn_local.timeline import Timeline

EVENTS = Path(__file__).parents[1] / "events"
NATIVE = json.loads((EVENTS / "native-secret-label-updated.json").read_text())

Answer = Callable[[dict[str, str], bytes], tuple[int, bytes]]


class Receiver:
    """A receiver that answers as the test says, and keeps what it got."""

    def __init__(self) -> None:
        self.answer: Answer = lambda headers, body: (200, all_of(body, Outcome.APPLIED))
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append((headers, body))
                status, content = receiver.answer(headers, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/notifications"


def all_of(body: bytes, outcome: Outcome) -> bytes:
    events = decode("application/cloudevents-batch+json", body)
    return encode_reply([Result(event.id, outcome) for event in events])


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    directory = tmp_path_factory.mktemp("aws")
    with LocalAws.start(directory, Timeline(directory / "timeline.jsonl")) as running:
        yield running


@pytest.fixture(scope="module")
def path(aws: LocalAws) -> EventPath:
    return aws.provision()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def handle(
    aws: LocalAws, path: EventPath, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Call the handler with events; returns the ids of the messages that are to be sent again."""
    environment = {
        **aws.environment(),
        "KEYTURN_RECEIVER_URL": receiver.url,
        "KEYTURN_SIGNING_KEY_SECRET_ID": path.signing_key_secret_id,
        "KEYTURN_DLQ_URL": path.dlq_url,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    from keyturn_notifier import handler

    handler._notifier.cache_clear()  # as in a new sandbox: it reads this test's environment

    def call(*bodies: object) -> list[str]:
        records = [
            {"messageId": f"m{number}", "body": body if isinstance(body, str) else json.dumps(body)}
            for number, body in enumerate(bodies)
        ]
        answer = handler.handler({"Records": records}, Context())
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    return call


def event(**changes: object) -> dict[str, object]:
    return {**NATIVE, "id": str(uuid4()), **changes}


def signing_key(aws: LocalAws, path: EventPath) -> bytes:
    return parse_key(aws.secrets_manager().get_secret_value(SecretId=path.signing_key_secret_id)["SecretString"])


def dead_letters(aws: LocalAws, path: EventPath) -> list[str]:
    found = aws.sqs().receive_message(QueueUrl=path.dlq_url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
    for message in found.get("Messages", []):
        aws.sqs().delete_message(QueueUrl=path.dlq_url, ReceiptHandle=message["ReceiptHandle"])
    return [message["Body"] for message in found.get("Messages", [])]


def test_a_batch_becomes_one_signed_delivery(handle: Callable, receiver: Receiver, aws: LocalAws, path: EventPath):
    assert handle(event(), event(), event()) == []
    ((headers, body),) = receiver.got
    verify([signing_key(aws, path)], headers, body, float(headers["webhook-timestamp"]))
    notifications = decode(headers["content-type"], body)
    assert len(notifications) == 3
    assert notifications[0].subject == NATIVE["resources"][0]
    assert notifications[0].data.version_id == NATIVE["detail"]["versionId"]


def test_what_the_receiver_has_not_done_stays_in_the_queue(handle: Callable, receiver: Receiver) -> None:
    first, second = event(), event()

    def half(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        done = [Result(str(first["id"]), Outcome.APPLIED), Result(str(second["id"]), Outcome.FAILED)]
        return 503, encode_reply(done)

    receiver.answer = half
    assert handle(first, second) == ["m1"]


@pytest.mark.parametrize("answer", [(503, b""), (500, b"x"), (429, b""), (200, b"<html>"), (408, b""), (302, b"")])
def test_an_answer_that_does_not_say_done_means_again(
    handle: Callable, receiver: Receiver, answer: tuple[int, bytes]
) -> None:
    receiver.answer = lambda headers, body: answer
    assert handle(event(), event()) == ["m0", "m1"]


def test_nobody_there_means_again(handle: Callable, receiver: Receiver) -> None:
    receiver.server.server_close()
    assert handle(event()) == ["m0"]


def test_a_retry_is_signed_afresh_under_the_same_id(handle: Callable, receiver: Receiver) -> None:
    sent = event()
    receiver.answer = lambda headers, body: (503, b"")
    handle(sent)
    handle(sent)
    first, second = (headers for headers, _ in receiver.got)
    assert first["webhook-id"] == second["webhook-id"]


def test_401_reloads_the_key_once(handle: Callable, receiver: Receiver, aws: LocalAws, path: EventPath) -> None:
    handle(event())  # the key is known now, and about to be rotated
    fresh = new_key(b"fresh key " * 4)
    aws.secrets_manager().put_secret_value(SecretId=path.signing_key_secret_id, SecretString=fresh)

    def only_fresh(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            verify([parse_key(fresh)], headers, body, float(headers["webhook-timestamp"]))
        except Exception:
            return 401, b""
        return 200, all_of(body, Outcome.APPLIED)

    receiver.answer = only_fresh
    receiver.got.clear()
    assert handle(event()) == []
    assert len(receiver.got) == 2


def test_a_key_that_stays_refused_means_again(handle: Callable, receiver: Receiver) -> None:
    receiver.answer = lambda headers, body: (401, b"")
    assert handle(event()) == ["m0"]
    assert len(receiver.got) == 2


def test_what_can_never_be_delivered_goes_to_the_dead_letter_queue_at_once(
    handle: Callable, receiver: Receiver, aws: LocalAws, path: EventPath
) -> None:
    refused = event()
    receiver.answer = lambda headers, body: (400, b"")
    assert handle(refused, "no JSON", {"source": "aws.s3"}) == []
    assert sorted(dead_letters(aws, path)) == sorted([json.dumps(refused), "no JSON", '{"source": "aws.s3"}'])


def test_what_changes_nothing_is_done_without_a_delivery(handle: Callable, receiver: Receiver) -> None:
    pending = {**NATIVE["detail"], "labelUpdated": "AWSPENDING"}
    assert handle(event(detail=pending)) == []
    assert receiver.got == []


def test_an_event_that_came_twice_is_delivered_once_and_shares_its_fate(handle: Callable, receiver: Receiver) -> None:
    twice = event()
    receiver.answer = lambda headers, body: (503, b"")
    assert handle(twice, twice) == ["m0", "m1"]
    assert len(decode("application/cloudevents-batch+json", receiver.got[0][1])) == 1


def test_ten_events_of_the_longest_names_still_fit(handle: Callable, receiver: Receiver) -> None:
    name = "n" * 512
    arn = f"arn:aws:secretsmanager:us-west-2:012345678901:secret:{name}-a1b2c3"
    detail = {**NATIVE["detail"], "name": name}
    assert handle(*(event(resources=[arn], detail=detail) for _ in range(10))) == []
    assert all(len(body) <= 16 * 1024 for _, body in receiver.got)
