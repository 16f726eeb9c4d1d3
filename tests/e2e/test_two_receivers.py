"""Two receivers get deliveries in turn, and one of them is killed every few seconds, while secrets rotate without a
pause.

The benchmark's stub stands in for AWS, because moto handles only about 30 rotations a second even without any reads.
The test delivers as SQS and the notifier do: to both receivers in turn, some deliveries twice, and each one until it is
accepted.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from keyturn_contract.message import MAX_EVENTS, Notification
from keyturn_local.bench.stub_aws import CANARY, SIGNING_KEY, StubAws, arn_of
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import LocalReceiver
from support.aws_secrets import CREDENTIALS
from support.background import PeriodicThread
from support.cluster_state import annotations_of
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.model.oracle import SecretOracle, Version, check_consumer, wanted
from support.sqs_like_sender import RetryingSender
from support.wait import eventually

ROTATIONS, SECONDS = 2000, 120.0
SECRETS = 20
TICK = 0.25  # in seconds; all rotations of one tick are sent in one delivery
TWICE = 0.25  # the share of deliveries that are sent twice
KILLS = 20
KILL_SECONDS = 4.0


class Stub(StubAws):
    """The benchmark's stub of AWS, extended by the client that FaultEnv needs."""

    def secrets_manager(self) -> Any:
        return boto3.client("secretsmanager", "us-east-1", endpoint_url=self.endpoint_url, **CREDENTIALS)


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Stub]:
    with Stub(tmp_path, SECRETS, latency=0.02) as running:
        yield running


@pytest.fixture
def env(control_plane: ControlPlane, aws: Stub, tmp_path: Path) -> Iterator[FaultEnv]:
    with FaultEnv.start(control_plane, aws, SIGNING_KEY, tmp_path, {}) as made:
        allowed = "keyturn.dev/allow-secrets=bench/*"
        control_plane.kubectl("annotate", "--overwrite", "namespace", made.namespace, allowed)
        yield made


class Killer(PeriodicThread):
    """Kills one receiver after the other with SIGKILL and restarts it, so that at least one is always running."""

    def __init__(self, receivers: list[LocalReceiver]) -> None:
        super().__init__(KILL_SECONDS, pause=0.5)
        self.kills = 0
        self._turns = itertools.cycle(receivers)

    def run_once(self) -> None:
        receiver = next(self._turns)
        receiver.kill()
        self.kills += 1
        receiver.start(60)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_thousand_rotations_survive_kills_of_both_receivers(env: FaultEnv, aws: Stub) -> None:
    versions: dict[str, Version] = {}
    order: dict[str, list[str]] = {name: [] for name in aws.names}

    def record_current(name: str, version_id: str) -> None:
        value = {"username": "app", "password": f"{CANARY}-{version_id}"}
        versions[version_id] = Version(name, arn_of(name), version_id, value)
        order[name].append(version_id)

    name_of = {arn_of(name): name for name in aws.names}
    for name in aws.names:
        record_current(name, env.client.get_secret_value(SecretId=name)["VersionId"])
    receivers = [env.receiver(via_proxy=False, KEYTURN_POLL_INTERVAL_SECONDS="10") for _ in range(2)]
    bound = {name: name.replace("/", "-") for name in aws.names}
    env.cluster.create(secret(env.namespace, bound[name], name) for name in aws.names)
    eventually(lambda: all(env.history.revisions(each) for each in bound.values()), 60)
    env.cluster.create(consumer_of(env.namespace, each) for each in bound.values())
    eventually(lambda: all(env.history.baseline(each, each) for each in bound.values()), 60)

    begun, chance = time.monotonic(), random.Random(8)  # noqa: S311
    with closing(RetryingSender(env.key, [receiver.url for receiver in receivers])) as sender:
        with Killer(receivers) as killer:
            rotations = 0
            for told in flow(aws, lambda: killer.kills >= KILLS):
                for each in told:
                    record_current(name_of[each.subject], str(each.data.version_id))
                for _ in range(1 + (chance.random() < TWICE)):
                    sender.send(*told)
                rotations += len(told)
        took = time.monotonic() - begun
        eventually(lambda: sender.idle, 60)

    oracles = {each: SecretOracle(versions, order) for each in bound.values()}
    eventually(lambda: all(is_settled(env, each, oracles[each], order[name][-1]) for name, each in bound.items()), 60)
    env.let_settle(5)  # longer than a follower waits before it acts in place of the leader
    applied, restarts = 0, 0
    for name, each in bound.items():
        assert is_settled(env, each, oracles[each], order[name][-1])
        changes = len(oracles[each].applied) - 1  # not counting the first change, which filled the Secret
        restarted = restarts_of(env, each, oracles[each])
        assert 0 < restarted <= changes
        env.cluster.kubectl("rollout", "status", f"deployment/{each}", "-n", env.namespace, "--timeout=120s")
        told = annotations_of(env.cluster, "deployment", env.namespace, each)
        assert int(told["deployment.kubernetes.io/revision"]) <= restarted + 1
        applied, restarts = applied + changes, restarts + restarted
    env.deliveries.bodies += sender.replies
    env.assert_no_value_leaked()
    print(
        f"\n{rotations} rotations in {took:.0f} s, {killer.kills} kills, {applied} changes applied, {restarts} restarts"
        f", deliveries answered {dict(sender.status_counts)}"
    )
    assert rotations == ROTATIONS
    assert killer.kills >= KILLS


def flow(aws: Stub, enough: Callable[[], bool]) -> Iterator[Sequence[Notification]]:
    """Rotate at an even pace, and yield the notifications of each delivery. End once all rotations are done and
    ``enough()`` is true."""
    chance = random.Random(7)  # noqa: S311 - the same names in each run
    begun, done = time.monotonic(), 0
    while done < ROTATIONS or not enough():
        time.sleep(TICK)
        due = min(ROTATIONS, int((time.monotonic() - begun) * ROTATIONS / SECONDS))
        if count := min(MAX_EVENTS, due - done):
            # Some secrets rotate much more often than others.
            names = chance.choices(aws.names, [1 / place for place in range(1, SECRETS + 1)], k=count)
            yield [notification(arn_of(name), aws.rotate([name])[name]) for name in names]
            done += count


def consumer_of(namespace: str, secret_name: str) -> dict[str, Any]:
    """Return a Deployment with the name of the Secret that it reads. The Deployment keeps few old ReplicaSets."""
    made = workload(namespace, secret_name, env_from(secret_name))
    made["spec"]["revisionHistoryLimit"] = 2
    return made


def is_settled(env: FaultEnv, name: str, oracle: SecretOracle, version_id: str) -> bool:
    """Check all states so far. Return whether a Secret holds this version and its consumer has been restarted for
    it."""
    oracle.check(env.history.states("secrets", name))
    held, told = env.history.current(name)
    if version_id not in told["keyturn.dev/version-ids"] or told["keyturn.dev/status"] != "ok":
        return False
    assert held["password"] == f"{CANARY}-{version_id}".encode()
    mark = env.history.mark(name, name)
    return bool(oracle.applied[-1].revisions["password"] == version_id) and mark == wanted(
        oracle.applied[-1].revisions, None
    )


def restarts_of(env: FaultEnv, name: str, oracle: SecretOracle) -> int:
    """Check the consumer's restarts and return their number.

    Each change causes at most one restart, the restarts follow the order of the changes, and the last change causes
    one.
    """
    return check_consumer(env.history.states("deployments", name), {name: oracle}, [name])
