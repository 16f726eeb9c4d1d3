"""S15: a recorded delivery or heartbeat is sent again. It does no work, and does not count as a new heartbeat."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from keyturn_contract.message import EventType, encode
from support.deliveries import signed
from support.fault_env import FaultEnv
from support.wait import eventually

REPLAYS = 2000
CONNECTIONS = 100


@pytest.mark.fault("S15")
@pytest.mark.parametrize("kind", [EventType.RESTORED, EventType.CHANGED])
def test_replayed_delivery_does_no_work_and_holds_up_nobody(env: FaultEnv, kind: EventType) -> None:
    """Somebody records a signed delivery and sends it 2,000 times over 100 connections. The receiver gives each of them
    the first reply, counts the replays, reconciles once, and meanwhile answers other deliveries with 200."""
    receiver = env.receiver()
    arn = env.create_bound_secret("recorded", consumers=())
    env.create_bound_secret("db")
    eventually(lambda: env.is_current("db") and env.is_current("recorded"))
    body = encode([env.notification_without_version(arn, kind)])
    headers = signed(env.key, body)
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    with httpx.Client(timeout=30, limits=limits) as http, ThreadPoolExecutor(CONNECTIONS) as pool:

        def post(_: int) -> tuple[int, str]:
            reply = http.post(receiver.url, content=body, headers=headers)
            return reply.status_code, reply.text

        first = post(0)
        assert first[0] == 200
        reconciles = receiver.metric("keyturn_reconciles_total", cause="notification")
        replays = [pool.submit(post, number) for number in range(REPLAYS)]
        answers = [env.send(env.rotate("db")) for _ in range(10)]
        assert {replay.result() for replay in replays} == {first}
    assert [answer.status for answer in answers] == [200] * 10
    assert receiver.metric("keyturn_replays_total") == REPLAYS
    assert receiver.metric("keyturn_reconciles_total", cause="notification") == reconciles + 10
    env.wait_converged()


@pytest.mark.fault("S15")
def test_replayed_heartbeat_does_not_hide_that_the_event_path_is_down(env: FaultEnv) -> None:
    """Somebody records a heartbeat, and sends it to two replicas again and again after the event path has broken. Both
    replicas report the event path as down once no new heartbeat has arrived for long enough."""
    first, second = (env.receiver(KEYTURN_HEARTBEAT_SILENCE_SECONDS="8") for _ in range(2))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = encode([replace(env.notification_without_version("keyturn", EventType.HEARTBEAT), time=now)])
    headers = signed(env.key, body)

    def down() -> bool:
        for receiver in (first, second):
            assert httpx.post(receiver.url, content=body, headers=headers, timeout=10).status_code == 200
        return {receiver.metric("keyturn_event_path_up") for receiver in (first, second)} == {0}

    assert not down()
    eventually(down, 120)
