"""Completion of names, as bash, zsh, fish and kubectl ask for it, with the real API server."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from keyturn_local.kubernetes.cluster import write_kubeconfig
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.manifests import account, secret

VALUE = "canary-93ab"
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:{}-AbCdEf"
SUBJECT_COMMANDS = ["explain", "trace", "wait"]
SECRET_COMMANDS = ["status", "reconcile"]
PATIENT = {"KEYTURN_COMPLETION_SECONDS": "45"}  # the machine may be busy


class Shop:
    """A namespace with bound Secrets, and one Secret that is not bound."""

    def __init__(self, control_plane: ControlPlane, namespace: str, directory: Path) -> None:
        self.control_plane, self.namespace, self.directory = control_plane, namespace, directory
        bound = [
            secret(namespace, "db", f"{namespace}/db"),
            secret(namespace, "cache", ARN.format(f"{namespace}/by-arn")),
            secret(
                namespace,
                "both",
                **{"keyturn.dev/secrets": f"a: {namespace}/one\nb: {namespace}/two", "keyturn.dev/data": "x: a.x"},
            ),
            # The owner of a namespace can write any text.
            secret(namespace, "evil", f"{namespace}/$(touch evil)"),
            secret(namespace, "history", f"{namespace}/a!b"),
        ]
        bound[2]["metadata"]["labels"] = {"keyturn.dev/bind": "true"}
        control_plane.create([{**each, "stringData": {"password": VALUE}} for each in bound])
        control_plane.create([secret(namespace, "other")])

    @property
    def secrets(self) -> list[str]:
        return [f"{self.namespace}/{name}" for name in ("both", "cache", "db", "evil", "history")]

    @property
    def ids(self) -> list[str]:
        return [f"{self.namespace}/{name}" for name in ("by-arn", "db", "one", "two")]

    def account(self, name: str, *rules: dict[str, Any]) -> dict[str, Any]:
        """Return the kubeconfig of an account with these rights in the namespace."""
        self.control_plane.create(account(self.namespace, name, rules))
        return dict(json.loads(self.control_plane.kubeconfig_for(self.namespace, name, self.directory).read_text()))


@pytest.fixture(scope="module")
def shop(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    name = f"completion-{uuid4().hex[:6]}"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    control_plane.create([made])
    yield Shop(control_plane, name, tmp_path_factory.mktemp("completion"))
    control_plane.delete_all("secret", name)
    control_plane.delete([made], wait=False)


def complete(kubeconfig: Path | None, *words: str, **variables: str) -> list[str]:
    """Return the completions that the command line prints for bash. ``words`` are the words after `keyturn`. The last
    of them is still being typed."""
    asked = {"_KEYTURN_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["keyturn", *words])}
    asked |= {"COMP_CWORD": str(len(words)), **PATIENT, **variables}
    ended = cli.run(kubeconfig, env=asked)
    assert (ended.code, ended.err) == (0, "")
    assert VALUE not in ended.out
    return ended.out.split()


@pytest.mark.parametrize("command", SUBJECT_COMMANDS)
def test_subject_is_a_secret_or_an_aws_secret(shop: Shop, command: str) -> None:
    assert complete(shop.control_plane.kubeconfig, command, f"{shop.namespace}/") == sorted({*shop.secrets, *shop.ids})


@pytest.mark.parametrize("command", SECRET_COMMANDS)
def test_place_is_a_secret(shop: Shop, command: str) -> None:
    assert complete(shop.control_plane.kubeconfig, command, f"{shop.namespace}/") == shop.secrets
    assert complete(shop.control_plane.kubeconfig, command, f"{shop.namespace}/d") == [f"{shop.namespace}/db"]


@pytest.mark.parametrize("words", [["rotate", "--wait=live"], ["send"], ["wait", "--aws"]])
def test_aws_secret_is_one_that_a_binding_names(shop: Shop, words: list[str]) -> None:
    named = complete(shop.control_plane.kubeconfig, *words, f"{shop.namespace}/")
    assert named == [f"{shop.namespace}/{name}" for name in ("db", "one", "two")]


def test_option_of_the_namespace_is_taken_into_account(shop: Shop) -> None:
    kubeconfig = shop.control_plane.kubeconfig
    assert complete(kubeconfig, "status", "-n", shop.namespace, "") == ["both", "cache", "db", "evil", "history"]
    assert complete(kubeconfig, "status", "-n", "default", "") == []
    assert "db" in complete(kubeconfig, "explain", "--namespace", shop.namespace, "")


def test_option_of_the_context_is_taken_into_account(shop: Shop, tmp_path: Path) -> None:
    content = json.loads(shop.control_plane.kubectl("config", "view", "--raw", "-o", "json"))
    content["contexts"] += [{**content["contexts"][0], "name": "blue"}]
    content["contexts"][0]["context"] = {"cluster": "gone", "user": "gone"}
    content["clusters"] += [{"name": "gone", "cluster": {"server": "https://127.0.0.1:1"}}]
    write_kubeconfig(tmp_path / "config", content)
    begun = f"{shop.namespace}/d"
    assert complete(tmp_path / "config", "status", begun) == []
    for command in ("status", "wait"):  # wait takes several contexts
        assert complete(tmp_path / "config", command, "--context", "blue", begun) == [f"{shop.namespace}/db"]
    assert complete(tmp_path / "config", "status", "--context", "unknown", begun) == []


def test_right_to_one_namespace_is_enough(shop: Shop, tmp_path: Path) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}
    content = shop.account("team", rule)
    write_kubeconfig(tmp_path / "config", content)
    assert complete(tmp_path / "config", "status", f"{shop.namespace}/d") == [f"{shop.namespace}/db"]
    content["contexts"][0]["context"]["namespace"] = shop.namespace
    write_kubeconfig(tmp_path / "config", content)
    assert complete(tmp_path / "config", "status", "") == shop.secrets


def test_errors_give_no_name_and_no_word(shop: Shop, tmp_path: Path) -> None:
    """Errors do not use up the time limit either."""
    started = time.monotonic()
    write_kubeconfig(tmp_path / "nobody", shop.account("nobody"))
    (tmp_path / "broken").write_text("contexts: 3")
    for kubeconfig in (tmp_path / "nobody", tmp_path / "broken", tmp_path / "missing", None):
        assert complete(kubeconfig, "explain", "") == []
    assert time.monotonic() - started < float(PATIENT["KEYTURN_COMPLETION_SECONDS"])


def test_api_server_that_hangs_is_left_after_the_time_limit(shop: Shop, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it accepts and never answers
        content = json.loads(shop.control_plane.kubectl("config", "view", "--raw", "-o", "json"))
        content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{listener.getsockname()[1]}"
        write_kubeconfig(tmp_path / "config", content)
        started = time.monotonic()
        assert complete(tmp_path / "config", "explain", "", KEYTURN_COMPLETION_SECONDS="1") == []
        assert time.monotonic() - started < 15  # the command itself would wait for a minute, three times


def test_exec_plugin_gets_no_line_that_is_typed(shop: Shop, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text('#!/bin/sh\necho \'password:\' >&2\nread line\necho "$line" > "$0.read"\nexit 1\n')
    plugin.chmod(0o755)
    content = json.loads(shop.control_plane.kubectl("config", "view", "--raw", "-o", "json"))
    # fmt: off
    content["users"][0]["user"] = {"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "IfAvailable",
    }}
    # fmt: on
    write_kubeconfig(tmp_path / "config", content)
    words = {"COMP_WORDS": "keyturn status ", "COMP_CWORD": "2", "_KEYTURN_COMPLETE": "complete_bash", **PATIENT}
    ended = subprocess.run(
        cli.command(),
        env=cli.environment(tmp_path / "config", **words),
        input="typed\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "", "")
    assert (tmp_path / "plugin.read").read_text() == "\n"


# --- shells and kubectl


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the programs of the package, as `pip install` makes them."""
    mains = {"keyturn": "main", "kubectl-keyturn": "main", "kubectl_complete-keyturn": "kubectl_completion"}
    for name, module in mains.items():
        (tmp_path / name).write_text(f"#!{sys.executable}\nfrom keyturn_cli.{module} import main\nmain()\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def shell_environment(shop: Shop, programs: Path) -> dict[str, str]:
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return cli.environment(shop.control_plane.kubeconfig, PATH=path, **PATIENT)


def test_bash_completes_by_its_script(shop: Shop, programs: Path) -> None:
    script = f"""
        source <(keyturn --show-completion bash)
        COMP_WORDS=(keyturn explain {shop.namespace}/b); COMP_CWORD=2
        _keyturn_completion keyturn && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    shown = subprocess.run(
        ["/bin/bash", "-c", script], env=shell_environment(shop, programs), capture_output=True, text=True, timeout=90
    )
    assert (shown.stderr, shown.stdout.split()) == ("", [f"{shop.namespace}/both", f"{shop.namespace}/by-arn"])


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("zsh", """_arguments '*: :(("{0}/both"\n"{0}/by-arn"))'\n"""),
        ("fish", "{0}/both\n{0}/by-arn\n"),
    ],
)
def test_other_shells_get_the_same_names(shop: Shop, shell: str, expected: str) -> None:
    asked = {"_KEYTURN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    words = {"_TYPER_COMPLETE_ARGS": f"keyturn trace {shop.namespace}/b"}
    ended = cli.run(shop.control_plane.kubeconfig, env={**asked, **words, **PATIENT})
    assert (ended.out, ended.err) == (expected.format(shop.namespace), "")


def test_kubectl_completes_by_the_plugin(shop: Shop, programs: Path) -> None:
    kubectl = shop.control_plane.command[0]
    ended = subprocess.run(
        [kubectl, "__complete", "keyturn", "status", "-n", shop.namespace, ""],
        env=shell_environment(shop, programs),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert ended.stdout.split() == ["both", "cache", "db", "evil", "history", ":4"]
