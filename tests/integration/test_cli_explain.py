"""`keyturn explain` and what then happens agree, in random scenes that a real receiver rotates."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from keyturn_cli.main import app
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.consumer import mark_name
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.rollout_matrix import OF_ALL_KEYS, OF_ONE_KEY, READS
from support.wait import eventually

SCENES = int(os.environ.get("KEYTURN_SCENES", "30"))
TOGETHER = 6  # scenes that are played beside each other, because most of the time is spent waiting
KINDS = ("Deployment", "StatefulSet", "DaemonSet")
PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
KEYS = ("a", "b", "c")
SWITCH = "keyturn.dev/rollout"
CLOSED = "0 0 29 2 * for 1m"  # a window that opens for a minute in a leap year


@dataclass(frozen=True)
class Reader:
    """A workload of a scene. ``key`` is None if its pods read every key."""

    kind: str
    way: str
    key: str | None
    optional: bool
    hold: str
    own: tuple[tuple[str, str], ...]
    on_template: tuple[tuple[str, str], ...]

    def manifest(self, namespace: str, name: str, secret_name: str) -> dict[str, Any]:
        if self.way == "named":
            pod: dict[str, Any] = {}
        elif self.key is None:
            pod = OF_ALL_KEYS[self.way](secret_name, self.optional)
        else:
            pod = OF_ONE_KEY[self.way](secret_name, self.key, self.optional)
        made = workload(namespace, name, pod, self.kind)
        made["metadata"]["annotations"] = dict(self.own) | ({READS: secret_name} if self.way == "named" else {})
        made["spec"]["template"]["metadata"]["annotations"] = dict(self.on_template)
        if self.kind == "StatefulSet":
            made["spec"]["serviceName"] = name
        if self.hold == "paused":
            made["spec"]["paused"] = True
        elif self.hold == "none-wanted":
            made["spec"]["replicas"] = 0
        elif self.hold == "on-delete":
            made["spec"]["updateStrategy"] = {"type": "OnDelete"}
        elif self.hold == "partition":
            made["spec"]["updateStrategy"] = {"rollingUpdate": {"partition": 1}}
        return made


@dataclass(frozen=True)
class Scene:
    """A bound Secret, its readers, and the value that comes next."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    data: str | None
    on_secret: tuple[tuple[str, str], ...]
    readers: tuple[Reader, ...]
    rehearsed: bool


def switches() -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    texts = st.sampled_from([*[None] * 9, "enabled", "disabled", "sometimes"])
    return texts.map(lambda text: () if text is None else ((SWITCH, text),))


HOLDS = {
    "Deployment": ("", "", "paused", "none-wanted"),
    "StatefulSet": ("", "", "on-delete", "partition", "none-wanted"),
    "DaemonSet": ("", "", "on-delete"),
}


@st.composite
def readers(draw: st.DrawFn) -> Reader:
    way = draw(st.sampled_from([*OF_ONE_KEY, *OF_ALL_KEYS, "named"]))
    key = draw(st.sampled_from([*KEYS, "new", "nowhere"])) if way in OF_ONE_KEY else None
    extra = draw(
        st.sampled_from([(), (), (), (("keyturn.dev/rollout-order", "1"),), (("keyturn.dev/rollout-window", CLOSED),)])
    )
    kind = draw(st.sampled_from(KINDS))
    return Reader(
        kind,
        way,
        key,
        draw(st.booleans()),
        draw(st.sampled_from(HOLDS[kind])),
        (*draw(switches()), *extra),
        draw(switches()),
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    before = dict.fromkeys(draw(st.sets(st.sampled_from(KEYS), min_size=1)), "1")
    data = draw(st.sampled_from([None, None, "a: a\nb: b", "c: a", "a: keys(@)[0]"]))
    if data:
        before = {"a": "1", "b": "1"} | before
    rehearsed = draw(st.booleans())
    changed = draw(st.sets(st.sampled_from(sorted(before)))) if rehearsed else set(before)
    after = {key: "2" if key in changed else text for key, text in before.items()}
    if rehearsed:
        for key in draw(st.sets(st.sampled_from(sorted(before)), max_size=1)):
            del after[key]
        after |= dict.fromkeys(draw(st.sets(st.just("new"))), "1")
    if not rehearsed and data == "a: keys(@)[0]":
        data = None  # such a key does not change with the values
    return Scene(before, after, data, draw(switches()), tuple(draw(st.lists(readers(), max_size=4))), rehearsed)


class Stage:
    """A namespace with a receiver, in which scenes are played, several at the same time."""

    def __init__(self, env: FaultEnv, directory: Path) -> None:
        self.env, self.namespace, self.directory = env, env.namespace, directory
        self._numbers = count()
        self._lock = Lock()
        self.seen: Counter[str] = Counter()  # outcomes that were compared
        env.receiver()

    def play(self, scene: Scene) -> None:
        """Build a scene, ask for a prediction, rotate, and compare."""
        env, number = self.env, next(self._numbers)
        name, secret_id = f"s{number}", f"{self.namespace}/s{number}"
        env.client.create_secret(Name=secret_id, SecretString=json.dumps(scene.before))
        annotations = dict(scene.on_secret) | ({} if scene.data is None else {"keyturn.dev/data": scene.data})
        made = [secret(self.namespace, name, secret_id, **annotations)]
        env.cluster.create(made)
        eventually(lambda: self.annotations("secrets", name).get("keyturn.dev/status") == "ok")
        manifests = {
            f"{name}-{index}": each.manifest(self.namespace, f"{name}-{index}", name)
            for index, each in enumerate(scene.readers)
        }
        # The watch of a kind shows its objects in order, so the receiver has seen all others of the kind when it has
        # seen the last one.
        kinds = {each.kind for each in scene.readers}
        last = {kind: workload(self.namespace, f"{name}-{kind.lower()}", env_from(name), kind) for kind in kinds}
        for kind, each in last.items():
            each["metadata"]["annotations"] = {SWITCH: "enabled"}
            if kind == "StatefulSet":
                each["spec"]["serviceName"] = name
        try:
            env.cluster.create([*manifests.values(), *last.values()])
            if dict(scene.on_secret).get(SWITCH) != "sometimes":
                for kind, each in last.items():
                    eventually(lambda kind=kind, each=each: self.has_baseline(kind, each["metadata"]["name"], name))
            told = self.explain(name, scene)
            version = rotate(env.client, secret_id, json.dumps(scene.after))
            env.send(env.notification_of(name, version))
            self.compare(name, str(version), told, {**manifests, **{e["metadata"]["name"]: e for e in last.values()}})
        finally:
            env.cluster.delete([*manifests.values(), *last.values(), *made], wait=False)

    def explain(self, name: str, scene: Scene) -> Any:
        """Return what the command predicts for the Secret."""
        arguments = ["explain", name, "-n", self.namespace, "-o", "json"]
        if scene.rehearsed:
            (self.directory / name).write_text(json.dumps(scene.after))
            arguments += ["--new-value", str(self.directory / name)]
        with self._lock:  # the runner replaces stdout
            ran = CliRunner().invoke(app, arguments, env={"KUBECONFIG": str(self.env.cluster.kubeconfig)})
        assert ran.exit_code in (0, 1), ran.output
        (told,) = json.loads(ran.stdout)["secrets"]
        return told

    def compare(self, name: str, version: str, told: Any, manifests: Mapping[str, Any]) -> None:
        record = json.loads(self.annotations("secrets", name)["keyturn.dev/version-ids"])
        assert (version in record.values()) is (told["error"] is None), told
        outcomes = {each["name"]: each["outcome"] for each in told["workloads"]}
        for each, manifest in manifests.items():
            found = self.env.cluster.get(manifest["kind"], each, self.namespace)
            on_template = found["spec"]["template"]["metadata"].get("annotations", {})
            is_marked = mark_name(name) in on_template
            outcome = outcomes.get(each, "unconcerned")
            if outcome == "waits" and "rollout-order" in json.dumps([*manifests.values()]):
                continue  # it follows when those before it are ready
            self.seen[outcome if told["error"] is None else "error"] += 1
            expected = told["error"] is None and outcome in ("restarts", "held")
            assert is_marked is expected, (each, outcome, on_template, told)

    def annotations(self, kind: str, name: str) -> Mapping[str, str]:
        return dict(self.env.cluster.get(kind, name, self.namespace)["metadata"].get("annotations", {}))

    def has_baseline(self, kind: str, workload_name: str, name: str) -> bool:
        return mark_name(name) in self.annotations(PLURALS[kind], workload_name)


@pytest.fixture(scope="module")
def stage(
    control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("stage")
    with FaultEnv.start(control_plane, session_aws, signing_key_id, directory) as env:
        yield Stage(env, directory)


@pytest.mark.long
@pytest.mark.timeout(240 if SCENES <= 60 else 3600)
def test_explain_and_what_then_happens_agree(stage: Stage) -> None:
    @settings(
        max_examples=max(1, SCENES // TOGETHER),
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    @given(st.lists(scenes(), min_size=TOGETHER, max_size=TOGETHER))
    def agree(together: list[Scene]) -> None:
        with ThreadPoolExecutor(TOGETHER) as threads:
            list(threads.map(stage.play, together))

    agree()
    print(dict(stage.seen))
    assert {"restarts", "held", "off", "unconcerned"} <= stage.seen.keys()
