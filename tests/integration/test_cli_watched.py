"""`keyturn status`, `explain` and `trace` of Secrets that others fill, beside a receiver that watches them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.cli_samples import hold_samples, replaced
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
    """A namespace with Secrets that another controller fills. Workloads read the Secret `tls`."""

    def __init__(self, env: FaultEnv) -> None:
        self.env, self.namespace, self.receiver = env, env.namespace, env.receiver()
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

    def change(self, **values: str) -> None:
        """Change values of `tls`, as another controller does."""
        body = json.dumps({"stringData": values})
        place = ("secret", "tls", "-n", self.namespace, "--field-manager=issuer")
        self.env.cluster.kubectl("patch", *place, "--type=merge", f"--patch={body}")

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
        " workload)",
        "    ├── Deployment waiting  reads ca: not restarted, because a new pod would not start; waits for ca, which"
        " the Secret does not have",
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


def test_wait_leads_to_the_other_commands(shop: Shop) -> None:
    ran = shop.run("wait", f"{shop.namespace}/tls")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == (
        f"Error: Secret {shop.namespace}/tls is watched, not bound to AWS: see its last change by keyturn trace"
        f" {shop.namespace}/tls, and what a change restarts by keyturn explain {shop.namespace}/tls"
    )


def test_trace_before_any_change_says_so(shop: Shop) -> None:
    ran = shop.run("trace", f"{shop.namespace}/tls")
    head, *legs = ran.out.splitlines()
    assert ran.code == 0
    assert re.fullmatch(rf"Secret {shop.namespace}/tls  change [0-9a-f]{{8}}", head)
    assert [leg.strip() for leg in legs] == [f"✔ Secret {shop.namespace}/tls  no change of its values is recorded"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("loud", f'NotWatched: label {LABEL} is "True"'),
        ("odd", "InvalidBinding: "),
        ("empty", "no key of it is known: it is empty"),
    ],
)
def test_trace_says_why_a_secret_restarts_nobody(shop: Shop, name: str, why: str) -> None:
    ran = shop.run("trace", f"{shop.namespace}/{name}")
    assert (ran.code, f"✗ Secret {shop.namespace}/{name}  {why}" in ran.out) == (1, True)
    assert ran.out.splitlines()[-1] == "live in ?, except: 1 Secret"


def test_receipts_of_a_watched_secret_are_usage(shop: Shop) -> None:
    ran = shop.run("trace", f"{shop.namespace}/tls", "--aws")
    assert (ran.code, ran.out) == (2, "")
    assert f"Secret {shop.namespace}/tls is not filled from AWS, so no receipt is about it: leave out --aws" in ran.err


def test_prediction_is_what_a_change_does(shop: Shop) -> None:
    ran = shop.run("explain", f"{shop.namespace}/tls", "-o", "json")
    (told,) = ran.data["secrets"]
    predicted = {each["name"] for each in told["workloads"] if each["outcome"] == "restarts"}
    names = [each["name"] for each in told["workloads"]]
    shop.change(crt=f"{CANARY}-3", key=f"{CANARY}-4")
    eventually(lambda: all(replica_sets(shop.env.cluster, shop.namespace, name) == 2 for name in predicted))
    shop.env.let_settle(2)
    restarted = {name for name in names if replica_sets(shop.env.cluster, shop.namespace, name) == 2}
    assert restarted == predicted


def traced(shop: Shop, changed: str) -> cli.Ran:
    """Wait until the trace has the leg of a change and no open leg. Return the run of the command."""

    def ask() -> cli.Ran | None:
        ran = shop.run("trace", f"{shop.namespace}/tls")
        return ran if ran.code == 0 and changed in ran.out and "ready with it" in ran.out else None

    return eventually(ask)


def test_trace_has_the_legs_of_the_last_change(shop: Shop) -> None:
    """`api` reads the key that changes, and `keyed` another one. The change is named as in the receiver's Event."""
    shop.env.cluster.create([workload(shop.namespace, "keyed", key_ref("key"))])
    eventually(lambda: shop.mark("keyed"))
    traced(shop, "/tls changed, 2 keys")
    shop.change(crt=f"{CANARY}-7")
    ran = traced(shop, "/tls changed, 1 key\n")
    head, *legs, last = ran.out.splitlines()
    (name,) = re.findall(rf"Secret {shop.namespace}/tls  (change [0-9a-f]{{8}})  by field manager issuer", head)
    texts = [leg[11:].strip() for leg in legs]
    assert texts[0] == f"✔ Secret {shop.namespace}/tls changed, 1 key"
    for workload_name in ("api", "web"):
        one = f"Deployment {shop.namespace}/{workload_name}"
        assert [text for text in texts if one in text] == [f"{one} marked", f"✔ {one} 1/1 pods ready with it"]
    off = f"- Deployment {shop.namespace}/off  Keyturn does not restart it: restarts are off"
    assert f"{off} (keyturn.dev/rollout on the workload)" in texts
    assert len(texts) == 6  # nothing about `keyed` and `waiting`
    assert re.fullmatch(r"live in \d+[smhd]; not restarted: 1 workload, whose pods may have the old value", last)
    selector = "--field-selector=involvedObject.name=tls,reason=Changed"
    events = json.loads(shop.env.cluster.kubectl("get", "events", "-n", shop.namespace, selector, "-o", "json"))
    assert any(name in event["message"] for event in events["items"])

    data = shop.run("trace", f"{shop.namespace}/tls", "-o", "json").data
    assert (data["version"], f"change {data['change']}", data["cause"]) == (None, name, "field manager issuer")
    assert data["legs"][0]["text"] == f"Secret {shop.namespace}/tls changed, 1 key"
    hold_samples({"trace a watched Secret": as_on_the_page(shop, f"$ keyturn trace {shop.namespace}/tls\n{ran.out}")})


def as_on_the_page(shop: Shop, text: str) -> str:
    patterns = [
        (r"  change [0-9a-f]{8}", "  change 5f0c9a1e"),
        (r"^ +\d+   s (?=. D)", "     9   s "),
        (r"live in \d+[smhd]", "live in 9s"),
    ]
    names = {f"{shop.namespace}/tls": "shop/shop-tls", shop.namespace: "shop"}
    return replaced(text, names, patterns)


def test_removed_key_is_a_change(shop: Shop) -> None:
    shop.fill("shrinking", {"a": CANARY, "b": CANARY}, {LABEL: "true"})
    reading = {"container": {"envFrom": [{"secretRef": {"name": "shrinking"}}]}}
    shop.env.cluster.create([workload(shop.namespace, "whole", reading)])
    mark = "revision.keyturn.dev/shrinking"
    eventually(lambda: mark in annotations_of(shop.env.cluster, "deployment", shop.namespace, "whole"))
    place = ("secret", "shrinking", "-n", shop.namespace)
    shop.env.cluster.kubectl("patch", *place, "--type=merge", '--patch={"data": {"b": null}}')
    changed = f"✔ Secret {shop.namespace}/shrinking changed, keys removed"
    eventually(lambda: changed in shop.run("trace", f"{shop.namespace}/shrinking").out)


def test_trace_says_that_a_newer_write_may_be_unseen(shop: Shop) -> None:
    """No receiver runs while the value changes."""
    written = f"note: Secret {shop.namespace}/tls was written at "
    before = shop.run("trace", f"{shop.namespace}/tls")
    assert (before.code, written in before.err) == (0, False)
    shop.receiver.kill()
    shop.change(crt=f"{CANARY}-8")
    ran = shop.run("trace", f"{shop.namespace}/tls")
    assert (ran.code, ran.out.splitlines()[1:]) == (0, before.out.splitlines()[1:])
    (note,) = [line for line in ran.err.splitlines() if line.startswith(written)]
    assert note.endswith(
        "Z, after the last change that Keyturn has recorded: either no value changed then, or no receiver has seen it"
        " yet (keyturn doctor)"
    )
    shop.receiver.start()
    eventually(lambda: written not in shop.run("trace", f"{shop.namespace}/tls").err)
    traced(shop, "/tls changed, 1 key")
