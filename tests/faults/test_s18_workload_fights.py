"""S18: another writer keeps reverting Keyturn's annotations on a workload, or the Secret itself moves to and fro."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from keyturn_receiver.core.consumer import former_mark_name, mark_name
from support.background import PeriodicThread
from support.cluster_state import annotations_of, list_events, replica_sets
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.wait import eventually

MINUTE = 60
MARK = "revision.keyturn.dev/db"
HANDFUL = 7
Owner = Callable[[dict[str, Any]], bool]  # edits a Deployment in place, and returns whether it has changed


def strips_everything(obj: dict[str, Any]) -> bool:
    """An operator that owns all annotations, of the workload and of its pod template."""
    changed = False
    for metadata in (obj["metadata"], obj["spec"]["template"]["metadata"]):
        if MARK in (metadata.get("annotations") or {}):
            del metadata["annotations"][MARK]
            changed = True
    return changed


def strips_the_workload(obj: dict[str, Any]) -> bool:
    """An owner that removes the annotations of the workload itself, and leaves the pod template alone."""
    return (obj["metadata"].get("annotations") or {}).pop(MARK, None) is not None


def strips_the_template(obj: dict[str, Any]) -> bool:
    """An operator that builds the pod template again at each reconcile."""
    return (obj["spec"]["template"]["metadata"].get("annotations") or {}).pop(MARK, None) is not None


def puts_its_own(obj: dict[str, Any]) -> bool:
    """A self-heal whose manifest contains an old mark."""
    wanted = {MARK: "of-an-old-manifest"}
    places = [obj["metadata"], obj["spec"]["template"]["metadata"]]
    changed = any((place.get("annotations") or {}).get(MARK) != wanted[MARK] for place in places)
    for place in places:
        place["annotations"] = {**(place.get("annotations") or {}), **wanted}
    return changed


OWNERS = [strips_everything, strips_the_workload, strips_the_template, puts_its_own]
PACES = {"fast": 0.02, "slow": 1.0}  # seconds between two looks of an owner


@contextmanager
def owned(env: FaultEnv, name: str, owner: Owner, pause: float) -> Iterator[None]:
    """Look at a Deployment every ``pause`` seconds, and PUT it whenever ``owner`` changes it."""
    url = f"{env.cluster.url}/apis/apps/v1/namespaces/{env.namespace}/deployments"
    headers = {"Authorization": f"Bearer {env.cluster.admin_token}"}
    pool = urllib3.PoolManager(ca_certs=str(env.cluster.ca_file), maxsize=2)
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            time.sleep(pause)
            obj = pool.request("GET", f"{url}/{name}", headers=headers).json()
            if owner(obj):
                query = {"fieldManager": "the-owner"}
                pool.request("PUT", f"{url}/{name}?{urlencode(query)}", headers=headers, json=obj)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        pool.clear()


def writes(env: FaultEnv, name: str) -> int:
    return len(env.kubernetes_proxy.succeeded("PATCH", f"/deployments/{name}$"))


def warnings(env: FaultEnv, name: str, reason: str) -> list[str]:
    listed = list_events(env.cluster, env.namespace, "Deployment", name, reason=reason, type="Warning")
    return [event["message"] for event in listed]


@pytest.mark.fault("S18")
@pytest.mark.long
def test_owners_of_workloads_cause_a_handful_of_writes_in_a_minute(env: FaultEnv) -> None:
    """Owners of Deployments remove Keyturn's annotations or put back their own, at once or a second later. Meanwhile
    the secret rotates. In a minute the receiver writes to each Deployment one to seven times, and tries to restart
    each. One Warning on each Deployment with a fight names the owner. After the owners have gone, the next rotation
    gives each Deployment the latest mark."""
    receiver = env.receiver()
    env.create_bound_secret(consumers=())
    owners = {f"{owner.__name__}-{pace}".replace("_", "-"): (owner, PACES[pace]) for owner in OWNERS for pace in PACES}
    for name in owners:
        made = workload(env.namespace, name, env_from("db"))
        env.cluster.kubectl("create", "--field-manager=the-owner", "-f", "-", stdin=json.dumps(made))
    eventually(lambda: all(env.history.baseline(name, "db") for name in owners))
    before = {name: writes(env, name) for name in owners}
    with ExitStack() as fights:
        for name, (owner, pause) in owners.items():
            fights.enter_context(owned(env, name, owner, pause))
        assert env.send(env.rotate()).status == 200
        env.let_settle(MINUTE)
        answers = {name: writes(env, name) - before[name] for name in owners}
        assert {name: each for name, each in answers.items() if not 1 <= each <= HANDFUL} == {}
        for name in owners:
            calls = env.kubernetes_proxy.matching("PATCH", f"/deployments/{name}$")
            assert [call for call in calls if "spec" in call.content], name
        told = [message for name in owners for message in warnings(env, name, "RestartReverted")[:2]]
        assert len(told) == receiver.metric("keyturn_rollout_fights_total", kind="Deployment")
        assert all('"the-owner"' in message for message in told)
    assert env.send(env.rotate()).status == 200
    eventually(lambda: all(env.has_latest(name) for name in owners))
    assert all(replica_sets(env.cluster, env.namespace, name) >= 2 for name in owners)
    env.assert_no_value_leaked()


class LabelMover(PeriodicThread):
    """Moves AWSCURRENT to and fro between two versions, and tells the receiver of each move."""

    def __init__(self, env: FaultEnv, moves: list[Any]) -> None:
        super().__init__(0.2)
        self._env = env
        self._moves = moves
        self._number = 0

    def run_once(self) -> None:
        self._number += 1
        self._moves[self._number % 2]()


@pytest.mark.fault("S18")
@pytest.mark.long
def test_label_that_moves_to_and_fro_restarts_a_handful_of_times(env: FaultEnv) -> None:
    """AWSCURRENT moves to and fro between two versions, up to five times a second for 45 s. The Secret follows, but its
    consumer is restarted a handful of times. When the label rests, the consumer ends with what the Secret holds."""
    env.receiver()
    env.create_bound_secret(consumers=("web",))
    first = env.version_id()
    told = env.rotate()
    second = told.data.version_id
    assert env.send(told).status == 200

    with LabelMover(env, [lambda: env.send(env.move_label(second)), lambda: env.send(env.move_label(first))]):
        env.let_settle(45)
    assert 3 <= writes(env, "web") <= HANDFUL + 1  # the first write is the baseline
    assert len(env.history.data_history("db")) > 4 * HANDFUL
    (message,) = warnings(env, "web", "RestartReverted")
    assert "back and forth" in message
    env.send_until_accepted(env.notification_of("db", env.version_id()))
    env.wait_converged(90)


@pytest.mark.fault("S18")
def test_secrets_whose_marks_once_collided_do_not_fight(env: FaultEnv) -> None:
    """A Secret has a name of 80 letters, which release 0.2 shortened in the name of its mark. Another Secret has
    exactly this shortened name. A Deployment that reads both is restarted once for each rotation."""
    env.receiver()
    long = "a" * 80
    twin = (former_mark_name(long) or "").partition("/")[2]
    for name in (long, twin):
        env.create_bound_secret(name, consumers=())
    both = [{"secretRef": {"name": name}} for name in (long, twin)]
    env.cluster.create([workload(env.namespace, "web", {"container": {"envFrom": both}})])
    marks = {mark_name(long), mark_name(twin)}
    eventually(lambda: marks <= annotations_of(env.cluster, "deployment", env.namespace, "web").keys())
    for number, name in enumerate((long, twin), 1):
        assert env.send(env.rotate(name)).status == 200
        eventually(lambda number=number: replica_sets(env.cluster, env.namespace, "web") == 1 + number)
    before = writes(env, "web")
    env.let_settle(5)
    assert writes(env, "web") == before
    env.assert_no_value_leaked()
