"""S11: the receiver uses an answer of AWS only for the secret that it asked for, whatever else it reads at the same
time."""

import json
import threading
from typing import Any

import pytest

from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Edit, Fault, Reply
from support.manifests import secret
from support.wait import eventually

ACCOUNT, FOREIGN = "123456789012", "999999999999"
JSON = {"Content-Type": "application/x-amz-json-1.1"}


class OtherAccount:
    """Imitates secrets of another account, as AWS documents them. GetSecretValue and DescribeSecret return such a
    secret, but a batch reports that it does not exist."""

    def __init__(self, env: FaultEnv) -> None:
        self.values: dict[str, str] = {}  # by ARN
        self.batched: list[str] = []  # foreign ARNs that were in a batch
        env.aws_proxy.fault_for = self

    def add(self, name: str, value: str) -> str:
        arn = f"arn:aws:secretsmanager:us-east-1:{FOREIGN}:secret:{name}-AbCdEf"
        self.values[arn] = value
        return arn

    def __call__(self, call: Call) -> Fault:
        if call.action == "BatchGetSecretValue":
            foreign = self.values.keys() & set(call.content["SecretIdList"])
            self.batched += foreign
            errors = [{"SecretId": each, "ErrorCode": "ResourceNotFoundException"} for each in foreign]
            return Edit(lambda answer: json.dumps({**json.loads(answer), "Errors": errors}).encode())
        if not call.action or call.content.get("SecretId") not in self.values:
            return None
        arn = call.content["SecretId"]
        entry: dict[str, Any] = {"ARN": arn, "Name": arn.partition(":secret:")[2][:-7]}
        if call.action == "GetSecretValue":
            return Reply(200, {**entry, "VersionId": "v1" * 16, "SecretString": self.values[arn]}, JSON)
        return Reply(200, {**entry, "VersionIdsToStages": {"v1" * 16: ["AWSCURRENT"]}}, JSON)


@pytest.mark.fault("S11")
def test_secrets_of_another_account_are_read_beside_own_ones_of_the_same_name(env: FaultEnv) -> None:
    """Bindings name secrets of the receiver's own account, by name and by ARN, and at the same time secrets of another
    account that have the same names. Each Secret gets the value from the right account, and none is ever reported as
    missing."""
    there = OtherAccount(env)
    names = [f"s{number}" for number in range(8)]
    own = {name: env.create_aws_secret(name) for name in names}
    theirs = {name: there.add(f"{env.namespace}/{name}", env.new_value("foreign")) for name in names}
    receiver = env.receiver()
    objects = []
    for name in names:
        objects.append(secret(env.namespace, f"{name}-name", f"{env.namespace}/{name}"))
        objects.append(secret(env.namespace, f"{name}-foreign", theirs[name]))
        objects.append(secret(env.namespace, f"{name}-arn", own[name]))
    env.cluster.create(objects)
    for name in names:
        mine = {"value": env.aws_value(name).encode()}
        for kind, wanted in {
            "name": mine,
            "arn": mine,
            "foreign": {"value": there.values[theirs[name]].encode()},
        }.items():
            eventually(lambda n=f"{name}-{kind}", w=wanted: data_of(env.cluster, env.namespace, n) == w, 30)
            assert env.status(f"{name}-{kind}") == "ok"
    assert env.aws_proxy.actions("BatchGetSecretValue")
    assert there.batched == []
    assert "SourceNotFound" not in receiver.log
    env.assert_no_value_leaked()


@pytest.mark.fault("S11")
def test_answer_about_another_secret_is_never_written(env: FaultEnv) -> None:
    """Something between the receiver and AWS answers reads of one secret with the value of another one. The Secret
    keeps its data, the receiver logs the reason, and the Secret is filled once the answers are right."""
    receiver = env.receiver()
    env.create_bound_secret("own")
    other = env.create_bound_secret("other", consumers=())
    before = data_of(env.cluster, env.namespace, "own")
    answer = json.dumps(
        {"ARN": other, "Name": f"{env.namespace}/other", "VersionId": "x" * 32, "SecretString": env.new_value("mixed")}
    ).encode()
    mixed = threading.Event()

    def mix(call: Call) -> Fault:
        if call.action == "GetSecretValue" and call.about(f"{env.namespace}/own"):
            mixed.set()
            return Reply(200, answer, JSON)
        return None

    env.aws_proxy.fault_for = mix
    told = env.rotate("own")
    assert env.send(told).status == 503
    assert mixed.is_set()
    assert data_of(env.cluster, env.namespace, "own") == before
    assert "the response is about another secret" in receiver.log
    env.aws_proxy.heal()
    env.send_until_accepted(told)
    env.wait_converged()


@pytest.mark.fault("S11")
def test_batch_refused_because_of_one_secret_switches_batches_off_for_nobody(env: FaultEnv) -> None:
    """AWS refuses each batch that contains a certain secret of the tenant. All Secrets are filled, the other secrets
    are still read in batches, and the log does not ask for a permission that the role already has."""
    names = [f"s{number}" for number in range(12)]
    for name in names:
        env.create_aws_secret(name)

    def refuse(call: Call) -> Fault:
        refused = call.action == "BatchGetSecretValue" and call.about("/s7")
        return Reply(400, {"__type": "InvalidParameterException"}, JSON) if refused else None

    def bind(when: str) -> None:
        env.cluster.create(secret(env.namespace, f"{when}-{name}", f"{env.namespace}/{name}") for name in names)
        for name in names:
            wanted = {"value": env.aws_value(name).encode()}
            eventually(lambda n=f"{when}-{name}", w=wanted: data_of(env.cluster, env.namespace, n) == w, 30)

    env.aws_proxy.fault_for = refuse
    receiver = env.receiver()
    bind("first")
    calls = env.aws_proxy.actions("BatchGetSecretValue")
    assert [call for call in calls if call.about("/s7")]
    bind("second")
    later = env.aws_proxy.actions("BatchGetSecretValue")[len(calls) :]
    assert later
    assert not [call for call in later if call.about("/s7")]
    assert "reading values one by one for" not in receiver.log
    assert "secretsmanager:BatchGetSecretValue" not in receiver.log
    env.assert_no_value_leaked()
