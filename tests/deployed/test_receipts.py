"""Receipts of the deployed stack, with IAM in force: what arrives at a queue, and who may put what on the bus."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from keyturn_local.aws import sdk
from keyturn_local.aws.deployed import HEARTBEAT
from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import stacks
from support.cluster_state import annotations_of
from support.manifests import env_from, secret, workload
from support.notifier_function import FunctionKiller, NotifierFunction
from support.receipt_queue import ReceiptQueue
from support.site import Endpoints, Site
from support.wait import eventually

ROTATIONS = int(os.environ.get("KEYTURN_RECEIPT_ROTATIONS", "50"))  # issue 19 asks for 500, which take 12 minutes
SECRETS = 10
# What is killed with SIGKILL in each turn of rotations.
RECEIVER = "the receiver"
DELIVERING = "the function, while it waits for the receiver's answer"
BEFORE_RECEIPTS = "the function, at the call that puts receipts"
AFTER_RECEIPTS = "the function, when that call has been answered"
KILLS = ("nothing", DELIVERING, RECEIVER, BEFORE_RECEIPTS, AFTER_RECEIPTS)
RETIRE = Path(__file__).parents[2] / "infra" / "aws" / "retire"
MARK = "revision.keyturn.dev/db"


@pytest.fixture(scope="module")
def site(control_plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # The function runs in few processes, because the emulator ends all of them if one is killed during its start.
    parameters = {"Receipts": "true", "MaximumConcurrency": "2"}
    with Site.run(control_plane, emulator, tmp_path_factory.mktemp("site"), **parameters) as running:
        yield running


@pytest.fixture(scope="module")
def queue(site: Site) -> ReceiptQueue:
    return ReceiptQueue(site.deployment)


def entry(bus: str, **detail: str) -> Mapping[str, Any]:
    return {
        "EventBusName": bus,
        "Source": "dev.keyturn",
        "DetailType": "Keyturn Secret Applied",
        "Detail": json.dumps({"receiptId": "forged", **detail}),
    }


def stranger(emulator: Emulator) -> Any:
    """Return a client of EventBridge for a user who may put any event on any bus."""
    iam, name = emulator.client("iam"), f"stranger-{uuid4().hex[:6]}"
    iam.create_user(UserName=name)
    right = {"Effect": "Allow", "Action": "events:PutEvents", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [right]})
    iam.put_user_policy(UserName=name, PolicyName="put", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return sdk.client("events", emulator.endpoint_url, key["AccessKeyId"], key["SecretAccessKey"])


def test_rotation_has_one_receipt_with_what_became_of_it(site: Site, queue: ReceiptQueue) -> None:
    arn = site.bind("db")
    version_id = site.put("db", "second")
    (detail,) = eventually(lambda: queue.of("Keyturn Secret Applied", version_id))
    assert (detail["secretArn"], detail["label"]) == (arn, "AWSCURRENT")
    assert (detail["complete"], detail["healthy"]) == (True, True)
    (answer,) = detail["receivers"]
    assert (answer["outcome"], answer["secrets"]) == ("applied", [f"{site.team}/db"])
    assert "second" not in json.dumps(queue.all())
    assert site.metrics()["ReceiptsSent"] >= 1


def test_stranger_can_put_no_receipt_on_the_bus(site: Site, queue: ReceiptQueue, emulator: Emulator) -> None:
    events = stranger(emulator)
    with pytest.raises(ClientError, match="AccessDenied"):
        events.put_events(Entries=[entry(queue.bus)])
    # On the default bus, the same event is taken, and reaches no rule of the receipts' bus.
    assert events.put_events(Entries=[entry("default")])["FailedEntryCount"] == 0
    site.bind("after-the-forgery")
    version_id = site.put("after-the-forgery", "second")
    eventually(lambda: queue.of("Keyturn Secret Applied", version_id))
    assert not [each for each in queue.all() if each["detail"]["receiptId"] == "forged"]


class Rotations:
    """Rotations of several AWS secrets. Each of their Secrets is read by a Deployment of the same name."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.names = [f"r{number}" for number in range(SECRETS)]
        self.turns: list[Sequence[str]] = []  # the version ids of each turn, in the order of the names
        self.arns = [
            str(site.secrets_manager.create_secret(Name=f"{site.team}/{name}", SecretString="first")["ARN"])
            for name in self.names
        ]
        site.cluster.create(secret(site.team, name, f"{site.team}/{name}") for name in self.names)
        for name in self.names:
            site.wait_applied(name, "first")
        site.cluster.create([workload(site.team, name, env_from(name)) for name in self.names])
        for name in self.names:
            mark = f"revision.keyturn.dev/{name}"
            eventually(lambda name=name, mark=mark: mark in annotations_of(site.cluster, "deployment", site.team, name))

    def turn(self) -> Sequence[str]:
        """Rotate each AWS secret once, and return the version ids."""
        self.turns.append([self.site.put(name, f"value-{len(self.turns)}") for name in self.names])
        return self.turns[-1]

    @property
    def version_ids(self) -> Sequence[str]:
        return [version_id for turn in self.turns for version_id in turn]


def turn_under_a_kill(kind: str, rotations: Rotations, killer: FunctionKiller) -> Sequence[str]:
    """Rotate each AWS secret once, and return the version ids. If ``kind`` names the receiver, the receiver is killed
    before the rotations and started after them. If it names the function, the function is killed while it handles
    them."""
    site, function = rotations.site, killer.function
    failures = function.failures()
    if kind == RECEIVER:
        site.receiver.kill()
        turn = rotations.turn()
        site.receiver.start()
    elif kind == DELIVERING:
        site.receiver.pause()  # so the function waits for an answer
        turn = rotations.turn()
        eventually(lambda: site.messages("QueueUrl")["taken"])
        function.kill_in_a_batch()
        site.receiver.resume()
    elif kind in (BEFORE_RECEIPTS, AFTER_RECEIPTS):
        killer.arm(after=kind == AFTER_RECEIPTS)
        turn = rotations.turn()
        assert killer.killed.wait(60)
        eventually(lambda: function.failures() > failures)
    else:
        turn = rotations.turn()
    return turn


@pytest.mark.long
@pytest.mark.timeout(200 + 3 * ROTATIONS)
def test_each_rotation_has_its_receipts_also_while_receiver_and_function_are_killed(
    site: Site, queue: ReceiptQueue, emulator: Emulator, record_property: Callable[[str, object], None]
) -> None:
    """Each version has one receipt of the kind Applied, and one of the kind Live from the only cluster. Receipts of one
    AWS secret come in the order of its rotations.

    A killed function may put a receipt twice: SQS has not deleted the messages of its batch, and a new process does not
    remember which versions it has told as live. Such copies have the same ``receiptId``, so they count once
    (docs/receipts.md).
    """
    rotations = Rotations(site)
    repeated: set[str] = set()

    def told(kind: str) -> set[str]:
        return {each["versionId"] for each in queue.of(kind)}

    with FunctionKiller.between(NotifierFunction(site.deployment)) as killer:
        for number in range(ROTATIONS // SECRETS):
            kind = KILLS[number % len(KILLS)]
            turn = set(turn_under_a_kill(kind, rotations, killer))
            # The next turn follows when this one is told, so the order of the receipts is that of the rotations.
            eventually(lambda turn=turn: turn <= told("Keyturn Secret Applied"), 120)
            eventually(lambda turn=turn: turn <= told("Keyturn Secret Live") or beat(emulator), 120)
            repeated |= set(killer.receipt_ids) if kind == AFTER_RECEIPTS else set()

    def copies() -> Counter[str]:
        return Counter(each["detail"]["receiptId"] for each in queue.all())

    # SQS shows the messages of a killed function again, so the second copies may come later than the first ones.
    assert repeated
    eventually(lambda: repeated <= {receipt_id for receipt_id, count in copies().items() if count > 1})
    for kind in ("Keyturn Secret Applied", "Keyturn Secret Live"):
        first: dict[str, Mapping[str, Any]] = {}  # the first copy of each receipt, in the order of arrival
        for each in queue.of(kind):
            if each["versionId"] in set(rotations.version_ids):
                first.setdefault(each["receiptId"], each)
        assert Counter(each["versionId"] for each in first.values()) == Counter(rotations.version_ids)
        for position, arn in enumerate(rotations.arns):
            of_one = [each["versionId"] for each in first.values() if each["secretArn"] == arn]
            assert of_one == [turn[position] for turn in rotations.turns]
    host = urlsplit(site.receiver.url).netloc
    assert {each["host"] for each in queue.of("Keyturn Secret Live")} == {host}
    assert queue.of("Keyturn Rollout Stuck") == []
    for name in rotations.names:
        site.wait_applied(name, f"value-{len(rotations.turns) - 1}")
    record_property("rotations with one receipt of each kind", len(rotations.version_ids))
    record_property("copies of receipts, by kills of the function", sum(copies().values()) - len(copies()))


def access_key(emulator: Emulator, user: str) -> dict[str, str]:
    key = emulator.client("iam").create_access_key(UserName=user)["AccessKey"]
    return {each: key[each] for each in ("UserName", "AccessKeyId", "SecretAccessKey")}


def active_keys(emulator: Emulator, user: str) -> set[str]:
    listed = emulator.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]
    return {each["AccessKeyId"] for each in listed if each["Status"] == "Active"}


def beat(emulator: Emulator) -> None:
    """Send a heartbeat, as the stack's schedule does each minute, and give the receivers time to answer it."""
    entry = {"Source": "dev.keyturn", "DetailType": "Keyturn Heartbeat", "Detail": json.dumps(HEARTBEAT)}
    emulator.client("events").put_events(Entries=[entry])
    time.sleep(2)


def retirements(emulator: Emulator, function: str) -> list[dict[str, Any]]:
    """Return what the function has printed about each receipt."""
    group = emulator.client("lambda").get_function_configuration(FunctionName=function)["LoggingConfig"]["LogGroup"]
    pages = emulator.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    lines = [line for page in pages for event in page["events"] for line in event["message"].splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"receipt"')]


@pytest.mark.long
def test_old_credential_is_revoked_once_when_the_last_pod_of_the_last_cluster_runs_the_new_one(
    control_plane: ControlPlane, emulator: Emulator, tmp_path: Path
) -> None:
    """Two receivers stand for two clusters. The second one is killed once the rotation is applied. It starts again
    after the version is live in the first cluster."""
    user = f"app-{uuid4().hex[:6]}"
    emulator.client("iam").create_user(UserName=user)
    first, second = access_key(emulator, user), access_key(emulator, user)
    endpoints = Endpoints(tmp_path, 2)
    parameters = {**endpoints.parameters(), "Receipts": "true"}
    deployment = sam.deploy(emulator, f"keyturn-{uuid4().hex[:6]}", parameters)
    queue = ReceiptQueue(deployment)
    with Site.of(control_plane, deployment, endpoints, tmp_path) as site:
        site.start_receivers()
        arn = site.bind("db", json.dumps(first))
        blue, green = (urlsplit(each.url).netloc for each in site.receivers)
        packaged = sam.package(emulator, f"bucket-{uuid4().hex[:6]}", RETIRE)
        given = {
            "BusArn": deployment.outputs["ReceiptsBusArn"],
            "SecretArn": arn,
            "UserName": user,
            "Clusters": f"{blue},{green}",
        }
        with stacks.deployed(emulator, packaged, **given) as retire:
            function = retire.outputs["FunctionName"]
            made = workload(site.team, "web", env_from("db"), "Deployment")
            made["spec"] |= {"replicas": 2, "minReadySeconds": 1}
            site.cluster.create([made])
            site.cluster.kubectl("rollout", "status", "deployment/web", "-n", site.team, "--timeout=120s")
            eventually(lambda: MARK in annotations_of(site.cluster, "deployment", site.team, "web"))
            beat(emulator)
            version = site.put("db", json.dumps(second))
            eventually(lambda: queue.of("Keyturn Secret Applied", version))
            site.receivers[1].kill()

            def live() -> set[str]:
                return {each["host"] for each in queue.of("Keyturn Secret Live", version)}

            eventually(lambda: beat(emulator) or blue in live(), 120)
            site.cluster.kubectl("rollout", "status", "deployment/web", "-n", site.team, "--watch=false")
            # A forged receipt about the other cluster, on the bus where a stranger may put it.
            forged = {"secretArn": arn, "versionId": version, "host": green, "receiptId": "forged"}
            event = {**entry("default", **forged), "DetailType": "Keyturn Secret Live"}
            assert stranger(emulator).put_events(Entries=[event])["FailedEntryCount"] == 0
            for _ in range(3):
                beat(emulator)
            assert live() == {blue}
            assert active_keys(emulator, user) == {first["AccessKeyId"], second["AccessKeyId"]}

            site.receivers[1].start()
            eventually(lambda: beat(emulator) or len(active_keys(emulator, user)) == 1, 120)
            assert active_keys(emulator, user) == {second["AccessKeyId"]}
            assert live() == {blue, green}
            for _ in range(3):
                beat(emulator)
            runs = retirements(emulator, function)
            assert [each["retired"] for each in runs].count(True) == 1
            told = {host: f"live/{host}/{arn}/{version}" for host in (blue, green)}
            assert {each["receipt"].rpartition("/")[0] for each in runs} >= set(told.values())
            assert not [each for each in runs if each["receipt"] == "forged"]
            labels = site.secrets_manager.describe_secret(SecretId=arn)["VersionIdsToStages"]
            assert [each for each in labels.values() if "AWSPREVIOUS" in each] == []
            # The last part of the id is the time at which the values changed in the cluster.
            counted = Counter(each["receiptId"].rpartition("/")[0] for each in queue.of("Keyturn Secret Live", version))
            assert counted == dict.fromkeys(told.values(), 1)
            seen = json.dumps([queue.all(), runs])
            assert first["SecretAccessKey"] not in seen
            assert second["SecretAccessKey"] not in seen
    deployment.delete()
