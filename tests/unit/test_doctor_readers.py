"""What the doctor's readers make of replies, with fakes of the API server and of AWS."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn_cli.aws import Aws, Stack
from keyturn_cli.cluster import Cluster, Reply
from keyturn_cli.doctor.aws_reader import private_hosts, sample_event
from keyturn_cli.doctor.cluster_facts import Bindings, Configuration, Installation, LeaseState
from keyturn_cli.doctor.cluster_reader import ClusterReader, container_port, proxied
from keyturn_cli.doctor.finding import Finding, Level, Unknown
from keyturn_cli.doctor.heartbeat import send_heartbeat
from keyturn_cli.errors import Forbidden, NotFound
from keyturn_cli.options import Release

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def pod(name: str, ready: bool, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "keyturn",
            "labels": {"app.kubernetes.io/version": "0.2.0"},
        },
        "spec": {"containers": [{"ports": [{"name": "operations", "containerPort": 9090}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", **status}
        | {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


DEPLOYMENT = {
    "metadata": {"name": "keyturn"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app.kubernetes.io/component": "receiver"}},
        "template": {
            "spec": {
                "serviceAccountName": "keyturn",
                "containers": [
                    {
                        "env": [
                            {"name": "KEYTURN_NAMESPACES", "value": "shop, pay"},
                            {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}},
                        ]
                    }
                ],
            }
        },
    },
}
BASE = "/api/v1/namespaces/keyturn"
DEPLOYMENTS = "/apis/apps/v1/namespaces/keyturn/deployments"


class FakeCluster(Cluster):
    """An API server that has ``objects`` by path. The paths in ``forbidden`` may not be read."""

    def __init__(self, objects: Mapping[str, Any], forbidden: frozenset[str] = frozenset()) -> None:
        self.context, self.in_pod = "blue", False
        self.objects = objects
        self.forbidden = forbidden
        self.reviews: list[Any] = []
        self.accepted: set[str] = set()

    def get(self, path: str, *_: Any, accept: str = "", **__: Any) -> Any:
        self.accepted.add(accept)
        if path in self.forbidden:
            raise Forbidden(f"may not get {path}")
        if path not in self.objects:
            raise NotFound(path)
        return self.objects[path]

    def list(self, path: str, *_: Any, accept: str = "", **__: Any) -> Iterator[Any]:
        self.accepted.add(accept)
        if path in self.forbidden:
            raise Forbidden(f"may not list {path}")
        yield from self.objects.get(path, [])

    def send(self, method: str, path: str, body: Any, content_type: str = "", accept: str = "") -> Any:
        self.reviews.append((path, body["spec"]))
        attributes = body["spec"]["resourceAttributes"]
        return {"status": {"allowed": attributes["resource"] != "events"}}

    def exchange(self, method: str, path: str, body: bytes | None = None, headers: Any = None) -> Reply:
        if path == "/version":
            return Reply(200, {"date": "Sun, 29 Nov 2026 12:00:00 GMT"}, b"{}")
        reply = self.objects.get(path)
        return reply if isinstance(reply, Reply) else Reply(403, {"content-type": "application/json"}, b"{}")


def objects(*pods: Any, **more: Any) -> dict[str, Any]:
    return {
        "/version": {"major": "1", "minor": "29+"},
        DEPLOYMENTS: [DEPLOYMENT],
        f"{BASE}/pods": list(pods),
        **more,
    }


def reader(cluster: Cluster, settings: Mapping[str, str] | None = None) -> ClusterReader:
    return ClusterReader(cluster, Release("keyturn", "keyturn"), settings)


def test_facts_are_read_from_the_release() -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/keyturn/leases"
    renewed = {"spec": {"holderIdentity": "a", "renewTime": "2026-11-29T11:59:56.000000Z"}}
    facts = reader(FakeCluster(objects(pod("a", True), **{f"{leases}/keyturn-poller": renewed}))).read()
    assert facts.now == NOW
    assert facts.kubernetes == (1, 29)
    assert isinstance(facts.installation, Installation)
    assert (facts.installation.replicas, [each.name for each in facts.installation.pods]) == (2, ["a"])
    assert isinstance(facts.configuration, Configuration)
    assert facts.configuration.namespaces == ("shop", "pay")
    assert "FROM_SECRET" not in facts.configuration.settings
    assert facts.poller == LeaseState("keyturn-poller", "a", NOW - timedelta(seconds=4))
    assert facts.event_path == LeaseState("keyturn-event-path")


PROBE = f"{BASE}/pods/b:9090/proxy/readyz"
PLAIN = {"content-type": "text/plain; charset=utf-8"}


@pytest.mark.parametrize(
    ("status", "reply", "waits_for"),
    [
        ({}, Reply(503, PLAIN, b"not ready: the first list of Secrets\n"), "not ready: the first list of Secrets"),
        ({}, Reply(503, {"content-type": "application/json"}, b'{"kind":"Status"}'), "not ready"),
        ({}, Reply(503, PLAIN, b"not ready: \x1b[2J"), "not ready: \\x1b[2J"),
        ({}, None, "not ready"),
        ({"podIP": ""}, None, "Running"),
        ({"phase": "Pending"}, None, "Pending"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, None, "CrashLoopBackOff"),
    ],
)
def test_reason_why_a_pod_is_not_ready_is_read(status: dict[str, Any], reply: Reply | None, waits_for: str) -> None:
    installation, _ = reader(
        FakeCluster(objects(pod("b", False, **status), **({PROBE: reply} if reply else {})))
    ).release()
    assert isinstance(installation, Installation)
    assert installation.pods[0].waits_for == waits_for


def test_release_that_is_not_there_is_a_fault() -> None:
    installation, configuration = reader(FakeCluster({})).release()
    assert isinstance(installation, Unknown)
    assert installation.is_fault
    assert isinstance(configuration, Unknown)


def test_pod_that_may_not_read_its_deployment_knows_its_own_settings() -> None:
    cluster = FakeCluster(objects(), frozenset({DEPLOYMENTS}))
    installation, configuration = reader(cluster, {"KEYTURN_POLICY_DEFAULT": "allow"}).release()
    assert isinstance(installation, Unknown)
    assert not installation.is_fault
    assert configuration == Configuration({"KEYTURN_POLICY_DEFAULT": "allow"})


def test_names_of_objects_begin_as_the_deployments_name() -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/keyturn/leases"
    renewed = {"spec": {"holderIdentity": "a", "renewTime": "2026-11-29T11:59:56.000000Z"}}
    deployment = {**DEPLOYMENT, "metadata": {"name": "rotations-keyturn"}}
    found = objects(**{DEPLOYMENTS: [deployment], f"{leases}/rotations-keyturn-poller": renewed})
    cluster = FakeCluster(found)
    facts = ClusterReader(cluster, Release("keyturn", "rotations")).read()
    assert facts.poller == LeaseState("rotations-keyturn-poller", "a", NOW - timedelta(seconds=4))
    names = {spec["resourceAttributes"].get("name") for _, spec in cluster.reviews}
    assert {"rotations-keyturn-poller", "rotations-keyturn-record-key"} <= names


def test_pod_finds_its_deployment_by_name() -> None:
    found = objects(**{f"{DEPLOYMENTS}/rotations-keyturn": {**DEPLOYMENT, "metadata": {"name": "rotations-keyturn"}}})
    own = ClusterReader(FakeCluster(found), Release("keyturn", "keyturn", "rotations-keyturn"), {})
    assert isinstance(own.release()[0], Installation)
    assert own.lease("poller") == LeaseState("rotations-keyturn-poller")


def bound(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "db", "labels": {"keyturn.dev/bind": "true"}, **metadata}}


def test_bound_secrets_are_listed_without_their_values() -> None:
    annotations = {"keyturn.dev/status": "ok", "keyturn.dev/revisions": '{"password": "v1", "user": "v1"}'}
    managed = [
        {"manager": "keyturn", "fieldsV1": {"f:data": {"f:password": {}, "f:user": {}}}},
        {"manager": "argocd-controller", "fieldsV1": {"f:stringData": {"f:password": {}, "f:extra": {}}}},
        {"manager": "kubectl", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
    ]
    secret = bound(annotations=annotations, managedFields=managed)
    cluster = FakeCluster(objects(**{"/api/v1/namespaces/shop/secrets": [secret], "/api/v1/namespaces/shop": {}}))
    facts = reader(cluster).read()
    assert isinstance(facts.bindings, Bindings)
    (found,) = facts.bindings.secrets
    assert (str(found), found.status) == ("shop/db", "ok")
    assert found.owners == {"password": frozenset({"argocd-controller"})}
    assert facts.bindings.allowed == {"shop": None}
    assert all("PartialObjectMetadata" in each for each in cluster.accepted if "meta.k8s.io" in each)
    assert "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" in cluster.accepted


def test_secrets_that_may_not_be_listed_are_unknown() -> None:
    facts = reader(FakeCluster(objects(), frozenset({"/api/v1/namespaces/shop/secrets"}))).read()
    assert isinstance(facts.bindings, Unknown)
    assert not facts.bindings.is_fault


def test_rights_are_asked_for_the_service_account() -> None:
    cluster = FakeCluster(objects())
    facts = reader(cluster).read()
    assert isinstance(facts.missing_rights, tuple)
    assert set(facts.missing_rights) == {
        f"{verb} events in {namespace}" for verb in ("create", "patch") for namespace in ("shop", "pay")
    }
    assert {path for path, _ in cluster.reviews} == {"/apis/authorization.k8s.io/v1/subjectaccessreviews"}
    assert {spec["user"] for _, spec in cluster.reviews} == {"system:serviceaccount:keyturn:keyturn"}


def test_pod_asks_for_its_own_rights() -> None:
    cluster = FakeCluster(objects())
    cluster.in_pod = True
    reader(cluster).read()
    assert {path for path, _ in cluster.reviews} == {"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"}
    assert not any("user" in spec for _, spec in cluster.reviews)


def test_path_to_a_pod_has_its_port_and_scheme() -> None:
    assert proxied(pod("b", True), "operations") == f"{BASE}/pods/b:9090/proxy"
    assert proxied(pod("b", True), "operations", tls=True) == f"{BASE}/pods/https:b:9090/proxy"
    assert container_port(pod("b", True), "notifications") == 0


# --- AWS


def stack(**parameters: str) -> Stack:
    outputs = {"SigningKeySecretId": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:key-AbCdEf"}
    return Stack("keyturn", outputs, parameters, {}, NOW, 0.0)


@pytest.mark.parametrize(
    ("urls", "found"),
    [
        ("https://10.0.3.7/v1/notifications", {"10.0.3.7": "10.0.3.7"}),
        ("https://[fd00::1]/v1/notifications", {"fd00::1": "fd00::1"}),
        ("https://1.1.1.1/v1/notifications,https://192.168.1.1/v1/notifications", {"192.168.1.1": "192.168.1.1"}),
        ("https://127.0.0.1/v1/notifications", {}),
        ("https://nowhere.invalid/v1/notifications", {}),
        ("", {}),
    ],
)
def test_hosts_with_private_addresses_are_found(urls: str, found: dict[str, str]) -> None:
    assert private_hosts(urls) == found


def test_sample_passes_the_filters_of_the_stack() -> None:
    event = sample_event(stack(NamePrefixes="shop/,pay/", Labels="LIVE,AWSCURRENT"))
    assert event["detail"]["name"] == "shop/keyturn-sample"
    assert event["detail"]["labelUpdated"] == "LIVE"
    assert event["resources"] == ["arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/keyturn-sample-AbCdEf"]
    assert (event["account"], event["region"]) == ("111122223333", "eu-west-1")
    assert sample_event(stack())["detail"]["labelUpdated"] == "AWSCURRENT"


class FakeBus(Aws):
    """An event bus. ``code`` is the error of each entry, if any."""

    def __init__(self, code: str = "") -> None:
        self.entries: list[Any] = []
        self.code = code

    def client(self, service: str, region_name: str = "") -> Any:  # type: ignore[override] - the cache of its base
        return self

    def put_events(self, Entries: list[Any]) -> Any:
        self.entries += Entries
        return {"Entries": [{"ErrorCode": self.code} if self.code else {"EventId": "1"}]}


def heartbeat(bus: FakeBus, *leases: LeaseState | Unknown, timeout: float = 60) -> Finding:
    found = list(leases)
    return send_heartbeat(
        bus,
        stack(NamePrefixes="shop/", EventBusName="central"),
        lambda: found.pop(0) if len(found) > 1 else found[0],
        timeout,
        lambda _: None,
    )


def lease(seconds: float) -> LeaseState:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    return LeaseState("keyturn-event-path", "keyturn-x2", at, at)


def test_heartbeat_that_the_lease_shows_has_arrived() -> None:
    bus = FakeBus()
    finding = heartbeat(bus, lease(-60), lease(-60), lease(1))
    assert finding.level is Level.OK
    assert "(read by keyturn-x2)" in finding.text
    (entry,) = bus.entries
    assert (entry["Source"], entry["DetailType"], entry["EventBusName"]) == (
        "dev.keyturn",
        "Keyturn Heartbeat",
        "central",
    )
    assert '"name": "shop/keyturn-heartbeat"' in entry["Detail"]


def test_heartbeat_of_before_proves_nothing() -> None:
    finding = heartbeat(FakeBus(), lease(-120), lease(-60), timeout=0.05)
    assert finding.level is Level.ERROR
    assert "not in the Lease keyturn-event-path" in finding.text


def test_heartbeat_that_the_bus_refuses_is_an_error() -> None:
    finding = heartbeat(FakeBus("AccessDenied"), lease(-60))
    assert finding.level is Level.ERROR
    assert finding.text == "heartbeat not sent: events:PutEvents: AccessDenied"


def test_nothing_is_sent_if_the_lease_cannot_be_read() -> None:
    bus = FakeBus()
    assert heartbeat(bus, Unknown("you may not read it")).level is Level.SKIPPED
    assert bus.entries == []
