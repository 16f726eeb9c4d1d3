"""The history on a Secret has the last changes in order, and none of them twice, and stays within its size limit,
whatever happens to writes. If somebody garbles the history, it starts again with the next change."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import pytest

from keyturn_contract.message import Notification
from keyturn_receiver.core.history import HISTORY, MAX_BYTES, MAX_CHANGES, Change, read_history
from keyturn_receiver.reconcile.work_queue import SETTLE_SECONDS
from support.cluster_state import annotations_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, CutAfter, Fault
from support.wait import eventually


def applies(call: Call) -> bool:
    return "apply-patch" in call.headers.get("content-type", "") and call.path.endswith("/secrets/db")


def history(env: FaultEnv) -> Sequence[Change]:
    """Return the history that the Secret has now, the newest change first."""
    return read_history(annotations_of(env.cluster, "secret", env.namespace, "db").get(HISTORY))


def every_change(env: FaultEnv) -> list[Change]:
    """Return all changes that the Secret's history has ever had, in order, and check the history in each state of the
    Secret."""
    changes: list[Change] = []
    for state in env.history.states("secrets", "db"):
        text = state["metadata"].get("annotations", {}).get(HISTORY, "")
        assert len(text.encode()) <= MAX_BYTES
        now = read_history(text)
        if now and now[0] not in changes:
            changes.append(now[0])
        assert list(now) == changes[: -MAX_CHANGES - 1 : -1]  # no entry is lost, doubled or changed
    return changes


def versions(env: FaultEnv) -> list[str]:
    """Return the versions that the Secret has had, in order."""
    found: list[str] = []
    for state in env.history.states("secrets", "db"):
        recorded = state["metadata"].get("annotations", {}).get("keyturn.dev/version-ids", "{}")
        found += [each for each in json.loads(recorded).values() if each not in found[-1:]]
    return found


@pytest.mark.long
@pytest.mark.fault("F23")
def test_two_replicas_add_each_of_a_hundred_rotations_once(env: FaultEnv) -> None:
    """Each of a hundred notifications reaches two replicas at the same moment, so that their writes meet at the API
    server. The history gets each change once, in order, and keeps at most the last five changes in at most 1,200
    bytes."""
    replicas = [env.receiver(), env.receiver()]
    env.create_bound_secret()
    both = Barrier(2)

    def together(call: Call) -> Fault:
        if applies(call):
            with suppress(BrokenBarrierError):
                both.wait(0.2)
            both.reset()
        return None

    env.kubernetes_proxy.fault_for = together
    told: list[Notification] = []
    with ThreadPoolExecutor(2) as pool:
        for number in range(100):
            told.append(env.rotate(text=str(number)))
            list(pool.map(lambda to: env.send_until_accepted(told[-1], to=to), replicas))
    env.wait_converged()
    conflicts = sum(receiver.metric("keyturn_reconciles_total", outcome="unchanged") for receiver in replicas)
    assert conflicts > 0  # at least one replica came too late
    changes = every_change(env)
    assert [change.version for change in changes] == versions(env)
    assert [change.version for change in changes[1:]] == [str(each.data.version_id) for each in told]
    assert [change.event for change in changes[1:]] == [each.id for each in told]
    assert [change.was for change in changes] == ["", *(change.version for change in changes[:-1])]
    assert [change.at for change in changes] == sorted(change.at for change in changes)
    assert {(change.cause, change.keys, change.due) for change in changes[1:]} == {("notification", 1, 1)}
    assert all(change.moved_at for change in changes[1:])


@pytest.mark.fault("F2")
def test_change_whose_answer_is_lost_is_in_the_history_once(env: FaultEnv) -> None:
    """The API server takes a write of a Secret, but its answer never reaches the receiver. The next attempt writes
    nothing, and the history has the change once."""
    env.receiver()
    env.create_bound_secret()
    lost: list[Call] = []

    def lose(call: Call) -> Fault:
        if applies(call) and len(lost) < 3:
            lost.append(call)
            return CutAfter()
        return None

    env.kubernetes_proxy.fault_for = lose
    for number in range(3):
        env.send_until_accepted(env.rotate(text=str(number)))
    env.wait_converged()
    assert len(lost) == 3
    changes = every_change(env)
    assert [change.version for change in changes] == versions(env)
    assert len(changes) == 4


@pytest.mark.fault("F26")
@pytest.mark.parametrize(
    "forged",
    ["not JSON", "[" * 5000, "x" * 200_000, '[{"at":"2026-11-28T08:38:06.174Z","version":"v0","keys":1,"due":0}]'],
    ids=["garbled", "deep", "huge", "forged"],
)
def test_history_that_others_write_decides_nothing_and_is_replaced(env: FaultEnv, forged: str) -> None:
    """Somebody writes the history of a Secret. Nothing is read, written or restarted because of that. The next
    rotation keeps the entries that are readable."""
    receiver = env.receiver()
    env.create_bound_secret()
    env.let_settle(2 * SETTLE_SECONDS)  # until the reconcile that gave the consumer its baseline has ended
    before = receiver.metric("keyturn_reconciles_total")
    patch = json.dumps({"metadata": {"annotations": {HISTORY: forged}}})
    (env.directory / "patch.json").write_text(patch)
    env.cluster.kubectl(
        "patch", "secret", "db", "-n", env.namespace, "--type=merge", "--patch-file", str(env.directory / "patch.json")
    )
    calls = len(env.kubernetes_proxy.calls)
    env.let_settle(2 * SETTLE_SECONDS)
    assert receiver.metric("keyturn_reconciles_total") == before
    assert not any("/secrets/db" in call.path for call in env.kubernetes_proxy.calls[calls:])
    told = env.rotate()
    env.send_until_accepted(told)
    env.wait_converged()
    newest, *older = history(env)
    assert newest.version == told.data.version_id
    assert [change.version for change in older] == (["v0"] if "v0" in forged else [])
    eventually(lambda: env.has_latest("web"))


@pytest.mark.fault("S21")
def test_edits_that_are_restored_leave_the_rotations_in_the_history(env: FaultEnv) -> None:
    """Somebody edits the value of a Secret seven times, and Keyturn restores it. The history has the rotations, and
    one entry for the restorations."""
    env.receiver()
    env.create_bound_secret()
    told = env.rotate()
    env.send_until_accepted(told)
    for number in range(7):
        env.cluster.kubectl(
            *("patch", "secret", "db", "-n", env.namespace, "--type=merge"),
            *("-p", json.dumps({"stringData": {"value": f"edited-{number}"}})),
        )
        eventually(env.is_current, 60)
    env.wait_converged()
    restored, rotated, first = history(env)
    assert (restored.version, restored.was, restored.cause) == (told.data.version_id, told.data.version_id, "drift")
    assert (rotated.version, rotated.was) == (told.data.version_id, first.version)
