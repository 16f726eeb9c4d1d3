"""S21: whatever another writer does to a key that Keyturn fills, the key gets its value back.

The matrix has a cell for each way to write, each field (``data`` or ``stringData``) and each type of Secret. All cells
run side by side, in one namespace and with one receiver, which polls only once an hour.
"""

import json
import os
import re
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.errors import HelmError

from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_receiver.core.revision import DATA_HASH, RECORD, RECORD_HASH, REVISIONS, unkeyed_data_hash
from support.cluster_state import annotations_of, data_of, warnings_of
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.helm import Helm
from support.manifests import env_from, secret, workload
from support.wait import eventually

KEYS = {
    "Opaque": ("user", "password"),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/basic-auth": ("username", "password"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
REMOVABLE = {"Opaque": "password", "kubernetes.io/basic-auth": "username"}  # the other types require all their keys
FIELDS = ("stringData", "data")
PAGE = Path(__file__).parents[2] / "docs" / "chart-authors.md"
PLACEHOLDER = '{"auths":{}}'  # valid for every type


def short(kind: str) -> str:
    """Return the name of a type of Secret as a part of object names."""
    return kind.rpartition("/")[2].lower()


@dataclass(frozen=True)
class Cell:
    """One Secret, the way in which another writer changes it, and the field that the writer uses."""

    env: FaultEnv
    writer: str
    field: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.writer}-{self.field.lower()}-{short(self.kind)}"

    @property
    def secret_id(self) -> str:
        return f"{self.env.namespace}/{short(self.kind)}"

    @property
    def values(self) -> Mapping[str, bytes]:
        """What the Secret must hold."""
        content = json.loads(self.env.client.get_secret_value(SecretId=self.secret_id)["SecretString"])
        return {key: value.encode() for key, value in content.items()}

    def placeholders(self) -> dict[str, str]:
        """The values that the other writer writes, in the encoding of the field."""
        text = PLACEHOLDER if self.field == "stringData" else b64encode(PLACEHOLDER.encode()).decode()
        return dict.fromkeys(KEYS[self.kind], text)

    def manifest(self) -> dict[str, Any]:
        """The Secret as its author ships it, with placeholders."""
        metadata = {
            "namespace": self.env.namespace,
            "name": self.name,
            "labels": {"keyturn.dev/bind": "true"},
            "annotations": {"keyturn.dev/secret-id": self.secret_id},
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": self.kind,
            self.field: self.placeholders(),
        }

    def kubectl(self, verb: str, *arguments: str, body: Any = None, stdin: Any = None) -> None:
        """Call kubectl. ``body`` is a patch of this Secret, ``stdin`` is a manifest."""
        named = ("secret", self.name, f"--patch={json.dumps(body)}") if body is not None else ()
        given = ("--filename=-",) if stdin is not None else ()
        text = json.dumps(stdin) if stdin is not None else None
        self.env.cluster.kubectl(verb, *named, *given, f"--namespace={self.env.namespace}", *arguments, stdin=text)


def apply(*arguments: str) -> Callable[[Cell], None]:
    return lambda cell: cell.kubectl("apply", *arguments, stdin=cell.manifest())


def server_side(manager: str) -> Callable[[Cell], None]:
    return apply("--server-side", "--force-conflicts", f"--field-manager={manager}")


def patch(kind: str) -> Callable[[Cell], None]:
    return lambda cell: cell.kubectl("patch", f"--type={kind}", body={cell.field: cell.placeholders()})


def json_patch(cell: Cell) -> None:
    if cell.field == "stringData":
        operations = [{"op": "add", "path": "/stringData", "value": cell.placeholders()}]
    else:
        operations = [
            {"op": "replace", "path": f"/data/{key}", "value": value} for key, value in cell.placeholders().items()
        ]
    cell.kubectl("patch", "--type=json", body=operations)


def replace(cell: Cell) -> None:
    """Replace the whole Secret, which also removes the record."""
    cell.kubectl("replace", stdin=cell.manifest())


def edit(cell: Cell) -> None:
    """Edit the Secret with kubectl edit. The editor replaces each value in ``data``, or adds the values as
    ``stringData``."""
    script = (
        "import json, sys, yaml\n"
        "field, values, file = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]\n"
        "content = yaml.safe_load(open(file))\n"
        "content.setdefault(field, {}).update(values)\n"
        "open(file, 'w').write(json.dumps(content))\n"
    )
    file = cell.env.directory / f"{cell.name}.py"
    file.write_text(script)
    editor = f"{sys.executable} {file} {cell.field} '{json.dumps(cell.placeholders())}'"
    command = [*cell.env.cluster.command, "edit", "secret", cell.name, f"--namespace={cell.env.namespace}"]
    subprocess.run(command, env={**os.environ, "KUBE_EDITOR": editor}, check=True, capture_output=True, timeout=60)


def remove(cell: Cell) -> None:
    """Remove a key. The API server refuses to remove one that the Secret's type requires."""
    key = REMOVABLE.get(cell.kind, KEYS[cell.kind][0])
    required = cell.kind not in REMOVABLE
    with pytest.raises(KubectlFailed, match="Required value") if required else nullcontext():
        cell.kubectl("patch", "--type=json", body=[{"op": "remove", "path": f"/data/{key}"}])


def wipe(cell: Cell) -> None:
    """Remove all keys at once. The API server accepts that only for an Opaque Secret."""
    with nullcontext() if cell.kind == "Opaque" else pytest.raises(KubectlFailed, match="Required value"):
        cell.kubectl("patch", "--type=merge", body={"data": None})


def force_and_drop(cell: Cell) -> None:
    """Take the keys by server-side apply, and give them up again at once. After that, the keys may have no owner."""
    flags = ("--server-side", "--force-conflicts", "--field-manager=fickle")
    cell.kubectl("apply", *flags, stdin=cell.manifest())
    given_up = {key: value for key, value in cell.manifest().items() if key != cell.field}
    # The API server refuses to let the keys go if the type requires them and nobody else owns them at that moment.
    with suppress(KubectlFailed):
        cell.kubectl("apply", *flags, stdin=given_up)


def forge(cell: Cell) -> None:
    """Apply as ``keyturn``, with a copy of the whole record."""
    annotations = annotations_of(cell.env.cluster, "secret", cell.env.namespace, cell.name)
    record = {name: annotations[name] for name in (*RECORD, RECORD_HASH)}
    apply_forged(cell, record)


def forge_unkeyed(cell: Cell) -> None:
    """Apply as ``keyturn``, with a record as release 0.2 wrote it, whose hash anybody can compute."""
    annotations = annotations_of(cell.env.cluster, "secret", cell.env.namespace, cell.name)
    fake = unkeyed_data_hash(dict.fromkeys(KEYS[cell.kind], PLACEHOLDER.encode()))
    apply_forged(cell, {name: annotations[name] for name in RECORD} | {DATA_HASH: fake})


def apply_forged(cell: Cell, record: Mapping[str, str]) -> None:
    manifest = cell.manifest()
    manifest["metadata"] = {"name": cell.name, "annotations": record}
    cell.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=keyturn", stdin=manifest)


WRITERS: dict[str, Callable[[Cell], None]] = {
    "client-apply": apply(),
    "argo-cd": server_side("argocd-controller"),
    "flux": server_side("kustomize-controller"),
    "our-own-name": server_side("keyturn"),
    "strategic-patch": patch("strategic"),
    "merge-patch": patch("merge"),
    "json-patch": json_patch,
    "replace": replace,
    "edit": edit,
    "remove": remove,
    "wipe": wipe,
    "force-and-drop": force_and_drop,
    "forge": forge,
    "forge-unkeyed": forge_unkeyed,
}


def cells_of(env: FaultEnv, writers: Sequence[str]) -> list[Cell]:
    return [
        Cell(env, writer, field, kind)
        for writer, field, kind in product(writers, FIELDS, KEYS)
        if field == "data" or writer not in ("remove", "wipe")
    ]


def create_sources(env: FaultEnv) -> None:
    """Create one AWS secret for each type of Secret."""
    for kind, keys in KEYS.items():
        values = {key: env.new_value(key) for key in keys}
        if short(kind) == "dockercfg":
            values = {key: json.dumps({"registry": {"auth": text}}) for key, text in values.items()}
        if short(kind) == "dockerconfigjson":
            values = {key: json.dumps({"auths": {"registry": {"auth": text}}}) for key, text in values.items()}
        env.client.create_secret(Name=f"{env.namespace}/{short(kind)}", SecretString=json.dumps(values))


def restored(env: FaultEnv, cells: Sequence[Cell]) -> Callable[[], bool]:
    """Return a function that tells whether every cell's Secret holds its values. Its attribute ``missing`` names the
    Secrets that do not."""
    wanted = {cell.name: cell.values for cell in cells}

    def ask() -> bool:
        states = {each["metadata"]["name"]: each for each in env.cluster.list("secrets", env.namespace)}
        ask.missing = [  # type: ignore[attr-defined]
            name
            for name, values in wanted.items()
            if states[name].get("data", {}) != {key: b64encode(value).decode() for key, value in values.items()}
            or states[name]["metadata"]["annotations"].get("keyturn.dev/status") != "ok"
        ]
        return not ask.missing  # type: ignore[attr-defined]

    return ask


def wait_restored(env: FaultEnv, cells: Sequence[Cell], seconds: float = 30) -> None:
    ask = restored(env, cells)
    try:
        eventually(ask, seconds)
    except AssertionError:
        pytest.fail(f"not restored: {ask.missing}")  # type: ignore[attr-defined]


def write_all(cells: Sequence[Cell]) -> None:
    """Let each cell's writer write, several at the same time."""
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda cell: WRITERS[cell.writer](cell), cells))


def changed(env: FaultEnv, cell: Cell) -> bool:
    """Return whether the Secret has held something else between two states with its values."""
    history = list(env.history.data_history(cell.name))
    first = history.index(cell.values)
    return any(state != cell.values for state in history[first:]) and history[-1] == cell.values


def refused(cell: Cell) -> bool:
    """Return whether the API server does not take the cell's write."""
    return (cell.writer == "remove" and cell.kind not in REMOVABLE) or (cell.writer == "wipe" and cell.kind != "Opaque")


@pytest.mark.long
@pytest.mark.fault("S21")
def test_every_write_to_a_filled_key_is_reverted(env: FaultEnv) -> None:
    """kubectl's ways to write, server-side apply by GitOps tools and under Keyturn's own name, and forged records
    change the keys of every type of Secret, as data and as stringData. Each key gets its value back, and a consumer is
    not restarted."""
    env.receiver()
    create_sources(env)
    cells = cells_of(env, list(WRITERS))
    env.cluster.create([cell.manifest() for cell in cells])
    read = next(cell for cell in cells if (cell.writer, cell.kind) == ("argo-cd", "Opaque"))
    wait_restored(env, cells, 60)
    env.cluster.create([workload(env.namespace, "web", env_from(read.name))])
    eventually(lambda: env.history.baseline("web", read.name))

    write_all(cells)
    wait_restored(env, cells)
    assert [cell.name for cell in cells if not refused(cell) and not changed(env, cell)] == []
    assert not any(env.history.marks("web", read.name))
    env.assert_no_value_leaked()


@pytest.mark.fault("S21")
def test_writes_while_no_receiver_runs_are_reverted_at_the_next_start(env: FaultEnv) -> None:
    """While no receiver runs, a GitOps tool writes by server-side apply, and somebody forges a write of Keyturn. The
    receiver that starts afterwards finds these writes in its first list, and reverts them."""
    receiver = env.receiver()
    create_sources(env)
    cells = cells_of(env, ["argo-cd", "forge"])
    env.cluster.create([cell.manifest() for cell in cells])
    wait_restored(env, cells, 60)
    receiver.kill()
    write_all(cells)
    env.expire_lease()
    receiver.start()
    wait_restored(env, cells)
    assert [cell.name for cell in cells if not changed(env, cell)] == []


CHART = """apiVersion: v2
name: app
version: 1.0.0
"""
TEMPLATE = """{{- range .Values.secrets }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  labels: {keyturn.dev/bind: "true", edition: {{ $.Values.edition | quote }}}
  annotations: {keyturn.dev/secret-id: {{ .id | quote }}}
type: {{ .type }}
{{ .field }}: {{ toJson .values }}
{{- end }}
"""


@pytest.fixture
def helm(env: FaultEnv) -> Iterator[Helm]:
    made = Helm(env.cluster, env.namespace)
    yield made
    made.close()


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """An application's chart, which ships Secrets with placeholders."""
    folder = tmp_path / "app"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text(CHART)
    (folder / "templates" / "secrets.yaml").write_text(TEMPLATE)
    return folder


@pytest.mark.fault("S21")
def test_helm_upgrade_that_brings_placeholders_again_is_reverted(env: FaultEnv, helm: Helm, chart: Path) -> None:
    """Helm 4 installs an application's chart with placeholders under stringData, upgrades it, and rolls it back. Helm
    applies on the server side, so Keyturn still owns the keys. They get their values back."""
    env.receiver()
    create_sources(env)
    cells = [Cell(env, "helm", "stringData", kind) for kind in KEYS]

    def values(edition: str) -> dict[str, Any]:
        secrets = [
            {
                "name": cell.name,
                "id": cell.secret_id,
                "type": cell.kind,
                "field": cell.field,
                "values": cell.placeholders(),
            }
            for cell in cells
        ]
        return {"edition": edition, "secrets": secrets}

    def edition(cell: Cell) -> str:
        return str(env.cluster.get("secret", cell.name, env.namespace)["metadata"]["labels"]["edition"])

    helm.client.install(chart, "app", values("first"))
    wait_restored(env, cells)
    helm.client.upgrade(chart, "app", values("second"))
    wait_restored(env, cells)
    for cell in cells:
        assert edition(cell) == "second"
        assert changed(env, cell)
    helm.client.rollback("app", version=1)
    wait_restored(env, cells)
    assert {edition(cell) for cell in cells} == {"first"}


class SelfHeal(threading.Thread):
    """A GitOps tool that applies its placeholder again whenever the Secret differs, until it is stopped."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self._cell = cell
        self._stop_event = threading.Event()
        self.writes = 0

    def run(self) -> None:
        cell = self._cell
        while not self._stop_event.wait(0.05):
            if set(data_of(cell.env.cluster, cell.env.namespace, cell.name).values()) != {PLACEHOLDER.encode()}:
                server_side("argocd-controller")(cell)
                self.writes += 1

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


@pytest.mark.fault("S21")
def test_self_heal_that_fights_is_answered_ever_more_slowly_and_loses_at_the_end(env: FaultEnv) -> None:
    """A GitOps tool puts its placeholder back each time. Keyturn answers at most ten times at once, then ever more
    slowly, and has the last word once the tool stops."""
    receiver = env.receiver()
    create_sources(env)
    cell = Cell(env, "argo-cd", "stringData", "Opaque")
    env.cluster.create([cell.manifest()])
    wait_restored(env, [cell])
    fight = SelfHeal(cell)
    fight.start()
    try:
        eventually(lambda: "another writer keeps reverting this Secret" in receiver.log, 60)
    finally:
        fight.stop()
    assert fight.writes <= 13  # the tenth repair logs the line, and the eleventh is delayed by 1 s
    wait_restored(env, [cell])


def fill(env: FaultEnv, name: str, values: Mapping[str, str], **manifest: Any) -> str:
    """Create an AWS secret and an Opaque Secret that is bound to it. Return the AWS secret's ARN once the Secret is
    filled."""
    secret_id = f"{env.namespace}/{name}"
    arn = str(env.client.create_secret(Name=secret_id, SecretString=json.dumps(values))["ARN"])
    env.cluster.create([{**secret(env.namespace, name, secret_id), **manifest}])
    eventually(lambda: values.items() <= texts(env, name).items())
    return arn


def texts(env: FaultEnv, name: str) -> dict[str, str]:
    return {key: value.decode() for key, value in data_of(env.cluster, env.namespace, name).items()}


@pytest.mark.fault("S21")
def test_key_of_another_writer_that_aws_begins_to_name_is_not_taken_over(env: FaultEnv) -> None:
    """Somebody adds a key to a Secret by hand, and later the AWS secret gets a key of the same name. The status and an
    Event name the key and its manager, and the Secret stays as it is. Once the AWS secret no longer has the key, the
    Secret is filled again, and still has the key that was added by hand."""
    env.receiver()
    values = {"password": env.new_value("first")}
    arn = fill(env, "db", values)
    hand = json.dumps({"stringData": {"ca.crt": "by hand"}})
    env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "-p", hand, "--field-manager=my-hand")

    def put(content: Mapping[str, str]) -> None:
        version_id = env.client.put_secret_value(SecretId=arn, SecretString=json.dumps(content))["VersionId"]
        env.send_until_accepted(notification(arn, version_id))

    put({"password": env.new_value("second"), "ca.crt": env.new_value("from AWS")})
    status = eventually(lambda: match("InvalidValue", env.status("db")))
    assert "ca.crt (held by my-hand)" in status
    assert "ca.crt (held by my-hand)" in eventually(
        lambda: warnings_of(env.cluster, env.namespace, "db").get("InvalidValue", "")
    )
    assert texts(env, "db") == {**values, "ca.crt": "by hand"}

    third = {"password": env.new_value("third")}
    put(third)
    eventually(lambda: texts(env, "db") == {**third, "ca.crt": "by hand"})
    assert env.status("db") == "ok"
    env.assert_no_value_leaked()


def match(part: str, text: str) -> str:
    return text if part in text else ""


@pytest.mark.fault("S21")
def test_record_of_release_0_2_and_a_lost_record_key_restart_nobody(env: FaultEnv) -> None:
    """A Secret has a record of release 0.2, with a plain hash, and the receiver that starts has lost the record key.
    The first sweep writes keyed hashes. No value and no revision changes, and no consumer is restarted."""
    receiver = env.receiver()
    values = {"password": env.new_value("first")}
    for name in ("old", "current"):
        fill(env, name, values)
        env.cluster.create([workload(env.namespace, f"web-{name}", env_from(name))])
        eventually(lambda name=name: env.history.baseline(f"web-{name}", name))
    receiver.kill()
    before = {name: annotations_of(env.cluster, "secret", env.namespace, name) for name in ("old", "current")}
    plain = unkeyed_data_hash({key: value.encode() for key, value in values.items()})
    record = {name: before["old"][name] for name in RECORD} | {DATA_HASH: plain}
    old = {**secret(env.namespace, "old", **record), "stringData": values}
    old["data"] = {key: b64encode(value.encode()).decode() for key, value in old.pop("stringData").items()}
    flags = ("--server-side", "--force-conflicts", "--field-manager=keyturn")
    env.cluster.kubectl("apply", *flags, "--filename=-", stdin=json.dumps(old))
    assert RECORD_HASH not in annotations_of(env.cluster, "secret", env.namespace, "old")
    lost = json.dumps([{"op": "remove", "path": "/data"}])
    key = ("secret", "keyturn-record-key", "-n", env.receiver_namespace)
    env.cluster.kubectl("patch", *key, "--type=json", f"--patch={lost}")

    env.expire_lease()
    receiver.start()
    for name in ("old", "current"):
        eventually(
            lambda name=name: (
                before[name][RECORD_HASH]
                != annotations_of(env.cluster, "secret", env.namespace, name).get(
                    RECORD_HASH, before[name][RECORD_HASH]
                )
            )
        )
        after = annotations_of(env.cluster, "secret", env.namespace, name)
        assert after[REVISIONS] == before[name][REVISIONS]
        assert plain not in after.values()
        assert list(env.history.data_history(name))[-1] == {key: value.encode() for key, value in values.items()}
        assert not any(env.history.marks(f"web-{name}", name))
    env.let_settle(3)
    assert not any(any(env.history.marks(f"web-{name}", name)) for name in ("old", "current"))


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page for authors of charts."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.fault("S21")
def test_page_for_authors_of_charts_says_what_works(env: FaultEnv, helm: Helm, tmp_path: Path) -> None:
    """Helm ships the manifests of the page: an Opaque Secret without data, and a typed one with a placeholder and a
    lookup. Helm upgrades the chart, and no placeholder stands in either, not even for a moment. A placeholder under
    data makes an upgrade fail, and the value stays."""
    env.receiver()
    create_sources(env)
    opaque, typed = Cell(env, "page", "data", "Opaque"), Cell(env, "page", "data", "kubernetes.io/tls")
    templates = tmp_path / "page" / "templates"
    templates.mkdir(parents=True)
    (templates.parent / "Chart.yaml").write_text(CHART)
    (templates / "note.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\ndata: {edition: {{ .Values.edition }}}\n"
    )
    manifests = {"db": (blocks("yaml")[0], opaque), "tls": (blocks("yaml")[1], typed)}
    for name, (text, cell) in manifests.items():
        (templates / f"{name}.yaml").write_text(re.sub(r"shop/\w+", cell.secret_id, text))
    helm.client.install(templates.parent, "page", {"edition": "first"})
    for name, (_, cell) in manifests.items():
        eventually(lambda name=name, cell=cell: data_of(env.cluster, env.namespace, name) == cell.values)
    states = {name: len(env.history.data_history(name)) for name in manifests}
    helm.client.upgrade(templates.parent, "page", {"edition": "second"})
    for name in manifests:  # kubectl edits both Secrets, too
        env.cluster.kubectl("annotate", "secret", name, "edition=second", "-n", env.namespace)
    eventually(lambda: "edition" in env.history.states("secrets", "tls")[-1]["metadata"]["annotations"])
    env.let_settle()
    assert {name: len(env.history.data_history(name)) for name in manifests} == states

    (templates / "tls.yaml").write_text(
        re.sub(
            r"{{- if \$found }}.*", "data: {tls.crt: YQ==, tls.key: YQ==}\n", manifests["tls"][0], flags=re.DOTALL
        ).replace("shop/tls", typed.secret_id)
    )
    with pytest.raises(HelmError, match=r'conflicts? with "keyturn"'):
        helm.client.upgrade(templates.parent, "page", {"edition": "third"})
    assert data_of(env.cluster, env.namespace, "tls") == typed.values


def test_yaml_for_gitops_tools_has_the_settings_that_the_page_names() -> None:
    argo, flux = (yaml.safe_load(text) for text in blocks("yaml")[2:])
    assert argo["spec"]["ignoreDifferences"] == [{"kind": "Secret", "name": "tls", "jsonPointers": ["/data"]}]
    assert argo["spec"]["syncPolicy"]["syncOptions"] == ["RespectIgnoreDifferences=true"]
    assert flux["metadata"]["annotations"] == {"kustomize.toolkit.fluxcd.io/ssa": "IfNotPresent"}
