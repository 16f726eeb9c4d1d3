"""The receiver dies in the middle, or sees the cluster through a proxy that tells what it asks for."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_proxy import ApiProxy, Call
from keyturn_local.aws import LocalAws
from keyturn_local.cluster import Cluster, chart_objects
from keyturn_local.control_plane import ControlPlane
from keyturn_local.receiver import SERVICE_ACCOUNT, LocalReceiver
from keyturn_local.rotation import rotate
from keyturn_local.timeline import Timeline
from objects import annotations_of, data_of, env_from, eventually, replica_sets, secret, workload

OLD, NEW = "canary-value-one", "canary-value-two"


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalAws]:
    with LocalAws.start(tmp_path, Timeline(tmp_path / "timeline.jsonl")) as running:
        yield running


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    made = ApiProxy(control_plane.url, control_plane.ca_file)
    yield made
    made.close()


@pytest.fixture
def receiver(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, namespace: str, tmp_path: Path
) -> Iterator[LocalReceiver]:
    """A receiver behind the proxy, its rights in the test's own namespace; the poller looks every second."""
    made = chart_objects(namespace)
    control_plane.create(made)
    original = control_plane.kubeconfig_for(namespace, SERVICE_ACCOUNT, tmp_path)
    settings = {"KEYTURN_POLL_INTERVAL_SECONDS": "1"}
    key = aws.provision().signing_key_secret_id
    kubeconfig = proxy.kubeconfig(original, tmp_path)
    receiver = LocalReceiver(tmp_path, kubeconfig, aws.environment(), key, namespace, settings)
    receiver.start()
    yield receiver
    receiver.stop()
    control_plane.delete(made, wait=False)


def given_one_consumer(cluster: Cluster, aws: LocalAws, namespace: str) -> str:
    name = f"{namespace}/db"
    aws.secrets_manager().create_secret(Name=name, SecretString=OLD)
    cluster.create([secret(namespace, "db", name)])
    eventually(lambda: data_of(cluster, namespace, "db"))
    cluster.create([workload(namespace, "web", env_from("db"))])
    eventually(lambda: "revision.keyturn.dev/db" in annotations_of(cluster, "deployment", namespace, "web"))
    return name


def test_killed_between_the_secret_and_its_rollout_it_restarts_the_consumer_afterwards(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    name = given_one_consumer(control_plane, aws, namespace)

    def kill_at_the_rollout(call: Call) -> bool:
        if call.method == "PATCH" and "/deployments/" in call.path:
            receiver.kill()
            return False
        return True

    proxy.before = kill_at_the_rollout
    rotate(aws.secrets_manager(), name, NEW)
    eventually(lambda: data_of(control_plane, namespace, "db")["value"] == NEW.encode())
    eventually(lambda: proxy.matching("PATCH", "/deployments/web"))
    assert replica_sets(control_plane, namespace, "web") == 1

    proxy.before = lambda call: True
    receiver.start()
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)
    control_plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=30s")
    assert replica_sets(control_plane, namespace, "web") == 2


def test_killed_before_the_secret_is_written_it_catches_up_afterwards(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    name = given_one_consumer(control_plane, aws, namespace)

    def kill_at_the_write(call: Call) -> bool:
        if call.method == "PATCH" and call.path.endswith("/secrets/db"):
            receiver.kill()
            return False
        return True

    proxy.before = kill_at_the_write
    rotate(aws.secrets_manager(), name, NEW)
    eventually(lambda: len(proxy.matching("PATCH", "/secrets/db")) >= 2)
    assert data_of(control_plane, namespace, "db")["value"] == OLD.encode()

    proxy.before = lambda call: True
    receiver.start()
    eventually(lambda: data_of(control_plane, namespace, "db")["value"] == NEW.encode())
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)


def cut_once(proxy: ApiProxy, method: str, part: str) -> None:
    """Break the connection of the next such request, once."""
    left = [True]

    def cut(call: Call) -> bool:
        return not (call.method == method and part in call.path and left and left.pop())

    proxy.before = cut


def test_a_rollout_whose_request_is_cut_off_happens_all_the_same(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    name = given_one_consumer(control_plane, aws, namespace)
    cut_once(proxy, "PATCH", "/deployments/")
    rotate(aws.secrets_manager(), name, NEW)  # no event path here: the poller brings it
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)
    assert receiver.metric("keyturn_kubernetes_requests_total", verb="patch", code="0") == 1


def test_a_write_whose_request_is_cut_off_happens_all_the_same(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    name = given_one_consumer(control_plane, aws, namespace)
    cut_once(proxy, "PATCH", "/secrets/")
    rotate(aws.secrets_manager(), name, NEW)
    eventually(lambda: data_of(control_plane, namespace, "db")["value"] == NEW.encode())
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)
    assert receiver.metric("keyturn_kubernetes_requests_total", verb="patch", code="0") == 1


def test_an_edited_binding_whose_rollout_is_cut_off_restarts_its_consumer_all_the_same(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    given_one_consumer(control_plane, aws, namespace)
    cut_once(proxy, "PATCH", "/deployments/")
    control_plane.kubectl("annotate", "secret", "db", "-n", namespace, "keyturn.dev/data=other: '@'")
    eventually(lambda: data_of(control_plane, namespace, "db") == {"other": OLD.encode()})
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)


def test_secrets_that_are_not_bound_are_never_read(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    control_plane.create([{**secret(namespace, "private"), "stringData": {"value": "nobody-else's"}}])
    name = given_one_consumer(control_plane, aws, namespace)
    rotate(aws.secrets_manager(), name, NEW)
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)

    secrets = [call for call in proxy.calls if "/secrets" in call.path]
    many = [call for call in secrets if call.path.endswith("/secrets")]
    assert any(call.watch for call in many)
    for call in many:
        assert call.query["labelSelector"] == ["keyturn.dev/bind=true"]
        assert "as=PartialObjectMetadata" in call.accept
    # One by one only the bound ones, which in this file are all called `db`.
    assert all(call.path.endswith("/secrets/db") for call in secrets if call not in many)


def test_an_event_costs_no_list(
    control_plane: ControlPlane, aws: LocalAws, proxy: ApiProxy, receiver: LocalReceiver, namespace: str
) -> None:
    name = given_one_consumer(control_plane, aws, namespace)
    before = len(lists(proxy))
    rotate(aws.secrets_manager(), name, NEW)
    eventually(lambda: replica_sets(control_plane, namespace, "web") == 2)
    assert len(lists(proxy)) == before


def lists(proxy: ApiProxy) -> list[Call]:
    plural = ("/secrets", "/deployments", "/statefulsets", "/daemonsets", "/namespaces")
    return [call for call in proxy.calls if call.method == "GET" and not call.watch and call.path.endswith(plural)]


def test_no_value_is_in_any_log_metric_event_or_annotation(
    control_plane: ControlPlane, aws: LocalAws, receiver: LocalReceiver, namespace: str
) -> None:
    name = given_one_consumer(control_plane, aws, namespace)
    broken = {"keyturn.dev/data": "A: join('', [value, missing])"}
    control_plane.create([secret(namespace, "broken", name, **broken)])
    rotate(aws.secrets_manager(), name, json.dumps({"value": NEW}))
    eventually(lambda: data_of(control_plane, namespace, "db")["value"] == NEW.encode())
    eventually(lambda: "InvalidValue" in control_plane.kubectl("get", "events", "-n", namespace))

    told = [receiver.log, control_plane.kubectl("get", "events", "-n", namespace, "-o", "yaml")]
    told += [json.dumps(annotations_of(control_plane, "secret", namespace, each)) for each in ("db", "broken")]
    told.append(control_plane.kubectl("get", "deployments", "-n", namespace, "-o", "yaml"))
    for text in told:
        assert OLD not in text
        assert NEW not in text
