"""`keyturn trace --aws`: legs from a cluster and from receipts. moto plays CloudWatch Logs and Secrets Manager."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import pytest

from keyturn_local.aws import sdk
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.fault_env import FaultEnv
from support.wait import eventually

BLUE, GREEN = "keyturn.blue.example.com", "keyturn.green.example.com"


class Shop:
    """A namespace with one binding, and a log group of receipts."""

    def __init__(self, env: FaultEnv) -> None:
        self.env = env
        env.receiver()
        env.create_bound_secret("db")
        self.secret_id = env.secret_ids["db"]
        self.variables = sdk.environment(env.aws.endpoint_url)
        self.group = f"/receipts/{uuid4().hex[:6]}"
        self._logs = sdk.client("logs", env.aws.endpoint_url)
        self._logs.create_log_group(logGroupName=self.group)
        self._logs.create_log_stream(logGroupName=self.group, logStreamName="receipts")

    def rotate(self) -> str:
        """Change the value in AWS and in the cluster; return the version id."""
        version = str(rotate(self.env.client, self.secret_id, uuid4().hex))
        self.env.send(self.env.notification_of("db", version))
        eventually(lambda: self.env.is_current("db"))
        return version

    def put(self, version: str, kind: str, **detail: Any) -> None:
        """Write a line as the rule of infra/aws/receipts.yaml does."""
        content = {"receiptId": uuid4().hex, "name": self.secret_id, "versionId": version, **detail}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {"source": "dev.keyturn", "region": sdk.REGION, "detail-type": kind, "time": now, "detail": content}
        lines = [{"timestamp": int(time.time() * 1000), "message": json.dumps(event)}]
        self._logs.put_log_events(logGroupName=self.group, logStreamName="receipts", logEvents=lines)

    def applied(self, version: str, *receivers: Mapping[str, Any], healthy: bool = True) -> None:
        more = {"complete": True, "healthy": healthy, "ageMs": 649, "eventId": "an-event"}
        self.put(version, "Keyturn Secret Applied", receivers=list(receivers), **more)

    def live(self, version: str, host: str) -> None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.put(version, "Keyturn Secret Live", host=host, since=since, seconds=9)

    def trace(self, *arguments: str, cluster: bool = True) -> cli.Ran:
        kubeconfig = self.env.cluster.kubeconfig if cluster else None
        command = ("trace", self.secret_id, "--aws", "--log-group", self.group, *arguments)
        return cli.run(kubeconfig, *command, env=self.variables)


@pytest.fixture(scope="module")
def shop(
    control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    with FaultEnv.start(control_plane, session_aws, signing_key_id, tmp_path_factory.mktemp("receipts")) as env:
        yield Shop(env)


def texts(ran: cli.Ran) -> Sequence[str]:
    return [leg["text"] for leg in ran.data["legs"]]


def test_receipts_are_legs_beside_those_of_the_cluster(shop: Shop) -> None:
    version = shop.rotate()
    shop.applied(
        version,
        {"host": BLUE, "outcome": "applied", "secrets": ["shop/db"], "consumers": ["Deployment/shop/web"]},
        {"host": GREEN, "outcome": "ignored", "reason": "no Secret is bound to it"},
    )
    ran = shop.trace("-o", "json")
    assert ran.code == 1, ran
    assert ran.data["version"] == version[:8]
    assert ran.data["openClusters"] == 1
    assert {
        f"{BLUE}  applied: shop/db, Deployment/shop/web",
        f"{GREEN}  ignored: no Secret is bound to it",
    } <= set(texts(ran))
    assert any(text.startswith(f"Secret {shop.env.namespace}/db applied") for text in texts(ran))

    shop.live(version, BLUE)
    ran = shop.trace("-o", "json")
    assert ran.data["openClusters"] == 0
    assert f"{BLUE}  live: all pods run it" in texts(ran)


def test_without_a_cluster_the_receipts_alone_are_shown(shop: Shop) -> None:
    version = shop.rotate()
    shop.applied(version, {"host": BLUE, "outcome": "applied"})
    shop.live(version, BLUE)
    ran = shop.trace(cluster=False)
    assert ran.code == 0, ran
    head, *legs, last = ran.out.splitlines()
    assert head.startswith(f"{shop.secret_id}  version {version[:8]}  label moved 20")
    assert head.endswith("  by notification an-event")
    assert [leg[11:] for leg in legs] == [f"✔ {BLUE}  applied", f"✔ {BLUE}  live: all pods run it"]
    assert last.startswith("live in ")
    assert ran.err.startswith("note: the legs in the cluster are left out: there is no kubeconfig at ")


def test_cluster_that_lacks_the_newest_version_says_so(shop: Shop) -> None:
    before = shop.rotate()
    version = str(rotate(shop.env.client, shop.secret_id, uuid4().hex))  # nobody tells the receiver
    shop.applied(version, {"host": GREEN, "outcome": "applied"})
    ran = shop.trace("-o", "json")
    assert ran.code == 1
    assert ran.data["version"] == version[:8]
    assert texts(ran) == [f"{GREEN}  applied", f"Secret {shop.env.namespace}/db has {before[:8]}"]


def test_missing_receipts_are_told_with_what_they_need(shop: Shop) -> None:
    version = shop.rotate()
    told = (
        f"no receipt of the last 7 days is about version {version[:8]}, which is AWSCURRENT: the stack needs"
        f" Receipts=true, and infra/aws/receipts.yaml the log group {shop.group} (docs/receipts.md)"
    )
    ran = shop.trace()
    assert ran.err.splitlines()[-1] == f"note: {told}"
    assert f"Secret {shop.env.namespace}/db applied" in ran.out
    ran = shop.trace(cluster=False)
    assert (ran.code, ran.out, ran.err) == (1, "", f"Error: {told}\n")


def test_log_group_that_is_missing_is_told(shop: Shop) -> None:
    ran = shop.trace("--log-group", "/nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "logs:FilterLogEvents on /nowhere: ResourceNotFoundException: deploy infra/aws/receipts.yaml" in ran.err
    told = cli.run(shop.env.cluster.kubeconfig, "trace", shop.secret_id, "--log-group", "/nowhere")
    assert (told.code, "--log-group is about receipts: give --aws" in told.err) == (2, True)
