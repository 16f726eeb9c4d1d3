"""A rotation passes through the deployed stack (the rule, the queue, the notifier), the receiver and Kubernetes."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from keyturn_contract.message import Notification, Outcome, decode_reply, encode
from keyturn_local.aws.rotation import promote, rotate
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from keyturn_local.stack import Stack
from support.cluster_state import annotations_of, data_of, replica_sets
from support.deliveries import current_key, notification, signed
from support.manifests import env_from, secret, workload
from support.wait import eventually


def value(password: str, **more: str) -> str:
    return json.dumps({"password": password, **more})


def given_one_consumer(stack: Stack, namespace: str) -> str:
    """Create a Secret `db` filled from AWS, and a Deployment `web` that reads it. Return the AWS secret's name."""
    name = f"{namespace}/db"
    stack.aws.secrets_manager().create_secret(Name=name, SecretString=value("one"))
    stack.cluster.create([secret(namespace, "db", name)])
    eventually(lambda: data_of(stack.cluster, namespace, "db"))
    stack.cluster.create([workload(namespace, "web", env_from("db"))])
    # The mark is the baseline of the consumer. Once it is there, the receiver knows the consumer.
    mark = "revision.keyturn.dev/db"
    eventually(lambda: mark in annotations_of(stack.cluster, "deployment", namespace, "web"))
    stack.cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=120s")
    assert replica_sets(stack.cluster, namespace, "web") == 1
    return name


def in_secret(stack: Stack, namespace: str, password: str) -> bool:
    return data_of(stack.cluster, namespace, "db").get("password") == password.encode()


def settled(stack: Stack, namespace: str) -> None:
    """Wait until the rollout of the Deployment is complete."""
    stack.cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=120s")


def test_secret_names_the_source_of_its_data(stack: Stack, namespace: str) -> None:
    name = given_one_consumer(stack, namespace)
    version_id = rotate(stack.aws.secrets_manager(), name, value("two"))
    eventually(lambda: in_secret(stack, namespace, "two"))

    found = json.loads(
        stack.cluster.kubectl("get", "secret", "db", "-n", namespace, "-o", "json", "--show-managed-fields")
    )
    annotations = found["metadata"]["annotations"]
    assert json.loads(annotations["keyturn.dev/revisions"]) == {"password": version_id}
    assert [*json.loads(annotations["keyturn.dev/version-ids"]).values()] == [version_id]
    assert annotations["keyturn.dev/applied-at"].endswith("Z")
    (ours,) = [entry for entry in found["metadata"]["managedFields"] if entry["manager"] == "keyturn"]
    assert ours["operation"] == "Apply"
    assert [*ours["fieldsV1"]["f:data"]] == ["f:password"]


def test_key_added_by_hand_stays(stack: Stack, namespace: str) -> None:
    name = given_one_consumer(stack, namespace)
    stack.cluster.kubectl("patch", "secret", "db", "-n", namespace, "-p", '{"stringData": {"MINE": "stays"}}')
    rotate(stack.aws.secrets_manager(), name, value("two"))
    eventually(lambda: in_secret(stack, namespace, "two"))
    assert data_of(stack.cluster, namespace, "db")["MINE"] == b"stays"


def test_rotation_restarts_its_consumer_once(stack: Stack, namespace: str) -> None:
    name = given_one_consumer(stack, namespace)
    rotate(stack.aws.secrets_manager(), name, value("two"))
    eventually(lambda: replica_sets(stack.cluster, namespace, "web") == 2)
    settled(stack, namespace)
    assert replica_sets(stack.cluster, namespace, "web") == 2


def test_two_quick_rotations_end_at_the_second_and_restart_twice_at_most(stack: Stack, namespace: str) -> None:
    name = given_one_consumer(stack, namespace)
    client = stack.aws.secrets_manager()
    rotate(client, name, value("two"))
    last = rotate(client, name, value("three"))
    eventually(lambda: in_secret(stack, namespace, "three"))
    eventually(lambda: last in stack.aws.notifier_log.delivered())
    settled(stack, namespace)
    changes = {json.dumps(line["version_ids"]) for line in told(stack, "applied", f"{namespace}/db")}
    # The first change filled the Secret before the consumer existed, so it caused no restart. Kubernetes may skip a
    # template that is replaced immediately, but it never makes two ReplicaSets from the same template.
    assert len(told(stack, "restarted", f"{namespace}/db")) == len(changes) - 1
    assert 2 <= replica_sets(stack.cluster, namespace, "web") <= len(changes)


def told(stack: Stack, message: str, about: str) -> list[dict[str, object]]:
    """Return the receiver's log lines with this message about one Secret."""
    lines = [json.loads(line) for line in stack.receiver.log.splitlines()]
    return [line for line in lines if line["message"] == message and line["secret"] == about]


def test_roll_back_in_aws_is_applied_as_a_change(stack: Stack, namespace: str) -> None:
    name = given_one_consumer(stack, namespace)
    client = stack.aws.secrets_manager()
    (first,) = client.describe_secret(SecretId=name)["VersionIdsToStages"]
    rotate(client, name, value("two"))
    eventually(lambda: replica_sets(stack.cluster, namespace, "web") == 2)
    promote(client, name, first)
    eventually(lambda: in_secret(stack, namespace, "one"))
    eventually(lambda: replica_sets(stack.cluster, namespace, "web") == 3)
    settled(stack, namespace)
    assert replica_sets(stack.cluster, namespace, "web") == 3


def test_binding_follows_another_staging_label(stack: Stack, namespace: str) -> None:
    name = f"{namespace}/db"
    client = stack.aws.secrets_manager()
    client.create_secret(Name=name, SecretString="current")
    stack.cluster.create([secret(namespace, "db", name, **{"keyturn.dev/version-stage": "BLUE"})])
    status = "keyturn.dev/status"
    told = eventually(lambda: annotations_of(stack.cluster, "secret", namespace, "db").get(status))
    assert "no version with the staging label BLUE" in " ".join(told.split())
    client.put_secret_value(SecretId=name, SecretString="blue", VersionStages=["BLUE"])
    eventually(lambda: data_of(stack.cluster, namespace, "db").get("value") == b"blue")
    assert annotations_of(stack.cluster, "secret", namespace, "db")[status] == "ok"
    version_id = rotate(client, name, "the next one")
    eventually(lambda: version_id in stack.aws.notifier_log.delivered())
    assert data_of(stack.cluster, namespace, "db") == {"value": b"blue"}


def test_change_of_an_unread_key_restarts_no_consumer(stack: Stack, namespace: str) -> None:
    name = f"{namespace}/db"
    client = stack.aws.secrets_manager()
    client.create_secret(Name=name, SecretString=value("one", owner="a"))
    reads_password = {
        "container": {"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]}
    }
    stack.cluster.create([secret(namespace, "db", name)])
    eventually(lambda: data_of(stack.cluster, namespace, "db"))
    stack.cluster.create([workload(namespace, "web", reads_password)])
    mark = "revision.keyturn.dev/db"
    eventually(lambda: mark in annotations_of(stack.cluster, "deployment", namespace, "web"))
    settled(stack, namespace)
    before = stack.cluster.get("deployment", "web", namespace)["metadata"]["generation"]
    version_id = rotate(client, name, value("one", owner="b"))
    eventually(lambda: data_of(stack.cluster, namespace, "db")["owner"] == b"b")
    eventually(lambda: version_id in stack.aws.notifier_log.delivered())
    assert stack.cluster.get("deployment", "web", namespace)["metadata"]["generation"] == before
    assert replica_sets(stack.cluster, namespace, "web") == 1


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_stateful_and_daemon_sets_are_restarted(stack: Stack, namespace: str, kind: str) -> None:
    name = f"{namespace}/db"
    client = stack.aws.secrets_manager()
    client.create_secret(Name=name, SecretString=value("one"))
    projected = {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "db"}}]}}]}
    stack.cluster.create([secret(namespace, "db", name)])
    eventually(lambda: data_of(stack.cluster, namespace, "db"))
    stack.cluster.create([workload(namespace, "web", projected, kind)])
    eventually(lambda: "revision.keyturn.dev/db" in annotations_of(stack.cluster, kind, namespace, "web"))
    pods = eventually(lambda: uids(stack, namespace))
    rotate(client, name, value("two"))
    eventually(lambda: (now := uids(stack, namespace)) and not now & pods)


def uids(stack: Stack, namespace: str) -> set[str]:
    pods = stack.cluster.list("pods", namespace, "app=web")
    return {pod["metadata"]["uid"] for pod in pods if pod["status"].get("phase") == "Running"}


def rotate_unheard(stack: Stack, name: str) -> Notification:
    """Rotate while the event path is cut. Return the notification that the event path would have delivered."""
    client = stack.aws.secrets_manager()
    stack.aws.cut_event_path()
    try:
        version_id = rotate(client, name, value("two"))
    finally:
        stack.aws.restore_event_path()
    return notification(client.describe_secret(SecretId=name)["ARN"], version_id)


def send(stack: Stack, sent: Notification, urls: Sequence[str]) -> list[Outcome]:
    """Send the same signed delivery to all ``urls`` at once. Return the outcomes of the deliveries that were answered
    200."""
    body = encode([sent])
    headers = signed(current_key(stack), body)

    async def post_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=30, verify=stack.tls()) as http:
            return await asyncio.gather(*(http.post(url, content=body, headers=headers) for url in urls))

    replies = asyncio.run(post_all())
    # The receiver answers 503 to the deliveries that exceed its limit.
    assert {reply.status_code for reply in replies} <= {200, 503}
    return [decode_reply(reply.content)[0].outcome for reply in replies if reply.status_code == 200]


def test_notification_sent_a_hundred_times_restarts_once(stack: Stack, namespace: str) -> None:
    name = given_one_consumer(stack, namespace)
    outcomes = send(stack, rotate_unheard(stack, name), [stack.receiver.url] * 100)
    assert Outcome.APPLIED in outcomes
    assert set(outcomes) <= {Outcome.APPLIED, Outcome.UNCHANGED}
    assert in_secret(stack, namespace, "two")
    settled(stack, namespace)
    assert replica_sets(stack.cluster, namespace, "web") == 2


def test_two_replicas_with_the_same_work_restart_once(stack: Stack, namespace: str, tmp_path: Path) -> None:
    name = given_one_consumer(stack, namespace)
    kubeconfig = stack.cluster.kubeconfig_for(stack.namespace, SERVICE_ACCOUNT, tmp_path)
    aws, key = stack.aws.environment(), stack.path.signing_key_secret_id
    second = LocalReceiver(tmp_path, kubeconfig, aws, key, stack.namespace, name="second")
    second.start()
    try:
        outcomes = send(stack, rotate_unheard(stack, name), [stack.receiver.url, second.url] * 25)
    finally:
        second.stop()
    assert set(outcomes) <= {Outcome.APPLIED, Outcome.UNCHANGED}
    assert in_secret(stack, namespace, "two")
    settled(stack, namespace)
    assert replica_sets(stack.cluster, namespace, "web") == 2
