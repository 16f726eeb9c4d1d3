"""F18 and F19: clocks differ, a clock jumps, or a delivery is replayed."""

import os
import time
from pathlib import Path

import httpx
import pytest

from keyturn_contract.message import encode
from keyturn_local.processes.environment import IMPORT_ROOTS
from support.deliveries import signed
from support.fault_env import FaultEnv
from support.wait import eventually

STEPPING_CLOCK = Path(__file__).parents[1] / "stepping_clock"


def send_as_of(env: FaultEnv, age: int, body: bytes = b"") -> int:
    """Send ``body``, or by default the notification of a new rotation, with a signature that is ``age`` seconds old.
    Return the status of the answer."""
    body = body or encode([env.rotate()])
    headers = signed(env.key, body, age=age)
    return env.deliveries.record(httpx.post(env.receivers[-1].url, content=body, headers=headers, timeout=20)).status


def in_the_second(env: FaultEnv, age: int) -> int:
    """Send the notification of a rotation with a signature that is ``age`` seconds old, and return the status of the
    answer. Timestamps have no fractions, so send again until an answer arrives within the second of its signature."""
    for _ in range(10):
        body = encode([env.rotate()])
        time.sleep(1 - time.time() % 1)
        second = int(time.time())
        status = send_as_of(env, age, body)
        if int(time.time()) == second:
            return status
    raise AssertionError("no answer within a second")


@pytest.mark.fault("F18")
def test_delivery_is_refused_once_clocks_differ_by_over_five_minutes(env: FaultEnv) -> None:
    """The receiver accepts deliveries from a sender whose clock is 299 s ahead or behind, and refuses them if the clock
    is off by 301 s."""
    env.receiver()
    env.create_bound_secret()
    assert [in_the_second(env, age) for age in (299, -299)] == [200, 200]
    assert [in_the_second(env, age) for age in (301, -301)] == [401, 401]
    env.send_until_accepted(env.rotate())
    env.wait_converged()


@pytest.mark.long
@pytest.mark.fault("F18")
def test_step_of_the_wall_clock_stops_neither_lead_nor_work(env: FaultEnv, tmp_path: Path) -> None:
    """The receiver's wall clock jumps back by an hour, and then forward by two. The receiver stays leader, polls and
    applies rotations throughout, and refuses deliveries whose timestamps differ from its clock by an hour."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    receiver = env.receiver(
        KEYTURN_POLL_INTERVAL_SECONDS="2",
        KEYTURN_TEST_CLOCK=str(clock),
        PYTHONPATH=os.pathsep.join([str(STEPPING_CLOCK), IMPORT_ROOTS]),
    )
    env.create_bound_secret()
    for offset in (-3600, 3600):
        eventually(lambda: receiver.metric("keyturn_poller_leader") == 1)
        clock.write_text(str(offset))
        assert send_as_of(env, 0) == 401
        assert send_as_of(env, -offset) == 200
        env.wait_converged()
        sweeps = receiver.metric("keyturn_sweeps_total", outcome="ok")
        env.rotate(text="unheard")
        eventually(env.is_current, 10)
        time.sleep(15)  # longer than the Lease lasts without renewal
        assert receiver.metric("keyturn_poller_leader") == 1
        assert receiver.metric("keyturn_sweeps_total", outcome="ok") > sweeps
    env.wait_converged()


@pytest.mark.fault("F19")
def test_replayed_delivery_changes_nothing_and_expires(env: FaultEnv) -> None:
    """A delivery that is replayed unchanged while its timestamp is still accepted changes nothing, even if the secret
    has been rotated again. The receiver refuses the same body if its signature is 302 s old."""
    env.receiver()
    env.create_bound_secret()
    first = encode([env.rotate(text="first")])
    recorded = signed(env.key, first)
    url = env.receivers[-1].url
    replies = [env.deliveries.record(httpx.post(url, content=first, headers=recorded, timeout=20)) for _ in range(3)]
    assert [reply.body for reply in replies] == [replies[0].body] * 3
    assert replies[0].outcome == "applied"
    env.send_until_accepted(env.rotate(text="second"))
    replayed = env.deliveries.record(httpx.post(url, content=first, headers=recorded, timeout=20))
    assert replayed.body == replies[0].body
    assert env.receivers[-1].metric("keyturn_replays_total") == 3
    old = signed(env.key, first, age=302)
    reply = env.deliveries.record(httpx.post(url, content=first, headers=old, timeout=20))
    assert (reply.status, reply.body) == (401, '{"error":"not verified"}')
    env.wait_converged()
