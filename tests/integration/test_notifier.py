"""The notifier's real handler, from SQS records to deliveries, with local receivers and with moto over HTTP."""

import base64
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme

from keyturn_contract.message import CONTENT_TYPE_BATCH, EventType, Outcome, Result, decode, encode_reply
from keyturn_contract.signature import new_key, parse_key, parse_public_key, verify
from keyturn_local.aws import sdk
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.notifier.function import TIMEOUT_SECONDS, Context, function_environment
from keyturn_notifier import authorities, delivery, receipt_bus, telemetry
from keyturn_notifier.queue import FIRST_DELAY
from keyturn_notifier.signing import KMS_LIMIT
from keyturn_notifier.telemetry import count_member_heartbeat
from keyturn_receiver.sources.signing_keys import ed25519
from support.authority import Authority
from support.fake_receiver import FakeReceiver, reply_to_all
from support.http_proxy import HttpProxy
from support.wait import eventually

EVENTS = Path(__file__).parents[1] / "events"
NATIVE = json.loads((EVENTS / "native-secret-label-updated.json").read_text())


@pytest.fixture
def other() -> Iterator[FakeReceiver]:
    made = FakeReceiver()
    yield made
    made.close()


@pytest.fixture
def sandbox(aws: LocalAws, path: EventPath, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., list[str]]]:
    """Return a function that starts a new sandbox for some receivers, and returns a function that calls its handler.

    That function takes event bodies or complete records. It returns the ids of the messages that stay in the queue.
    """

    def start(*receivers: FakeReceiver, **settings: str) -> Callable[..., list[str]]:
        environment = function_environment(aws, path, [receiver.url for receiver in receivers]) | settings
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        from keyturn_notifier import handler

        handler._notifier.cache_clear()

        def call(*bodies: object) -> list[str]:
            records = [
                body if isinstance(body, dict) and "receiptHandle" in body else record(f"m{number}", body)
                for number, body in enumerate(bodies)
            ]
            answer = handler.handler({"Records": records}, Context())
            return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

        return call

    return start


@pytest.fixture
def handle(sandbox: Callable[..., Any], receiver: FakeReceiver) -> Callable[..., list[str]]:
    """Start a sandbox with one receiver. Return the function that calls its handler."""
    return sandbox(receiver)


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """KMS with Ed25519 keys, which moto lacks."""
    with Emulator.start(tmp_path_factory.mktemp("kms")) as running:
        yield running


@pytest.fixture(scope="module")
def kms_key(kms: Emulator) -> tuple[str, bytes]:
    """A key's id and its public part."""
    client = kms.client("kms")
    made = client.create_key(KeySpec="ECC_NIST_EDWARDS25519", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    return made, client.get_public_key(KeyId=made)["PublicKey"]


def record(message_id: str, body: object, receives: int = 1, receipt: str = "none") -> dict[str, Any]:
    return {
        "messageId": message_id,
        "receiptHandle": receipt,
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {"ApproximateReceiveCount": str(receives)},
    }


def event(**changes: object) -> dict[str, object]:
    return {**NATIVE, "id": str(uuid4()), **changes}


def signing_key(aws: LocalAws, path: EventPath) -> bytes:
    return parse_key(aws.secrets_manager().get_secret_value(SecretId=path.signing_key_secret_id)["SecretString"])


def dead_letters(aws: LocalAws, path: EventPath) -> dict[str, str]:
    """Remove at most ten messages from the dead-letter queue. Return a map from each message's body to its reason."""
    messages = (
        aws.sqs()
        .receive_message(
            QueueUrl=path.dlq_url, MaxNumberOfMessages=10, WaitTimeSeconds=0, MessageAttributeNames=["All"]
        )
        .get("Messages", [])
    )
    for message in messages:
        aws.sqs().delete_message(QueueUrl=path.dlq_url, ReceiptHandle=message["ReceiptHandle"])
    return {message["Body"]: message["MessageAttributes"]["reason"]["StringValue"] for message in messages}


def answer(caplog: pytest.LogCaptureFixture, receiver: FakeReceiver) -> str:
    """Return the receiver's answer, as the newest log line about a delivery gives it."""
    lines = [vars(line) for line in caplog.records if line.message in ("delivered", "not delivered")]
    return lines[-1]["answers"][receiver.url.split("/")[2]]


def metrics(capsys: pytest.CaptureFixture[str]) -> dict[str, list[float]]:
    """Return the metrics of the only invocation since the last call. They are read from CloudWatch's embedded metric
    format."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    (blob,) = [line for line in lines if "_aws" in line]
    names = [metric["Name"] for metric in blob["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    return {name: blob[name] for name in names}


def test_records_of_one_invocation_become_one_signed_delivery(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath
):
    assert handle(event(), event(), event()) == []
    ((headers, body),) = receiver.requests
    verify([signing_key(aws, path)], headers, body, float(headers["webhook-timestamp"]))
    notifications = decode(headers["content-type"], body)
    assert len(notifications) == 3
    assert notifications[0].subject == NATIVE["resources"][0]
    assert notifications[0].data.version_id == NATIVE["detail"]["versionId"]


def test_event_that_the_receiver_reports_as_failed_stays_in_the_queue(handle: Callable, receiver: FakeReceiver) -> None:
    first, second = event(), event()

    def half(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        results = [Result(str(first["id"]), Outcome.APPLIED), Result(str(second["id"]), Outcome.FAILED)]
        return 503, encode_reply(results)

    receiver.respond = half
    assert handle(first, second) == ["m1"]


@pytest.mark.parametrize("answer", [(503, b""), (500, b"x"), (429, b""), (200, b"<html>"), (408, b""), (302, b"")])
def test_answer_without_results_keeps_the_events_in_the_queue(
    handle: Callable, receiver: FakeReceiver, answer: tuple[int, bytes]
) -> None:
    receiver.respond = lambda headers, body: answer
    assert handle(event(), event()) == ["m0", "m1"]


def test_unreachable_receiver_keeps_the_event_in_the_queue(handle: Callable, receiver: FakeReceiver) -> None:
    receiver.server.server_close()
    assert handle(event()) == ["m0"]


def test_log_says_how_the_connection_failed_also_while_the_circuit_breaker_is_open(
    handle: Callable, receiver: FakeReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.close()
    handle(event())
    assert answer(caplog, receiver) == "connection refused"
    handle(event())
    assert answer(caplog, receiver) == "not sent: the circuit breaker is open after: connection refused"


@pytest.mark.parametrize("status", [200, 403, 404, 502, 503])
def test_log_says_that_a_web_page_answers_in_the_receivers_place(
    handle: Callable, receiver: FakeReceiver, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    receiver.respond = lambda headers, body: (status, b"<!doctype html><title>Sign in</title>")
    receiver.extra_headers, receiver.is_marked = {"Content-Type": "text/html; charset=utf-8"}, False
    assert handle(event()) == ["m0"]
    assert answer(caplog, receiver) == f"status {status}: a web page answers in the receiver's place"


def test_retry_has_the_same_webhook_id_and_a_new_signature(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws
) -> None:
    sent = event()
    receiver.respond = lambda headers, body: (500, b"")
    handle(sent)
    time.sleep(1.01)  # webhook-timestamp has whole seconds
    handle(sent)
    (first, body), (second, again) = receiver.requests
    assert first["webhook-id"] == second["webhook-id"]
    assert body == again
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    assert second["webhook-signature"] != first["webhook-signature"]


def test_401_makes_the_notifier_read_the_key_again_and_post_once_more(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath
) -> None:
    handle(event())  # the notifier now has the old key in its cache
    fresh = new_key(b"fresh key " * 4)
    aws.secrets_manager().put_secret_value(SecretId=path.signing_key_secret_id, SecretString=fresh)

    def only_fresh(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            verify([parse_key(fresh)], headers, body, float(headers["webhook-timestamp"]))
        except Exception:
            return 401, b""
        return 200, reply_to_all(body, Outcome.APPLIED)

    receiver.respond = only_fresh
    receiver.requests.clear()
    assert handle(event()) == []
    assert len(receiver.requests) == 2


def test_repeated_401_keeps_the_event_in_the_queue_and_is_counted(
    handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.respond = lambda headers, body: (401, b"")
    assert handle(event()) == ["m0"]
    assert len(receiver.requests) == 2
    assert metrics(capsys)["DeliveriesRefused"] == [1]


def test_poison_message_goes_to_the_dead_letter_queue_with_the_reason(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath
) -> None:
    refused = event()
    receiver.respond = lambda headers, body: (400, b"")
    assert handle(refused, "no JSON", {"source": "aws.s3"}) == []
    assert dead_letters(aws, path) == {
        json.dumps(refused): f"{receiver.url.split('/')[2]}: the receiver refuses it: status 400",
        "no JSON": "the body is not JSON",
        '{"source": "aws.s3"}': "source must be aws.secretsmanager: correct the rule's event pattern",
    }


@pytest.mark.parametrize("answered", [(403, b""), (404, b""), (405, b""), (413, b""), (502, b""), (200, b"<html>")])
def test_refusal_by_anything_before_the_receiver_keeps_the_events_in_the_queue(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath, answered: tuple[int, bytes]
) -> None:
    receiver.respond, receiver.is_marked = lambda headers, body: answered, False
    assert handle(event(), event()) == ["m0", "m1"]
    assert dead_letters(aws, path) == {}


@pytest.mark.parametrize("status", [403, 404, 405, 413])
def test_refusal_by_the_receiver_itself_is_poison(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath, status: int
) -> None:
    first, second = event(), event()
    receiver.respond = lambda headers, body: (status, b"")
    assert handle(first, second) == []
    assert dead_letters(aws, path).keys() == {json.dumps(first), json.dumps(second)}


@pytest.mark.parametrize("answered", [(502, b""), (200, b"<html>")])
def test_receivers_own_answer_that_refuses_nothing_keeps_the_event_in_the_queue(
    handle: Callable, receiver: FakeReceiver, answered: tuple[int, bytes]
) -> None:
    receiver.respond = lambda headers, body: answered
    assert handle(event()) == ["m0"]


def test_event_that_is_refused_before_the_receiver_does_not_hold_back_the_others_of_its_batch(
    handle: Callable, receiver: FakeReceiver
) -> None:
    good, bad = event(), event()
    receiver.is_marked = False
    receiver.respond = lambda headers, body: (
        (403, b"") if str(bad["id"]).encode() in body else (200, reply_to_all(body, Outcome.APPLIED))
    )
    assert handle(good, bad) == ["m1"]


def test_result_that_a_binding_refused_is_logged_and_counted(
    handle: Callable, receiver: FakeReceiver, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, refused, sent = event(), event(), []

    def reply(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        sent[:] = [
            Result(str(fine["id"]), Outcome.APPLIED, ("shop/db",), ("Deployment/shop/web",)),
            Result(str(refused["id"]), Outcome.IGNORED, reason="shop/cache: it is immutable"),
        ]
        return 200, encode_reply(sent)

    receiver.respond = reply
    assert handle(fine, refused) == []
    results = [vars(line)["results"] for line in caplog.records if line.message == "delivered"]
    host = receiver.url.split("/")[2]
    assert [(each["receiver"], each["outcome"], each["reason"]) for (each,) in results] == [
        (host, "applied", None),
        (host, "ignored", "shop/cache: it is immutable"),
    ]
    assert results[0][0]["secrets"] == ("shop/db",)
    assert results[0][0]["consumers"] == ("Deployment/shop/web",)
    (line,) = [vars(line) for line in caplog.records if line.message == "refused by a binding"]
    assert (line["correlation_id"], line["reason"]) == (refused["id"], "shop/cache: it is immutable")
    counted = metrics(capsys)
    assert counted["NotificationsRefusedByBinding"] == [1]
    assert counted["DeliveriesDone"] == [1, 1]


def test_refused_event_does_not_fail_the_others_of_its_batch(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath
) -> None:
    good, bad, fine = event(), event(), event()

    def picky(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        return (400, b"") if str(bad["id"]).encode() in body else (200, reply_to_all(body, Outcome.APPLIED))

    receiver.respond = picky
    assert handle(good, bad, fine) == []
    assert [*dead_letters(aws, path)] == [json.dumps(bad)]


def test_unprintable_characters_in_the_reason_are_replaced(
    handle: Callable, aws: LocalAws, path: EventPath, receiver: FakeReceiver
) -> None:
    broken = json.loads((EVENTS / "api-put-secret-value.without-a-secret.json").read_text())
    without_secret = {**broken, "detail": {**broken["detail"], "eventName": "PutSecretValue"}}
    unprintable = event(time="\x00\ud800")
    assert handle(without_secret, unprintable, event()) == []
    assert dead_letters(aws, path).keys() == {json.dumps(without_secret), json.dumps(unprintable)}
    assert len(receiver.notifications) == 1


def test_poison_message_stays_in_the_queue_if_the_dead_letter_queue_fails(
    sandbox: Callable, receiver: FakeReceiver
) -> None:
    nowhere = sandbox(receiver, KEYTURN_DLQ_URL=os.environ.get("AWS_ENDPOINT_URL", "") + "/123456789012/nowhere")
    assert nowhere("no JSON", event()) == ["m0"]


def test_ignored_event_is_deleted_without_a_delivery(handle: Callable, receiver: FakeReceiver) -> None:
    pending = {**NATIVE["detail"], "labelUpdated": "AWSPENDING"}
    assert handle(event(detail=pending)) == []
    assert receiver.requests == []


def test_duplicate_event_is_delivered_once_and_both_messages_are_retried(
    handle: Callable, receiver: FakeReceiver
) -> None:
    twice = event()
    receiver.respond = lambda headers, body: (503, b"")
    assert handle(twice, twice) == ["m0", "m1"]
    assert len(decode("application/cloudevents-batch+json", receiver.requests[0][1])) == 1


def test_ten_events_with_the_longest_names_fit_the_body_limit(handle: Callable, receiver: FakeReceiver) -> None:
    name = "n" * 512
    arn = f"arn:aws:secretsmanager:us-west-2:012345678901:secret:{name}-a1b2c3"
    detail = {**NATIVE["detail"], "name": name}
    assert handle(*(event(resources=[arn], detail=detail) for _ in range(10))) == []
    assert all(len(body) <= 16 * 1024 for _, body in receiver.requests)


def test_events_of_the_corpus_end_as_expected_in_mixed_batches(
    handle: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches of ten mix events to deliver, to ignore and to reject. None of the events affects another."""
    # The files are those with complete EventBridge events. Events about the signing key are left out, because the key
    # has a different ARN here.
    files = [file for file in sorted(EVENTS.glob("*.json")) if "detail" in json.loads(file.read_text())]
    files = [file for file in files if "signing-key" not in file.name]
    expected = {file: json.loads(file.with_suffix(".expect.json").read_text()) for file in files}
    poison: dict[str, str] = {}
    for start in range(0, len(files), 10):
        assert handle(*(json.loads(file.read_text()) for file in files[start : start + 10])) == []
        poison |= dead_letters(aws, path)
    event_ids = {each["id"] for each in expected.values() if "type" in each}
    assert {each.id for each in receiver.notifications} == event_ids
    malformed = {
        json.dumps(json.loads(file.read_text())): each["malformed"]
        for file, each in expected.items()
        if "malformed" in each
    }
    assert poison == malformed
    reasons = {vars(line)["reason"] for line in caplog.records if line.message == "event ignored"}
    assert reasons == {each["ignored"] for each in expected.values() if "ignored" in each}


def test_event_about_the_signing_key_is_ignored(handle: Callable, receiver: FakeReceiver, path: EventPath) -> None:
    assert handle(event(resources=[path.signing_key_secret_id])) == []
    assert receiver.requests == []


def test_lifecycle_event_of_another_secret_is_ignored_if_there_are_name_prefixes(
    sandbox: Callable, receiver: FakeReceiver
) -> None:
    handle = sandbox(receiver, KEYTURN_NAME_PREFIXES="shop/,my")
    failed = json.loads((EVENTS / "service-rotation-failed.cloudtrail-record.json").read_text())
    arn = "arn:aws:secretsmanager:us-west-2:012345678901:secret:other-a1b2c3"
    other = event(
        **{"detail-type": "AWS Service Event via CloudTrail", "resources": []},
        detail={**failed, "additionalEventData": {"SecretId": arn}},
    )
    assert handle(event(), other) == []
    assert [each.subject for each in receiver.notifications] == NATIVE["resources"]


class TestSeveralReceivers:
    def test_event_stays_queued_until_every_receiver_has_accepted_it(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver
    ) -> None:
        first, second = event(), event()
        other.respond = lambda headers, body: (503, encode_reply([Result(str(first["id"]), Outcome.UNCHANGED)]))
        assert sandbox(receiver, other)(first, second) == ["m1"]
        assert {each.id for each in receiver.notifications} == {first["id"], second["id"]}

    def test_accepted_event_is_not_sent_to_the_same_receiver_again(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver
    ) -> None:
        handle, sent = sandbox(receiver, other), event()
        other.respond = lambda headers, body: (500, b"")
        assert handle(sent) == ["m0"]
        other.respond = lambda headers, body: (200, reply_to_all(body, Outcome.APPLIED))
        assert handle(sent) == []
        assert (len(receiver.requests), len(other.requests)) == (1, 2)

    def test_hanging_receiver_delays_no_other_and_opens_the_circuit_breaker(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver
    ) -> None:
        handle = sandbox(receiver, other)
        other.respond = other.hang
        start = time.monotonic()
        assert handle(event()) == ["m0"]
        assert time.monotonic() - start < Context().get_remaining_time_in_millis() / 1000 / 2
        start = time.monotonic()
        for _ in range(20):
            assert handle(event()) == ["m0"]
        assert len(receiver.requests) == 21
        assert len(other.requests) == 1
        assert time.monotonic() - start < delivery.COOLDOWN_SECONDS

    @pytest.mark.parametrize("part", ["headers", "body"])
    def test_receiver_that_answers_byte_by_byte_counts_as_one_that_hangs(
        self,
        sandbox: Callable,
        receiver: FakeReceiver,
        other: FakeReceiver,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        part: str,
    ) -> None:
        monkeypatch.setattr(delivery, "CONNECT_SECONDS", 0.5)
        monkeypatch.setattr(delivery, "REPLY_SECONDS", 1.0)
        handle = sandbox(receiver, other)
        other.drips = b"a: " if part == "headers" else b"content-length: 200000\r\n\r\n"
        start = time.monotonic()
        assert handle(event()) == ["m0"]
        assert 1.4 < time.monotonic() - start < 6
        assert answer(caplog, other) == "no complete answer within 1.5 s"
        start = time.monotonic()
        for _ in range(10):
            assert handle(event()) == ["m0"]
        assert time.monotonic() - start < delivery.COOLDOWN_SECONDS
        assert len(receiver.requests) == 11
        assert len(other.requests) == 1  # the circuit breaker is open

    def test_dead_receiver_does_not_block_the_others(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver
    ) -> None:
        other.close()
        assert sandbox(receiver, other)(event(), event()) == ["m0", "m1"]
        assert len(receiver.notifications) == 2

    def test_event_refused_by_one_receiver_waits_for_the_other_to_accept(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver, aws: LocalAws, path: EventPath
    ) -> None:
        handle, sent = sandbox(receiver, other), event()
        receiver.respond = lambda headers, body: (400, b"")
        other.respond = lambda headers, body: (500, b"")
        assert handle(sent) == ["m0"]
        assert dead_letters(aws, path) == {}
        other.respond = lambda headers, body: (200, reply_to_all(body, Outcome.APPLIED))
        assert handle(sent) == []
        assert [*dead_letters(aws, path)] == [json.dumps(sent)]


class TestReceipts:
    """The receipts that a rule of their bus sends to a queue."""

    @pytest.fixture
    def bus(self, aws: LocalAws) -> str:
        name = f"bus-{uuid4().hex[:6]}"
        events = sdk.client("events", aws.endpoint_url)
        events.create_event_bus(Name=name)
        events.put_rule(Name=name, EventBusName=name, EventPattern='{"source": ["dev.keyturn"]}')
        url = aws.sqs().create_queue(QueueName=name)["QueueUrl"]
        arn = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_targets(Rule=name, EventBusName=name, Targets=[{"Id": "queue", "Arn": arn}])
        return name

    def receipts(self, aws: LocalAws, bus: str) -> list[dict[str, Any]]:
        url = aws.sqs().get_queue_url(QueueName=bus)["QueueUrl"]
        taken = aws.sqs().receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])
        for message in taken:
            aws.sqs().delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in taken]

    def test_change_that_every_receiver_has_taken_has_one_receipt(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver, aws: LocalAws, bus: str
    ) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        handle, sent = sandbox(receiver, other, KEYTURN_RECEIPTS_BUS=bus), event(time=now)
        applied = Result(str(sent["id"]), Outcome.APPLIED, ("shop/db",), ("Deployment/shop/web",))
        receiver.respond = lambda headers, body: (200, encode_reply([applied]))
        other.respond = lambda headers, body: (500, b"")
        assert handle(sent) == ["m0"]
        assert self.receipts(aws, bus) == []
        other.respond = lambda headers, body: (200, reply_to_all(body, Outcome.UNCHANGED))
        assert handle(sent) == []
        (receipt,) = self.receipts(aws, bus)
        assert (receipt["source"], receipt["detail-type"]) == ("dev.keyturn", "Keyturn Secret Applied")
        assert receipt["resources"] == NATIVE["resources"]
        assert receipt["detail"]["versionId"] == NATIVE["detail"]["versionId"]
        first, second = receipt["detail"]["receivers"]
        # The first receiver's answer is from the earlier try.
        assert (first["outcome"], first["secrets"]) == ("applied", ["shop/db"])
        assert second["outcome"] == "unchanged"
        assert receipt["detail"]["healthy"] is True

    def test_event_that_waits_has_one_receipt(
        self, sandbox: Callable, receiver: FakeReceiver, aws: LocalAws, bus: str
    ) -> None:
        handle, sent = sandbox(receiver, KEYTURN_RECEIPTS_BUS=bus), event()
        receiver.respond = lambda headers, body: (500, b"")
        for receives in range(2, 13):
            assert handle(record("m0", sent, receives)) == ["m0"]
        (receipt,) = self.receipts(aws, bus)
        assert receipt["detail-type"] == "Keyturn Secret Waiting"
        (answer,) = receipt["detail"]["receivers"]
        assert (answer["outcome"], answer["reason"]) == ("not taken", "status 500")

    def test_names_of_kubernetes_are_left_out_if_the_parameter_says_so(
        self, sandbox: Callable, receiver: FakeReceiver, aws: LocalAws, bus: str
    ) -> None:
        handle, sent = sandbox(receiver, KEYTURN_RECEIPTS_BUS=bus, KEYTURN_RECEIPT_DETAILS="false"), event()
        refused = Result(
            str(sent["id"]), Outcome.APPLIED, ("shop/db",), ("Deployment/shop/web",), "shop/cache: immutable"
        )
        receiver.respond = lambda headers, body: (200, encode_reply([refused]))
        assert handle(sent) == []
        (receipt,) = self.receipts(aws, bus)
        assert "shop/" not in json.dumps({**receipt["detail"], "name": None})
        assert receipt["detail"]["healthy"] is False

    def test_events_without_a_change_have_no_receipt(
        self, sandbox: Callable, receiver: FakeReceiver, aws: LocalAws, bus: str
    ) -> None:
        handle = sandbox(receiver, KEYTURN_RECEIPTS_BUS=bus)
        heartbeat = json.loads((EVENTS / "heartbeat.json").read_text())
        pending = event(detail={**NATIVE["detail"], "labelUpdated": "AWSPENDING"})
        assert handle({**heartbeat, "id": str(uuid4())}, pending, "no JSON") == []
        assert self.receipts(aws, bus) == []

    def test_reply_that_nobody_can_encode_holds_up_its_own_event_and_no_other(
        self, sandbox: Callable, receiver: FakeReceiver, aws: LocalAws, bus: str
    ) -> None:
        handle, first, second = sandbox(receiver, KEYTURN_RECEIPTS_BUS=bus), event(), event()

        def odd(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
            results = [
                {"id": each.id, "outcome": "applied", "reason": "\ud800" if each.id == first["id"] else "fine"}
                for each in decode(CONTENT_TYPE_BATCH, body)
            ]
            return 200, json.dumps({"results": results}).encode()

        receiver.respond = odd
        assert handle(second) == []
        assert handle(first) == ["m0"]
        told = {each["detail"]["eventId"]: each["detail-type"] for each in self.receipts(aws, bus)}
        assert told == {second["id"]: "Keyturn Secret Applied", first["id"]: "Keyturn Secret Waiting"}

    @pytest.mark.parametrize("reason", ["missing bus", "silent endpoint"])
    def test_delivery_goes_on_if_receipts_cannot_be_put(
        self,
        sandbox: Callable,
        receiver: FakeReceiver,
        other: FakeReceiver,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        reason: str,
    ) -> None:
        settings = {"KEYTURN_RECEIPTS_BUS": "none-" + uuid4().hex[:6]}
        if reason == "silent endpoint":
            other.respond = other.hang
            settings["AWS_ENDPOINT_URL_EVENTBRIDGE"] = other.url.removesuffix("/v1/notifications")
        handle = sandbox(receiver, **settings)
        start = time.monotonic()
        for _ in range(5):
            assert handle(event()) == []
        # The circuit breaker is open after the first event.
        assert time.monotonic() - start < receipt_bus.MAX_SECONDS + 5
        assert len(receiver.notifications) == 5
        lost = [vars(line)["reason"] for line in caplog.records if line.message == "receipts lost"]
        assert len(lost) == 5
        assert set(lost[1:]) == {"not sent: the circuit breaker is open"}
        blobs = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"ReceiptsFailed"' in line]
        assert sum(sum(blob["ReceiptsFailed"]) for blob in blobs) == 5
        assert sum(sum(blob["DeliveriesDone"]) for blob in blobs) == 5


class TestBackOff:
    @pytest.fixture
    def queue_url(self, aws: LocalAws) -> str:
        attributes = {"VisibilityTimeout": "180"}
        return aws.sqs().create_queue(QueueName=f"q-{uuid4()}", Attributes=attributes)["QueueUrl"]

    @pytest.fixture
    def handle(self, sandbox: Callable, receiver: FakeReceiver, queue_url: str) -> Callable[..., list[str]]:
        return sandbox(receiver, KEYTURN_QUEUE_URL=queue_url)

    def take(self, aws: LocalAws, queue_url: str) -> dict[str, Any]:
        """Receive the only message from the queue. Return the record that Lambda would make of it."""
        (message,) = aws.sqs().receive_message(QueueUrl=queue_url, AttributeNames=["All"])["Messages"]
        receives = int(message["Attributes"]["ApproximateReceiveCount"])
        return record("m0", message["Body"], receives, message["ReceiptHandle"])

    def invisible(self, aws: LocalAws, queue_url: str) -> int:
        name = "ApproximateNumberOfMessagesNotVisible"
        return int(aws.sqs().get_queue_attributes(QueueUrl=queue_url, AttributeNames=[name])["Attributes"][name])

    def test_failed_event_is_retried_before_the_queues_own_visibility_timeout(
        self, handle: Callable, receiver: FakeReceiver, aws: LocalAws, queue_url: str
    ) -> None:
        aws.sqs().send_message(QueueUrl=queue_url, MessageBody=json.dumps(event()))
        receiver.respond = lambda headers, body: (500, b"")
        assert handle(self.take(aws, queue_url)) == ["m0"]
        assert self.invisible(aws, queue_url) == 1
        eventually(lambda: not self.invisible(aws, queue_url), 2 * FIRST_DELAY)
        assert self.take(aws, queue_url)["attributes"]["ApproximateReceiveCount"] == "2"

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_failed_event_is_not_retried_before_retry_after(
        self, handle: Callable, receiver: FakeReceiver, aws: LocalAws, queue_url: str, form: str
    ) -> None:
        wait = 5.0
        aws.sqs().send_message(QueueUrl=queue_url, MessageBody=json.dumps(event()))
        receiver.respond = lambda headers, body: (500, b"")
        date = formatdate(time.time() + wait, usegmt=True)
        receiver.extra_headers = {"Retry-After": str(int(wait)) if form == "seconds" else date}
        start = time.time()
        assert handle(self.take(aws, queue_url)) == ["m0"]
        eventually(lambda: not self.invisible(aws, queue_url), wait + 3)
        assert time.time() - start >= wait - 1.01  # HTTP dates have whole seconds


class TestConnections:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    def tls(self, authority: trustme.CA, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(context)
        return context

    def bundle(self, *authorities: trustme.CA) -> str:
        return ",".join(
            base64.b64encode(ssl.PEM_cert_to_DER_cert(each.cert_pem.bytes().decode())).decode() for each in authorities
        )

    def test_connection_is_reused_across_invocations(self, handle: Callable, receiver: FakeReceiver) -> None:
        for _ in range(5):
            assert handle(event()) == []
        assert receiver.connections == 1

    def test_connection_closed_while_idle_is_replaced_within_the_same_delivery(
        self, handle: Callable, receiver: FakeReceiver
    ) -> None:
        assert handle(event()) == []
        accept, closed = receiver.respond, []

        def close_once(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
            if not closed:
                closed.append(True)
                raise ConnectionAbortedError  # the client sees that the connection is closed without an answer
            return accept(headers, body)

        receiver.respond = close_once
        assert handle(event()) == []
        assert receiver.connections == 2

    def test_private_ca_is_trusted_only_if_the_ca_bundle_holds_it(
        self, sandbox: Callable, authority: trustme.CA, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver = FakeReceiver(self.tls(authority, "127.0.0.1"))
        assert sandbox(receiver)(event()) == ["m0"]
        assert receiver.requests == []
        assert answer(caplog, receiver) == "TLS: unable to get local issuer certificate"
        assert sandbox(receiver, KEYTURN_CA_BUNDLE=self.bundle(authority))(event()) == []
        receiver.close()

    def test_ca_bundle_may_still_be_a_pem_file_in_base64(self, sandbox: Callable, authority: trustme.CA) -> None:
        receiver = FakeReceiver(self.tls(authority, "127.0.0.1"))
        pem = base64.b64encode(authority.cert_pem.bytes()).decode()
        assert sandbox(receiver, KEYTURN_CA_BUNDLE=pem)(event()) == []
        receiver.close()

    def test_ca_is_rolled_over_by_the_parameter(
        self, sandbox: Callable, authority: trustme.CA, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One receiver has a certificate of the old CA, and another one has a certificate of the new CA. Both are
        reached while the parameter has both CAs. With only the new CA, only the second receiver is reached."""
        new = trustme.CA()
        receivers = [FakeReceiver(self.tls(each, "127.0.0.1")) for each in (authority, new)]
        assert sandbox(*receivers, KEYTURN_CA_BUNDLE=self.bundle(authority, new))(event()) == []
        assert sandbox(*receivers, KEYTURN_CA_BUNDLE=self.bundle(new))(event()) == ["m0"]
        assert answer(caplog, receivers[0]) == "TLS: unable to get local issuer certificate"
        assert answer(caplog, receivers[1]) == "status 200"
        for receiver in receivers:
            receiver.close()

    def test_ca_is_rolled_over_by_the_secret_without_a_deployment(
        self, sandbox: Callable, authority: trustme.CA, aws: LocalAws
    ) -> None:
        client, name, new = aws.secrets_manager(), f"ca-{uuid4()}", trustme.CA()
        old_pem, new_pem = (each.cert_pem.bytes().decode() for each in (authority, new))
        client.create_secret(Name=name, SecretString=old_pem)
        receivers = [FakeReceiver(self.tls(each, "127.0.0.1")) for each in (authority, new)]
        handle = sandbox(*receivers, KEYTURN_CA_BUNDLE_SECRET_ID=name)
        assert handle("{") == []  # the sandbox starts while the secret has only the old CA
        client.put_secret_value(SecretId=name, SecretString=old_pem + new_pem)
        assert handle(event()) == []
        assert [len(receiver.notifications) for receiver in receivers] == [1, 1]
        for receiver in receivers:
            receiver.close()

    def test_secret_with_the_cas_is_read_at_most_once_a_minute(
        self, sandbox: Callable, authority: trustme.CA, aws: LocalAws
    ) -> None:
        name = f"ca-{uuid4()}"
        aws.secrets_manager().create_secret(Name=name, SecretString=trustme.CA().cert_pem.bytes().decode())
        receivers = [FakeReceiver(self.tls(authority, "127.0.0.1")) for _ in range(3)]
        before = aws.calls()["secretsmanager.GetSecretValue"]
        assert sandbox(*receivers, KEYTURN_CA_BUNDLE_SECRET_ID=name)(event()) == ["m0"]
        start, again, keys = 1, 1, 2  # the keys are the current and the previous signing key
        assert aws.calls()["secretsmanager.GetSecretValue"] - before == start + again + keys
        for receiver in receivers:
            receiver.close()

    def test_fault_of_a_private_ca_is_logged_and_counted_and_the_others_are_trusted(
        self,
        sandbox: Callable,
        authority: trustme.CA,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        receiver = FakeReceiver(self.tls(authority, "127.0.0.1"))
        bundle = f"{self.bundle(authority)},{base64.b64encode(b'hello').decode()}"
        assert sandbox(receiver, KEYTURN_CA_BUNDLE=bundle, KEYTURN_CA_BUNDLE_SECRET_ID="gone")(event()) == []
        reasons = [vars(line)["reason"] for line in caplog.records if line.message == authorities.CA_FAULT]
        assert [reason.split(":")[0] for reason in reasons] == ["CaBundle", "CaBundleSecretArn"]
        assert "item 2 has no certificate" in reasons[0]
        assert reasons[1].endswith("Secrets Manager: ResourceNotFoundException")
        assert metrics(capsys)["CaFaults"] == [1, 1]
        receiver.close()

    @pytest.mark.parametrize("critical", [True, False])
    def test_certificate_that_the_notifier_does_not_trust_is_counted(
        self,
        sandbox: Callable,
        tmp_path: Path,
        critical: bool,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Python 3.13 refuses a CA that violates RFC 5280. The notifier refuses it under any version of Python."""
        authority = Authority(critical=critical)
        receiver = FakeReceiver(authority.server_context(tmp_path))
        bundle = base64.b64encode(authority.pem).decode()
        assert sandbox(receiver, KEYTURN_CA_BUNDLE=bundle)(event()) == ([] if critical else ["m0"])
        assert metrics(capsys).get("TlsFailures", []) == ([] if critical else [1])
        words = "status 200" if critical else "TLS: Basic Constraints of CA cert not marked critical"
        assert answer(caplog, receiver) == words
        receiver.close()

    def test_certificate_for_another_host_is_refused(self, sandbox: Callable, authority: trustme.CA) -> None:
        receiver = FakeReceiver(self.tls(authority, "another.example"))
        assert sandbox(receiver, KEYTURN_CA_BUNDLE=self.bundle(authority))(event()) == ["m0"]
        assert receiver.requests == []
        receiver.close()


class TestProxy:
    @pytest.fixture
    def proxy(self) -> Iterator[HttpProxy]:
        made = HttpProxy()
        yield made
        made.close()

    @pytest.fixture
    def start(self, sandbox: Callable, aws: LocalAws, proxy: HttpProxy) -> Iterator[Callable[..., Any]]:
        """Start a sandbox. Only the proxy can resolve the names of its receiver and of its AWS."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("receiver.example").configure_cert(context)
        self.receiver = FakeReceiver(context)
        self.host = f"receiver.example:{self.receiver.server.server_port}"
        self.aws = aws.endpoint_url.replace("127.0.0.1", "aws.example").removeprefix("http://")

        def make(**settings: str) -> Callable[..., list[str]]:
            given = {
                "KEYTURN_RECEIVER_URLS": f"https://{self.host}/v1/notifications",
                "KEYTURN_CA_BUNDLE": base64.b64encode(authority.cert_pem.bytes()).decode(),
                "KEYTURN_HTTPS_PROXY": proxy.url,
                "AWS_ENDPOINT_URL": f"http://{self.aws}",
            }
            return sandbox(self.receiver, **given, **settings)

        yield make
        self.receiver.close()

    def test_receivers_and_aws_are_called_through_the_proxy(self, start: Callable, proxy: HttpProxy) -> None:
        assert start()(event(), "{") == []  # one delivery, and one message for the dead-letter queue
        assert set(proxy.targets) == {self.host, self.aws}
        assert len(self.receiver.notifications) == 1

    def test_hosts_of_no_proxy_are_called_without_it(
        self, start: Callable, aws: LocalAws, proxy: HttpProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        handle = start(KEYTURN_NO_PROXY="receiver.example,10.0.0.0/8")
        assert handle(event()) == ["m0"]
        assert [vars(line)["answers"] for line in caplog.records if line.message == "not delivered"] == [
            {self.host: "its name does not resolve"}
        ]
        assert set(proxy.targets) == {self.aws}
        proxy.targets.clear()
        start(KEYTURN_NO_PROXY="aws.example")(event())
        assert proxy.targets == []


class TestSigning:
    def test_previous_key_signs_as_well_as_the_current_one(
        self, sandbox: Callable, receiver: FakeReceiver, aws: LocalAws, path: EventPath
    ) -> None:
        before = signing_key(aws, path)
        aws.secrets_manager().put_secret_value(
            SecretId=path.signing_key_secret_id, SecretString=new_key(b"the next key " * 4)
        )
        assert sandbox(receiver)(event()) == []
        ((headers, body),) = receiver.requests
        for key in (before, signing_key(aws, path)):
            verify([key], headers, body, float(headers["webhook-timestamp"]))

    def test_kms_key_signs_if_the_stack_has_one(
        self, sandbox: Callable, receiver: FakeReceiver, kms: Emulator, kms_key: tuple[str, bytes]
    ) -> None:
        key_id, public_part = kms_key
        public_key = parse_public_key(base64.b64encode(public_part).decode())
        assert sandbox(receiver, AWS_ENDPOINT_URL_KMS=kms.endpoint_url, KEYTURN_KMS_KEY_ID=key_id)(event()) == []
        ((headers, body),) = receiver.requests
        verify([], headers, body, float(headers["webhook-timestamp"]), public_keys=[ed25519(public_key)])

    def test_batches_fit_the_limit_of_kms(
        self, sandbox: Callable, receiver: FakeReceiver, kms: Emulator, kms_key: tuple[str, bytes]
    ) -> None:
        name = "n" * 512
        arn = f"arn:aws:secretsmanager:us-west-2:012345678901:secret:{name}-a1b2c3"
        events = [event(resources=[arn], detail={**NATIVE["detail"], "name": name}) for _ in range(10)]
        settings = {"AWS_ENDPOINT_URL_KMS": kms.endpoint_url, "KEYTURN_KMS_KEY_ID": kms_key[0]}
        assert sandbox(receiver, **settings)(*events) == []
        assert len(receiver.notifications) == 10
        assert len(receiver.requests) > 1
        for headers, body in receiver.requests:
            signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
            assert len(signed) <= KMS_LIMIT

    def test_missing_signing_key_keeps_the_events_in_the_queue(self, sandbox: Callable, receiver: FakeReceiver) -> None:
        arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:gone-a1b2c3"
        assert sandbox(receiver, KEYTURN_SIGNING_KEY_SECRET_ID=arn)(event(), event()) == ["m0", "m1"]
        assert receiver.requests == []

    def test_hanging_aws_times_out_before_the_invocation_does(
        self, sandbox: Callable, receiver: FakeReceiver, other: FakeReceiver
    ) -> None:
        other.respond = other.hang
        start = time.monotonic()
        assert sandbox(receiver, AWS_ENDPOINT_URL=other.url.removesuffix("/v1/notifications"))(event()) == ["m0"]
        assert time.monotonic() - start < TIMEOUT_SECONDS - 5
        assert receiver.requests == []

    def test_invalid_previous_key_does_not_prevent_deliveries(
        self, sandbox: Callable, receiver: FakeReceiver, aws: LocalAws
    ) -> None:
        client, name = aws.secrets_manager(), f"key-{uuid4()}"
        client.create_secret(Name=name, SecretString="typed by hand and not a key")
        assert sandbox(receiver, KEYTURN_SIGNING_KEY_SECRET_ID=name)(event()) == ["m0"]
        client.put_secret_value(SecretId=name, SecretString=new_key(b"a right key " * 4))
        assert sandbox(receiver, KEYTURN_SIGNING_KEY_SECRET_ID=name)(event()) == []

    def test_signing_keys_never_appear_in_output(
        self,
        sandbox: Callable,
        receiver: FakeReceiver,
        aws: LocalAws,
        path: EventPath,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        broken = "no-key-" * 8
        aws.secrets_manager().create_secret(Name="broken", SecretString=broken)
        assert sandbox(receiver, KEYTURN_SIGNING_KEY_SECRET_ID="broken")(event()) == ["m0"]
        assert sandbox(receiver)(event()) == []
        output = capsys.readouterr().out + "".join(str(vars(line)) for line in caplog.records)
        assert "signing key" in output
        value = aws.secrets_manager().get_secret_value(SecretId=path.signing_key_secret_id)["SecretString"]
        for secret in (broken, value):
            assert secret not in output


class TestHeartbeats:
    HEARTBEAT = json.loads((EVENTS / "heartbeat.json").read_text())

    def beat(self) -> dict[str, object]:
        return {**self.HEARTBEAT, "id": str(uuid4())}

    def test_accepted_heartbeat_is_counted(
        self, handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert handle(self.beat()) == []
        assert [each.type for each in receiver.notifications] == [EventType.HEARTBEAT]
        counted = metrics(capsys)
        assert counted["HeartbeatsAccepted"] == [1]
        assert not counted.keys() & {"DeliveriesDone", "EventAge", "HeartbeatsRefused"}

    def test_refused_heartbeat_is_counted_and_not_retried(
        self, handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
    ) -> None:
        receiver.respond = lambda headers, body: (503, b"")
        assert handle(self.beat()) == []
        assert metrics(capsys)["HeartbeatsRefused"] == [1]


def test_member_heartbeat_is_counted_by_its_origin_and_not_delivered(
    handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    beat = json.loads((EVENTS / "member-heartbeat.json").read_text())
    other = {**beat, "account": "123456789012"}
    assert handle(beat, other, beat) == []
    assert receiver.requests == []
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    counted = [line for line in lines if "MemberHeartbeats" in line]
    assert [line["origin"] for line in counted] == [
        "999988887777/ap-southeast-2",
        "123456789012/ap-southeast-2",
        "999988887777/ap-southeast-2",
    ]
    for line in counted:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], line["MemberHeartbeats"]) == (telemetry.NAMESPACE, [1])
        assert directive["Dimensions"] == [["service"], ["service", "origin"]]


def test_invocations_emit_exactly_the_defined_metrics(
    sandbox: Callable, handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    emitted: set[str] = set()

    def invoke(status: int, *bodies: object) -> None:
        receiver.respond = lambda headers, body: (status, reply_to_all(body, Outcome.APPLIED) if status == 200 else b"")
        handle(*bodies)
        emitted.update(metrics(capsys))

    invoke(200, event(), event(detail={**NATIVE["detail"], "labelUpdated": "AWSPENDING"}), TestHeartbeats().beat(), "{")
    invoke(401, event(), TestHeartbeats().beat())
    receiver.respond = lambda headers, body: (
        503,
        encode_reply(
            [Result(each.id, Outcome.FAILED, reason="shop/db: for now") for each in decode(CONTENT_TYPE_BATCH, body)]
        ),
    )
    handle(event())
    emitted.update(metrics(capsys))
    untrusted = FakeReceiver(TestConnections().tls(trustme.CA(), "127.0.0.1"))
    sandbox(untrusted, KEYTURN_CA_BUNDLE_SECRET_ID="gone")(event())
    untrusted.close()
    emitted.update(metrics(capsys))
    receiver.respond = lambda headers, body: (200, reply_to_all(body, Outcome.APPLIED))
    for bus in ("default", "gone"):
        sandbox(receiver, KEYTURN_RECEIPTS_BUS=bus)(event())
        emitted.update(metrics(capsys))
    count_member_heartbeat("123456789012", "eu-west-1")
    emitted.update(metrics(capsys))
    assert emitted == set(telemetry.Metric)


def test_age_of_an_event_that_is_put_back_is_counted_and_that_of_a_heartbeat_is_not(
    handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    moment = datetime.fromtimestamp(time.time() - 400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    receiver.respond = lambda headers, body: (500, b"")
    assert handle(event(time=moment), {**TestHeartbeats().beat(), "time": moment}) == ["m0"]
    counted = metrics(capsys)
    (waiting,) = counted["EventWaiting"]
    assert 400_000 <= waiting < 410_000
    assert "EventAge" not in counted


def test_event_age_and_delivery_latency_are_in_milliseconds(
    handle: Callable, receiver: FakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    moment = datetime.fromtimestamp(time.time() - 10, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    handle(event(time=moment))
    counted = metrics(capsys)
    assert 10_000 <= counted["EventAge"][0] < 15_000
    assert 0 < counted["DeliveryLatency"][0] < 5_000
