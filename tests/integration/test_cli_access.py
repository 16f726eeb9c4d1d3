"""The command line and the API server: kubeconfigs, credentials, rights, and what is said when they fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.kubernetes.cluster import write_kubeconfig
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.manifests import secret

VALUE = "canary-6fd1"  # of a Secret; no output may have it


def kubeconfig(control_plane: ControlPlane) -> dict[str, Any]:
    return dict(json.loads(control_plane.kubectl("config", "view", "--raw", "-o", "json")))


def without_rights(control_plane: ControlPlane, namespace: str, directory: Path) -> Path:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": "nobody"}}
    control_plane.create([account])
    return control_plane.kubeconfig_for(namespace, "nobody", directory)


@pytest.fixture
def bound(control_plane: ControlPlane, namespace: str) -> str:
    """A bound Secret that no receiver fills, as NAMESPACE/NAME."""
    control_plane.create([{**secret(namespace, "db", f"{namespace}/db"), "stringData": {"password": VALUE}}])
    return f"{namespace}/db"


def test_reconcile_writes_the_annotation(control_plane: ControlPlane, namespace: str, bound: str) -> None:
    ran = cli.run(control_plane.kubeconfig, "reconcile", bound, "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    written = control_plane.get("secret", "db", namespace)["metadata"]["annotations"]["keyturn.dev/reconcile"]
    assert ran.data == {"namespace": namespace, "name": "db", "token": written}


def test_name_alone_is_of_the_contexts_namespace(control_plane: ControlPlane, namespace: str, bound: str) -> None:
    assert cli.run(control_plane.kubeconfig, "reconcile", "db", "-n", namespace).code == 0
    assert f"Secret {namespace}/db" in cli.run(control_plane.kubeconfig, "reconcile", "db", "-n", namespace).out
    assert 'secrets "db" not found' in cli.run(control_plane.kubeconfig, "reconcile", "db").err


def test_secret_that_is_not_bound_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([secret(namespace, "other")])
    ran = cli.run(control_plane.kubeconfig, "reconcile", f"{namespace}/other")
    assert ran.code == 1
    assert ran.err == (
        f'Error: Secret {namespace}/other is not bound to AWS: set its label keyturn.dev/bind to "true"'
        " (docs/bindings.md)\n"
    )


def test_missing_right_is_named(control_plane: ControlPlane, namespace: str, bound: str, tmp_path: Path) -> None:
    ran = cli.run(without_rights(control_plane, namespace, tmp_path), "reconcile", bound)
    assert ran.code == 1
    assert f'cannot get resource "secrets" in API group "" in the namespace "{namespace}"' in ran.err
    assert "ask for this right" in ran.err


def test_odd_name_is_refused(control_plane: ControlPlane) -> None:
    ran = cli.run(control_plane.kubeconfig, "reconcile", "--", "\x1b[31m")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == ("Error: \\x1b[31m is not the name of a Secret: write NAMESPACE/NAME, or NAME and -n NAMESPACE\n")


def test_no_kubeconfig_is_told() -> None:
    ran = cli.run(None, "reconcile", "a/b")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "Error: there is no kubeconfig at /nonexistent/.kube/config: set KUBECONFIG, or make one for your cluster\n"
    )


def test_api_server_that_does_not_answer_is_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    content = kubeconfig(control_plane)
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    write_kubeconfig(tmp_path / "config", content)
    ran = cli.run(tmp_path / "config", "reconcile", "a/b")
    assert ran.code == 1
    assert "does not answer (NewConnectionError) at https://127.0.0.1:1" in ran.err


def test_wrong_authority_is_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    content = kubeconfig(control_plane)
    content["clusters"][0]["cluster"].pop("certificate-authority")
    write_kubeconfig(tmp_path / "config", content)
    ran = cli.run(tmp_path / "config", "reconcile", "a/b")
    assert ran.code == 1
    assert "certificate" in ran.err


def test_unknown_context_is_told_with_the_known_ones(control_plane: ControlPlane) -> None:
    (known,) = (each["name"] for each in kubeconfig(control_plane)["contexts"])
    ran = cli.run(control_plane.kubeconfig, "reconcile", "a/b", "--context", "nowhere")
    assert (ran.code, ran.err) == (2, f"Error: the kubeconfig has no context nowhere: it has {known}\n")


@pytest.mark.parametrize("content", ["", "{", "contexts: 3"])
def test_kubeconfig_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "config").write_text(content)
    ran = cli.run(tmp_path / "config", "reconcile", "a/b")
    assert ran.code == 2
    assert ran.err.startswith("Error: kubeconfig ")


def test_token_that_is_refused_is_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    content = kubeconfig(control_plane)
    content["users"][0]["user"] = {"token": "wrong"}
    write_kubeconfig(tmp_path / "config", content)
    ran = cli.run(tmp_path / "config", "reconcile", "a/b")
    assert ran.code == 1
    assert "does not accept the credentials: log in again" in ran.err


def with_plugin(control_plane: ControlPlane, directory: Path, script: str) -> Path:
    content = kubeconfig(control_plane)
    plugin = directory / "plugin"
    plugin.write_text(f"#!{sys.executable}\n{script}")
    plugin.chmod(0o700)
    exec_ = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "interactiveMode": "Never",
    }
    content["users"][0]["user"] = {"exec": exec_}
    write_kubeconfig(directory / "config", content)
    return directory / "config"


def test_plugin_gives_the_credentials(control_plane: ControlPlane, bound: str, tmp_path: Path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": control_plane.admin_token},
    }
    file = with_plugin(control_plane, tmp_path, f"print({json.dumps(credential)!r})")
    assert cli.run(file, "reconcile", bound).code == 0


def test_plugin_that_fails_is_told_in_its_own_words(control_plane: ControlPlane, tmp_path: Path) -> None:
    file = with_plugin(control_plane, tmp_path, "raise SystemExit('the session has ended: log in')")
    ran = cli.run(file, "reconcile", "a/b")
    assert ran.code == 1
    assert "the session has ended: log in" in ran.err
    assert "cannot be had" in ran.err


def test_pipe_that_closes_ends_the_command_silently(control_plane: ControlPlane, bound: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        cli.command("reconcile", bound),
        env=cli.environment(control_plane.kubeconfig),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_interrupt_ends_the_command_silently(control_plane: ControlPlane, tmp_path: Path) -> None:
    started = tmp_path / "started"
    file = with_plugin(
        control_plane,
        tmp_path,
        f"import time, pathlib\npathlib.Path({str(started)!r}).touch()\ntime.sleep(60)",
    )
    process = subprocess.Popen(
        cli.command("reconcile", "a/b"),
        env=cli.environment(file),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"cli" not in err


def test_value_is_in_no_output(control_plane: ControlPlane, bound: str) -> None:
    for form in ("table", "json", "yaml"):
        ran = cli.run(control_plane.kubeconfig, "reconcile", bound, "-o", form)
        assert VALUE not in ran.out + ran.err
