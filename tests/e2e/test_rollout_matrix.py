"""The matrix of rollouts on the real API server: a rotation restarts exactly the workloads that the oracle names.

tests/unit/test_rollout_matrix.py checks the whole product of kinds, references, keys and levels, without an API server.
This module checks every reference with every kind, and every combination of levels with one kind and one reference.
"""

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from support.argo import define, rollout
from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.rollout_matrix import AFTER, AFTER_MOVED, BEFORE, TEXTS, Levels, Reference, levels, references, switch
from support.wait import eventually

MARK = "revision.keyturn.dev/"
OF_SECRETS = {f"db-{text or 'unset'}": text for text in TEXTS}  # maps each Secret to what it says about restarts
UNSEEN = 3.0  # seconds; a pod that was created this long before a key appeared may have started without the key
SETTLE = 3.0  # seconds after which an unwanted restart would show
MakeEnv = Callable[..., FaultEnv]
Cell = tuple[str, str, str]  # the kind, the namespace and the name of a workload


@pytest.fixture(scope="module", autouse=True)
def definition(control_plane: ControlPlane) -> None:
    define(control_plane)


def manifest(kind: str, namespace: str, name: str, pod: dict[str, Any], replicas: int = 0) -> dict[str, Any]:
    """Return a workload. Unless ``replicas`` says otherwise, it has no pods: the tests look only at its mark, and
    hundreds of pods would take time. It needs pods if their ages decide whether it is restarted."""
    pod = copy.deepcopy(pod)
    if kind == "Rollout":
        return rollout(namespace, name, pod, replicas=replicas)
    made = workload(namespace, name, pod, kind)
    if kind != "DaemonSet":
        made["spec"]["replicas"] = replicas
    elif not replicas:
        made["spec"]["template"]["spec"]["nodeSelector"] = {"there-is": "none"}
    return made


def replica_set(namespace: str, name: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Return the ReplicaSet that Argo's controller would make for a Rollout."""
    made = workload(namespace, name, copy.deepcopy(pod), "ReplicaSet")
    made["metadata"]["name"] = f"{name}-1"
    made["spec"]["template"]["metadata"]["labels"]["rollouts-pod-template-hash"] = "1"
    return made


def annotate(made: dict[str, Any], own: Mapping[str, str], on_template: Mapping[str, str]) -> dict[str, Any]:
    made["metadata"]["annotations"] = dict(own)
    made["spec"]["template"]["metadata"]["annotations"] = dict(on_template)
    return made


class Matrix:
    """Workloads of several namespaces that read Secrets."""

    def __init__(self, env: FaultEnv, default: str) -> None:
        self.env = env
        for name in ("db", "moved", "other"):
            env.client.create_secret(Name=f"{env.namespace}/{name}", SecretString=json.dumps(BEFORE))
        env.receiver(
            via_proxy=False,
            KEYTURN_ARGO_ROLLOUTS="true",
            KEYTURN_ROLLOUT_DEFAULT=default,
            KEYTURN_DEADLINE_SECONDS="30",
        )

    def bind(self, namespace: str, texts: Mapping[str, str | None], to: str = "") -> None:
        """Create Secrets, and wait until they are filled. ``texts`` maps the name of each Secret to what it says about
        restarts. All are bound to the AWS secret ``to``, or by default each to the AWS secret of its own name."""
        self.env.cluster.create(
            secret(namespace, name, f"{self.env.namespace}/{to or name}", **switch(text))
            for name, text in texts.items()
        )
        for name in texts:
            eventually(lambda name=name: data_of(self.env.cluster, namespace, name).keys() == BEFORE.keys(), 60)

    def seen(self, namespaces: Iterable[str], on_template: bool) -> set[Cell]:
        """Return the workloads that bear a mark: on their pod templates if ``on_template``, and otherwise on
        themselves."""
        found = set()
        for kind in WORKLOAD_KINDS:
            for namespace in namespaces:
                for each in self.env.cluster.list(kind.lower(), namespace):
                    metadata = each["spec"]["template"]["metadata"] if on_template else each["metadata"]
                    if any(name.startswith(MARK) for name in metadata.get("annotations") or {}):
                        found.add((kind, namespace, each["metadata"]["name"]))
        return found

    def rotate(self, name: str, value: Mapping[str, str]) -> None:
        version = rotate(self.env.client, f"{self.env.namespace}/{name}", json.dumps(value))
        self.env.send_until_accepted(self.env.notification_of(name, version))

    def assert_restarted(self, namespaces: Iterable[str], expected: set[Cell]) -> None:
        """Fail unless exactly the ``expected`` workloads are restarted."""
        namespaces = list(namespaces)
        missing: set[Cell] = set()

        def all_are() -> bool:
            missing.clear()
            missing.update(expected - self.seen(namespaces, on_template=True))
            return not missing

        try:
            eventually(all_are, 60)
        except AssertionError:
            pytest.fail(f"{len(missing)} of {len(expected)} were not restarted: {sorted(missing)[:20]}")
        time.sleep(SETTLE)
        assert self.seen(namespaces, on_template=True) - expected == set()


def test_every_reference_of_every_kind_restarts_as_the_oracle_says(make_env: MakeEnv) -> None:
    env = make_env(rollouts={"argoRollouts": True})
    matrix = Matrix(env, "enabled")
    matrix.bind(env.namespace, dict.fromkeys(("db", "moved", "other")))
    expected, settled, made = set(), set(), []
    for kind in WORKLOAD_KINDS:
        for each in references():
            cell = (kind, env.namespace, f"{kind.lower()}-{each.name}")
            # If a reconcile has no time for all of its consumers, the pods may decide for those that are left.
            has_pods = each.secret == "moved"
            workload_of = manifest(*cell, each.pod, replicas=int(has_pods))
            made.append(annotate(workload_of, each.own or {}, each.on_template or {}))
            if kind == "Rollout" and has_pods:
                made.append(replica_set(*cell[1:], each.pod))
            if each.restarts:
                expected.add(cell)
                if not each.by_pods:
                    settled.add(cell)
    env.cluster.create(made)
    eventually(lambda: settled <= matrix.seen([env.namespace], on_template=False), 60)
    time.sleep(UNSEEN)
    matrix.rotate("db", AFTER)
    matrix.rotate("moved", AFTER_MOVED)
    matrix.assert_restarted([env.namespace], expected)
    assert len(made) > 400
    assert len(expected) > 150


def of_levels(default: str) -> Iterator[tuple[str, Reference, Levels]]:
    """Yield each combination of levels, with a kind and a reference in turn. The oracle says of all these references
    that they cause a restart, so only the levels decide."""
    readers = cycle(list(kind_and_reference()))
    for each in levels(default):
        yield (*next(readers), each)


def kind_and_reference() -> Iterator[tuple[str, Reference]]:
    for kind in WORKLOAD_KINDS:
        yield from ((kind, each) for each in references() if each.restarts and each.secret == "db")


@pytest.mark.parametrize("default", ["enabled", "disabled"])
def test_every_combination_of_levels_restarts_as_the_oracle_says(make_env: MakeEnv, default: str) -> None:
    env = make_env(rollouts={"argoRollouts": True})
    matrix = Matrix(env, default)
    namespaces = {text: f"{env.namespace}-{text or 'unset'}" for text in TEXTS}
    policy = {"keyturn.dev/allow-secrets": f"{env.namespace}/*"}
    env.create_objects(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": policy | switch(text)}}
            for text, name in namespaces.items()
        )
    )
    for name in namespaces.values():
        matrix.bind(name, OF_SECRETS, to="db")
    by_secret = {text: {each.name: each for each in references(name)} for name, text in OF_SECRETS.items()}
    expected, made = set(), []
    for number, (kind, reference, each) in enumerate(of_levels(default)):
        read = next(
            other
            for name, other in by_secret[each.secret].items()
            if name.replace(f"db-{each.secret or 'unset'}", "db") == reference.name
        )
        cell = (kind, namespaces[each.namespace], f"w{number}")
        own, on_template = {**(read.own or {}), **switch(each.workload)}, switch(each.template)
        made.append(annotate(manifest(*cell, read.pod), own, {**(read.on_template or {}), **on_template}))
        if each.restarts:
            expected.add(cell)
    env.cluster.create(made)
    eventually(lambda: expected <= matrix.seen(namespaces.values(), on_template=False), 60)
    matrix.rotate("db", AFTER)
    matrix.assert_restarted(namespaces.values(), expected)
    assert len(made) == 4**4
    assert len(expected) == {"enabled": 41, "disabled": 40}[default]


def test_ephemeral_container_cannot_stand_in_a_pod_template(env: FaultEnv) -> None:
    """An ephemeral container belongs to one pod, so the matrix has no reference of an ephemeral container."""
    container = {"name": "debug", "image": "none", **env_from("db")["container"]}
    with pytest.raises(KubectlFailed, match="ephemeralContainers"):
        env.cluster.create([workload(env.namespace, "web", {"ephemeralContainers": [container]})])
