"""The webhook of a running receiver: a refused delivery causes no call to AWS or Kubernetes."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    CONTRACT_VERSION,
    MAX_BODY,
    RECEIVER_HEADER,
    EventType,
    Notification,
    Outcome,
    decode_reply,
    encode,
)
from keyturn_contract.signature import new_key, parse_key
from keyturn_local.aws.rotation import rotate
from keyturn_local.kubernetes.chart import chart_objects
from keyturn_local.processes.program import StartFailed
from keyturn_local.receiver.process import LocalReceiver, total
from keyturn_local.stack import Stack
from support.deliveries import current_key, notification, signed
from support.fault_env import FaultEnv
from support.manifests import secret
from support.wait import eventually


def calls(stack: Stack) -> tuple[str, float]:
    """Return the newest call to Secrets Manager that no function made, and the number of calls to Kubernetes. Calls
    about Leases are not counted."""
    aws = next(call.id for call in stack.aws.recent_calls("secretsmanager") if not call.by_function)
    metrics, name = stack.receiver.metrics(), "keyturn_kubernetes_requests_total"
    return aws, total(metrics, name) - total(metrics, name, resource="leases")


def quiet(stack: Stack) -> tuple[str, float]:
    """Wait until the work of earlier tests is done: until ``calls`` returns the same result twice, half a second apart.
    Return this result."""
    end = time.monotonic() + 20
    while (before := calls(stack)) != (time.sleep(0.5) or calls(stack)):
        assert time.monotonic() < end
    return before


def post(stack: Stack, content: bytes | Iterator[bytes], headers: dict[str, str], **more: Any) -> httpx.Response:
    return httpx.post(stack.receiver.url, content=content, headers=headers, verify=stack.tls(), **more)


def connect(stack: Stack, seconds: float) -> http.client.HTTPConnection:
    parts = urlsplit(stack.receiver.url)
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=seconds, context=stack.tls())


BODY = encode([notification("prod/db")])
REFUSED: dict[str, tuple[Callable[[bytes], tuple[bytes, dict[str, str]]], int]] = {
    "unsigned": (lambda key: (BODY, {"content-type": CONTENT_TYPE_BATCH}), 401),
    "forged with another key": (lambda key: (BODY, signed(b"x" * 32, BODY)), 401),
    "signed for another body": (lambda key: (BODY, signed(key, BODY + b" ")), 401),
    "301 s old": (lambda key: (BODY, signed(key, BODY, age=302)), 401),
    "301 s in the future": (lambda key: (BODY, signed(key, BODY, age=-302)), 401),
    "a timestamp that is no number": (lambda key: (BODY, {**signed(key, BODY), "webhook-timestamp": "now"}), 401),
    "a signature that is no base64": (lambda key: (BODY, {**signed(key, BODY), "webhook-signature": "v1,%%"}), 401),
    "over 16 KiB": (lambda key: (b"x" * (MAX_BODY + 1), signed(key, b"x" * (MAX_BODY + 1))), 413),
    "not JSON": (lambda key: (b"{", signed(key, b"{")), 400),
    "no event at all": (lambda key: (b"[]", signed(key, b"[]")), 400),
    "of another content type": (lambda key: (BODY, {**signed(key, BODY), "content-type": "text/plain"}), 415),
}


@pytest.mark.parametrize(("make", "status"), REFUSED.values(), ids=REFUSED)
def test_refused_delivery_causes_no_call(
    stack: Stack, make: Callable[[bytes], tuple[bytes, dict[str, str]]], status: int
) -> None:
    body, headers = make(current_key(stack))

    def causes_a_call() -> bool:
        before = quiet(stack)
        reply = post(stack, body, headers)
        assert reply.status_code == status
        assert reply.headers[RECEIVER_HEADER] == CONTRACT_VERSION
        if status == 401:
            assert reply.json() == {"error": "not verified"}
        return calls(stack) != before

    assert not (causes_a_call() and causes_a_call())  # tried twice, because a watch may restart during the first


def test_body_over_the_limit_is_refused_before_it_is_read_whole(stack: Stack) -> None:
    connection = connect(stack, seconds=10)
    connection.putrequest("POST", urlsplit(stack.receiver.url).path)
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    connection.send(b"x" * 1024)  # a millionth of the length that the head announces
    assert connection.getresponse().status == 413
    connection.close()


def test_chunked_body_is_cut_at_the_limit(stack: Stack) -> None:
    def chunks():
        for _ in range(100):
            yield b"x" * 1024

    reply = post(stack, chunks(), signed(b"x" * 32, b""))
    assert reply.status_code == 413


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="a machine without IPv6")
@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_webhook_listens_on_ipv4_and_ipv6(env: FaultEnv, address: str) -> None:
    receiver = env.receiver(KEYTURN_HOST="")
    for url in (receiver.url, f"{receiver.operations_url}/livez"):
        assert httpx.get(url.replace("127.0.0.1", address)).status_code == (405 if url == receiver.url else 200)


def test_health_check_of_an_alb_passes(stack: Stack) -> None:
    values = {"ingress": {"enabled": True, "className": "alb", "host": "keyturn.example.com"}}
    (ingress,) = [each for each in chart_objects("keyturn", values) if each["kind"] == "Ingress"]
    prefix = "alb.ingress.kubernetes.io/"
    asks = {name.removeprefix(prefix): text for name, text in ingress["metadata"]["annotations"].items()}
    reply = httpx.get(urljoin(stack.receiver.url, asks["healthcheck-path"]), verify=stack.tls())
    assert str(reply.status_code) == asks["success-codes"]


def test_pending_key_is_accepted(own_stack: Callable) -> None:
    with own_stack(KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1") as stack:
        client = stack.aws.secrets_manager()
        eventually(lambda: not stack.aws.key_is_rotating(), 60)  # a new stack first makes a dry run of the rotation
        old = current_key(stack)
        client.put_secret_value(
            SecretId=stack.path.signing_key_secret_id,
            SecretString="whsec_" + "A" * 42 + "A=",
            VersionStages=["AWSPENDING"],
        )
        pending = parse_key("whsec_" + "A" * 42 + "A=")
        beat = encode([notification("keyturn", kind=EventType.HEARTBEAT)])

        def accepted(key: bytes) -> bool:
            return post(stack, beat, signed(key, beat)).status_code == 200

        eventually(lambda: accepted(pending))
        assert accepted(old)


def accepts(receiver: LocalReceiver, key: str) -> bool:
    """Return whether the receiver accepts a delivery signed with this key."""
    beat = encode([notification("keyturn", kind=EventType.HEARTBEAT)])
    return httpx.post(receiver.url, content=beat, headers=signed(parse_key(key), beat)).status_code == 200


ONE, TWO = new_key(b"1" * 32), new_key(b"2" * 32)


def test_keys_in_a_file_are_reloaded_beside_those_in_aws(env: FaultEnv, tmp_path: Path) -> None:
    file = tmp_path / "signing-key"
    receiver = env.receiver(KEYTURN_SIGNING_KEY_FILE=str(file), KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1")
    assert f"signing key file {file} does not exist" in receiver.log  # the receiver starts nevertheless
    assert accepts(receiver, env.signing_key)
    assert not accepts(receiver, ONE)

    file.write_text(f"{ONE}\nnonsense\n{TWO}\n")
    eventually(lambda: accepts(receiver, TWO))
    assert accepts(receiver, ONE)
    assert accepts(receiver, env.signing_key)
    assert receiver.metric("keyturn_signing_keys") == 3
    assert f"line 2 of signing key file {file}" in receiver.log
    assert "nonsense" not in receiver.log

    file.write_text(TWO)
    eventually(lambda: not accepts(receiver, ONE))
    file.unlink()
    told = receiver.log.count("does not exist")
    eventually(lambda: receiver.log.count("does not exist") > told)
    assert accepts(receiver, TWO)
    assert accepts(receiver, env.signing_key)


def test_receiver_with_a_key_file_alone_is_ready_once_it_has_a_key(env: FaultEnv, tmp_path: Path) -> None:
    file = tmp_path / "signing-key"
    file.touch()
    settings = {"KEYTURN_SIGNING_KEY_SECRET_ID": "", "KEYTURN_SIGNING_KEY_FILE": str(file)}
    receiver = env.receiver(start=False, **settings)
    with pytest.raises(StartFailed):
        receiver.start(3)
    reason = f"signing key file {file} holds no key: write one (whsec_...) per line into it"
    eventually(lambda: receiver.ready() == (503, f"not ready: signing key file {file} ({reason})\n"))
    assert f"signing key file {file} holds no key: write one" in receiver.log
    file.write_text(ONE)
    eventually(lambda: receiver.ready()[0] == 200)
    assert accepts(receiver, ONE)


def test_notification_gets_its_own_result(stack: Stack, namespace: str) -> None:
    client = stack.aws.secrets_manager()
    name = f"{namespace}/db"
    client.create_secret(Name=name, SecretString="one")
    stack.cluster.create([secret(namespace, "db", name)])
    stale = notification(name)  # this version has never existed
    eventually(lambda: outcome(stack, stale) == Outcome.SUPERSEDED)
    version_id = rotate(client, name, "two")
    eventually(lambda: version_id in stack.aws.notifier_log.delivered())

    broken = notification(f"{namespace}/nobody-reads-it")
    body = encode([stale, broken, notification("keyturn", kind=EventType.HEARTBEAT)])
    reply = post(stack, body, signed(current_key(stack), body))
    assert reply.status_code == 200
    outcomes = [result.outcome for result in decode_reply(reply.content)]
    assert outcomes == [Outcome.SUPERSEDED, Outcome.IGNORED, Outcome.IGNORED]


def outcome(stack: Stack, sent: Notification) -> Outcome:
    body = encode([sent])
    reply = post(stack, body, signed(current_key(stack), body), timeout=20)
    return decode_reply(reply.content)[0].outcome


def test_health_is_served_on_a_port_of_its_own(stack: Stack) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert httpx.get(stack.receiver.operations_url + path).status_code == 200
        elsewhere = stack.receiver.url.replace("/v1/notifications", path)
        assert httpx.get(elsewhere, verify=stack.tls()).status_code == 404


def test_log_is_json_lines(stack: Stack) -> None:
    for line in stack.receiver.log.splitlines():
        assert {"time", "level", "message"} <= json.loads(line).keys()


def test_half_sent_bodies_take_no_slot_from_signed_deliveries(stack: Stack) -> None:
    strangers = []
    for _ in range(100):  # by default, the receiver handles 64 deliveries at once
        connection = connect(stack, seconds=20)
        connection.putrequest("POST", urlsplit(stack.receiver.url).path)
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        connection.send(b"half of it")
        strangers.append(connection)
    try:
        beat = encode([notification("keyturn", kind=EventType.HEARTBEAT)])
        assert post(stack, beat, signed(current_key(stack), beat)).status_code == 200
        assert strangers[0].getresponse().status == 408  # the receiver ends the request after ten seconds
    finally:
        for connection in strangers:
            connection.close()
