"""`keyturn status` and `keyturn explain` of Secrets that others fill, beside a receiver that watches them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.cluster_state import annotations_of, replica_sets
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.wait import eventually

CANARY = "watched-canary"
LABEL = "keyturn.dev/watch"
MARK = "revision.keyturn.dev/tls"


def key_ref(key: str) -> dict[str, Any]:
    return {"container": {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "tls", "key": key}}}]}}


class Shop:
    """A namespace with Secrets that another controller fills. Those of `tls` are read by workloads."""

    def __init__(self, env: FaultEnv) -> None:
        self.env, self.namespace = env, env.namespace
        self.fill("tls", {"crt": f"{CANARY}-1", "key": f"{CANARY}-2"}, {LABEL: "true"})
        self.fill("loud", {"a": CANARY}, {LABEL: "True"})
        self.fill("odd", {"a": CANARY}, {LABEL: "true"}, {"keyturn.dev/rolout": "disabled"})
        self.fill("empty", {}, {LABEL: "true"})
        self.fill("off", {"a": CANARY}, {LABEL: "false"})
        env.create_bound_secret("bound", consumers=())
        off = workload(self.namespace, "off", env_from("tls"))
        off["metadata"]["annotations"] = {"keyturn.dev/rollout": "disabled"}
        waiting = workload(self.namespace, "waiting", key_ref("ca"))
        env.cluster.create([workload(self.namespace, "web", env_from("tls")), off, waiting])
        env.cluster.create([workload(self.namespace, "api", key_ref("crt"))])
        eventually(lambda: self.mark("web") and self.mark("api"))

    def fill(self, name: str, values: dict[str, str], labels: dict[str, str], annotations: Any = None) -> None:
        metadata = {"namespace": self.namespace, "name": name, "labels": labels, "annotations": annotations or {}}
        self.env.cluster.create([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}])

    def mark(self, name: str) -> str | None:
        return annotations_of(self.env.cluster, "deployment", self.namespace, name).get(MARK)

    def run(self, *arguments: str) -> cli.Ran:
        ran = cli.run(self.env.cluster.kubeconfig, *arguments)
        assert CANARY not in ran.out + ran.err
        return ran


@pytest.fixture(scope="module")
def shop(
    control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    with FaultEnv.start(control_plane, session_aws, signing_key_id, tmp_path_factory.mktemp("watched")) as env:
        env.receiver()
        yield Shop(env)


def test_status_lists_watched_secrets_without_a_state(shop: Shop) -> None:
    ran = shop.run("status", shop.namespace)
    rows = [line.split(maxsplit=6) for line in ran.out.splitlines()[1:]]
    assert [row[1] for row in rows] == ["bound", "empty", "loud", "odd", "tls"]
    told = {row[1]: row[2:] for row in rows}
    assert told["tls"] == ["watched", "-", "-", "4", "-"]
    assert told["empty"] == ["watched", "-", "-", "0", "-"]
    assert told["loud"][-1] == f'NotWatched: label {LABEL} is "True": set it to "true"; nobody is restarted until then'
    assert told["odd"][-1].startswith("InvalidBinding: ")
    assert "keyturn.dev/rolout" in told["odd"][-1]
    assert ran.code == 1


def test_status_of_failing_secrets_leaves_out_those_that_are_watched(shop: Shop) -> None:
    ran = shop.run("status", shop.namespace, "--failing", "-o", "json")
    assert [each["name"] for each in ran.data["items"]] == ["loud", "odd"]
    assert {(each["watched"], each["status"] is not None, each["appliedAt"]) for each in ran.data["items"]} == {
        (True, True, None)
    }


def test_status_of_one_watched_secret_is_fine(shop: Shop) -> None:
    ran = shop.run("status", f"{shop.namespace}/tls", "-o", "json")
    (item,) = ran.data["items"]
    assert (ran.code, item["watched"], item["status"], item["secretIds"]) == (0, True, None, [])
    assert shop.run("status", f"{shop.namespace}/tls", "--failing").out == "1 watched Secret, all ok\n"
    told = shop.run("status", f"{shop.namespace}/off")
    assert told.err.startswith(f"Error: Secret {shop.namespace}/off is not bound to AWS")


def test_explain_of_a_watched_secret_says_who_restarts(shop: Shop) -> None:
    ran = shop.run("explain", f"{shop.namespace}/tls")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"Secret {shop.namespace}/tls  if each of its values changed now",
        f"└── Secret {shop.namespace}/tls  watched  keys crt, key",
        "    ├── Deployment api  reads crt: restarts",
        "    ├── Deployment off  reads every key: not restarted: restarts are off (keyturn.dev/rollout on the"
        " namespace, the Secret or the workload, or the chart)",
        "    ├── Deployment waiting  reads ca: reads no key that changes; waits for ca, which the Secret does not have",
        "    └── Deployment web  reads every key: restarts",
        "",
        "1 Secret; 4 workloads read it, 2 would restart",
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("loud", f'NotWatched: label {LABEL} is "True"'),
        ("odd", "InvalidBinding: "),
        ("empty", "no key of it is known: it is empty"),
    ],
)
def test_explain_says_why_a_secret_restarts_nobody(shop: Shop, name: str, why: str) -> None:
    ran = shop.run("explain", name, "-n", shop.namespace)
    assert (ran.code, f"Secret {shop.namespace}/{name}  watched, restarts nobody: {why}" in ran.out) == (1, True)


def test_rehearsal_of_a_watched_secret_is_usage(shop: Shop, tmp_path: Path) -> None:
    ran = shop.run("explain", f"{shop.namespace}/tls", "--stage", "AWSPENDING")
    assert (ran.code, ran.out) == (2, "")
    assert "is not filled from AWS, so there is no new value to rehearse with: leave out --stage" in ran.err


@pytest.mark.parametrize("command", ["trace", "wait"])
def test_other_commands_lead_to_the_events(shop: Shop, command: str) -> None:
    ran = shop.run(command, f"{shop.namespace}/tls")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == (
        f"Error: Secret {shop.namespace}/tls is watched, not bound to AWS: see keyturn explain {shop.namespace}/tls,"
        f" and kubectl events --for secret/tls -n {shop.namespace}"
    )


def test_prediction_is_what_a_change_does(shop: Shop) -> None:
    ran = shop.run("explain", f"{shop.namespace}/tls", "-o", "json")
    (told,) = ran.data["secrets"]
    predicted = {each["name"] for each in told["workloads"] if each["outcome"] == "restarts"}
    names = [each["name"] for each in told["workloads"]]
    body = f'{{"stringData": {{"crt": "{CANARY}-3", "key": "{CANARY}-4"}}}}'
    shop.env.cluster.kubectl("patch", "secret", "tls", "-n", shop.namespace, "--type=merge", f"--patch={body}")
    eventually(lambda: all(replica_sets(shop.env.cluster, shop.namespace, name) == 2 for name in predicted))
    shop.env.let_settle(2)
    restarted = {name for name in names if replica_sets(shop.env.cluster, shop.namespace, name) == 2}
    assert restarted == predicted
