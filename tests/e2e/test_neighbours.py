"""Keyturn and the other owners of a workload (its neighbours, docs/neighbours.md) do not fight. Each neighbour writes
to the real API server in the way in which it usually writes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import helm_python

from support.cluster_state import annotations_of, replica_sets
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
Writer = Callable[[FaultEnv, Any, Path], None]


def exists(env: FaultEnv, made: Any) -> bool:
    shown = ("get", "deployment", made["metadata"]["name"], "-n", env.namespace, "--ignore-not-found")
    return bool(env.cluster.kubectl(*shown))


def applies(env: FaultEnv, made: Any, directory: Path) -> None:
    """`kubectl apply`: a three-way merge with the manifest that was applied last."""
    env.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(made))


def applies_by_server(env: FaultEnv, made: Any, directory: Path) -> None:
    """Server-side apply that takes fields from others, as Argo CD and Flux do it."""
    flags = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")
    env.cluster.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(made))


def puts(env: FaultEnv, made: Any, directory: Path) -> None:
    """PUT of a manifest that knows nothing of our annotation, as some operators do it."""
    env.cluster.kubectl("replace" if exists(env, made) else "create", "-f", "-", stdin=json.dumps(made))


def upgrades(env: FaultEnv, made: Any, directory: Path) -> None:
    """The real Helm: the first call installs a release, and the next ones upgrade it."""
    chart = directory / "chart"
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: shop\nversion: 1.0.0\n")
    (chart / "templates" / "web.yaml").write_text(json.dumps(made))
    client = helm_python.Config(kubeconfig_path=env.cluster.kubeconfig, namespace=env.namespace)
    (client.upgrade if exists(env, made) else client.install)(chart, "shop", {})


# The writers, and whether our annotation on the pod template survives their writes.
WRITERS: Mapping[str, tuple[Writer, bool]] = {
    "apply": (applies, True),
    "server-side": (applies_by_server, True),
    "helm": (upgrades, True),
    "put": (puts, False),
}


def manifest(env: FaultEnv, name: str, build: str) -> Any:
    made = workload(env.namespace, name, env_from("db"))
    made["metadata"]["annotations"] = {"team.example/build": build}
    return made


def template_mark(env: FaultEnv, name: str) -> str | None:
    template = env.cluster.get("deployment", name, env.namespace)["spec"]["template"]
    return (template["metadata"].get("annotations") or {}).get(MARK)


def own_fields(env: FaultEnv, name: str) -> list[Any]:
    """Return the fields that Kubernetes records as Keyturn's. The entries "." are left out, because each stands for a
    map that did not exist before."""
    shown = ("get", "deployment", name, "-n", env.namespace, "-o", "json", "--show-managed-fields")
    entries = json.loads(env.cluster.kubectl(*shown))["metadata"]["managedFields"]
    ours = [each["fieldsV1"] for each in entries if each["manager"].startswith("keyturn")]
    return [json.loads(json.dumps(each).replace('".": {}, ', "")) for each in ours]


def test_owners_and_rotations_leave_each_other_alone(env: FaultEnv, tmp_path: Path) -> None:
    """Each owner writes its Deployment, and a rotation restarts it. The owner writes twice more without a change of its
    own pod template. This makes no new ReplicaSet, not even if a PUT removes Keyturn's annotation. The next rotation
    restarts the Deployment once more. Keyturn owns no field except its annotation."""
    env.receiver(via_proxy=False)
    env.create_bound_secret(consumers=())
    ours = {"f:metadata": {"f:annotations": {f"f:{MARK}": {}}}}
    for name, (write, _) in WRITERS.items():
        write(env, manifest(env, name, "1"), tmp_path)
    for name in WRITERS:
        eventually(lambda name=name: MARK in annotations_of(env.cluster, "deployment", env.namespace, name))
        assert own_fields(env, name) == [ours]
    env.send_until_accepted(env.rotate())
    for name in WRITERS:
        eventually(lambda name=name: template_mark(env, name))
        env.cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", env.namespace, "--timeout=120s")
        assert own_fields(env, name) == [{"f:spec": {"f:template": ours}}]
    first = {name: template_mark(env, name) for name in WRITERS}
    for build in ("2", "3"):
        for name, (write, survives) in WRITERS.items():
            write(env, manifest(env, name, build), tmp_path)
            assert annotations_of(env.cluster, "deployment", env.namespace, name)["team.example/build"] == build
            assert template_mark(env, name) == (first[name] if survives else None)
        env.let_settle(3)
        for name, (_, survives) in WRITERS.items():
            assert template_mark(env, name) == (first[name] if survives else None), name
            assert replica_sets(env.cluster, env.namespace, name) == 2, name
            assert all(json.dumps(fields).count(MARK) == 1 for fields in own_fields(env, name))
    env.send_until_accepted(env.rotate())
    for name in WRITERS:
        eventually(lambda name=name: template_mark(env, name) not in (None, first[name]))
        eventually(lambda name=name: replica_sets(env.cluster, env.namespace, name) == 3)
    env.assert_no_value_leaked()
