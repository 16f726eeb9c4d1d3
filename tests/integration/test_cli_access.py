"""The command line and the API server: kubeconfigs, credentials, rights, and what is said when they fail."""

import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from typer.testing import CliRunner

from keyturn_cli.main import app
from keyturn_local.kubernetes.chart import SOME_KEY, rendered_chart
from keyturn_local.kubernetes.cluster import write_kubeconfig
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.history import Change, add
from support import cli
from support.fault_proxy import Call, Cut, Fault, FaultProxy, Reply
from support.manifests import env_from, role, secret, workload

VALUE = "canary-6fd1"  # the value of a Secret; no output may contain it


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
        "Error: there is no kubeconfig at /proc/no-home/.kube/config: set KUBECONFIG, or make one for your cluster\n"
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


# --- what the command does not see, and must not see


def test_no_reply_about_a_secret_has_its_values(
    control_plane: ControlPlane, namespace: str, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reply of the API server is looked at, as it comes from the connection."""
    replies: list[bytes] = []
    request = urllib3.PoolManager.request

    def recorded(self: urllib3.PoolManager, *arguments: Any, **options: Any) -> urllib3.BaseHTTPResponse:
        reply = request(self, *arguments, **options)
        replies.append(reply.data)
        return reply

    monkeypatch.setattr(urllib3.PoolManager, "request", recorded)
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    for arguments in (["reconcile", bound], ["status", bound], ["trace", "db", "-n", namespace]):
        before = len(replies)
        CliRunner().invoke(app, arguments)
        assert len(replies) > before
    about = [json.loads(reply) for reply in replies if f'"name":"db","namespace":"{namespace}"'.encode() in reply]
    assert len(about) >= 3
    assert not [each for each in about if "data" in each]
    assert not [reply for reply in replies if b64encode(VALUE.encode()) in reply]


VERSION = "0" * 31 + "1"
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"
WORKLOADS = ["deployments", "statefulsets", "daemonsets"]


def filled(namespace: str, name: str = "db", **annotations: str) -> dict[str, Any]:
    """A Secret as a receiver has left it."""
    arn = f"{ARN}{namespace}/db-AbCdEf"
    written = {"keyturn.dev/status": "ok", "keyturn.dev/version-ids": json.dumps({f"{arn}#AWSCURRENT": VERSION})}
    return secret(namespace, name, f"{namespace}/db", **written, **annotations)


def account(control_plane: ControlPlane, namespace: str, directory: Path, *rules: tuple[str, list[str]]) -> Path:
    """A kubeconfig of somebody with the rights to get, list and watch these resources, by their API groups."""
    given = [{"apiGroups": [group], "resources": names, "verbs": ["get", "list", "watch"]} for group, names in rules]
    kubeconfig = without_rights(control_plane, namespace, directory)
    control_plane.create(role(namespace, "nobody", given))
    return kubeconfig


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ([], "list deployments in namespace {0}, list statefulsets in namespace {0}, list daemonsets in namespace {0}"),
        ([("apps", WORKLOADS[:2]), ("", ["namespaces"])], "list daemonsets in namespace {0}"),
        ([("apps", WORKLOADS)], "get namespace {0}"),
    ],
)
def test_wait_never_says_live_of_what_it_may_not_see(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, rules: list[tuple[str, list[str]]], missing: str
) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]), *rules)
    command = ("wait", "db", "-n", namespace, "--version", VERSION)
    ran = cli.run(kubeconfig, *command, "--for", "live")
    assert (ran.code, ran.out) == (1, "")
    assert f"nobody knows what is live, because you may not {missing.format(namespace)}" in ran.err
    ran = cli.run(kubeconfig, *command)
    assert (ran.code, ran.err, "is applied in" in ran.out) == (0, "", True), ran


def test_wait_with_all_rights_is_live(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    control_plane.create([filled(namespace)])
    rules = (("", ["secrets", "namespaces"]), ("apps", WORKLOADS))
    kubeconfig = account(control_plane, namespace, tmp_path, *rules)
    ran = cli.run(kubeconfig, "wait", "db", "-n", namespace, "--version", VERSION, "--for", "live")
    assert (ran.code, "is live in" in ran.out) == (0, True), ran
    assert "the chart's default settings are assumed, because the release cannot be read" in ran.err


def test_wait_goes_on_while_the_api_server_is_away(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]))
    faults: list[Fault] = [None, Reply(503), Reply(429), None]  # the first call finds the Secret
    with closing(FaultProxy(control_plane.url, control_plane.ca_file)) as proxy:
        proxy.fault_for = lambda call: faults.pop(0)
        proxied = proxy.kubeconfig(kubeconfig, tmp_path / "proxied")
        ran = cli.run(proxied, "wait", "db", "-n", namespace, "--version", VERSION)
    assert (ran.code, "is applied in" in ran.out, faults) == (0, True, []), ran


def test_wait_ends_at_its_time_out_if_the_api_server_does_not_come_back(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]))
    with closing(FaultProxy(control_plane.url, control_plane.ca_file)) as proxy:
        proxy.fault_for = lambda call: Reply(503) if len(proxy.calls) > 1 else None
        proxied = proxy.kubeconfig(kubeconfig, tmp_path / "proxied")
        ran = cli.run(proxied, "wait", "db", "-n", namespace, "--version", VERSION, "--timeout", "2s")
    assert (ran.code, ran.out) == (1, ""), ran
    assert "it answered 503: try again" in ran.err


def test_wait_does_not_call_a_deleted_secret_applied(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]))
    with closing(FaultProxy(control_plane.url, control_plane.ca_file)) as proxy:

        def delete(call: Call, status: int) -> None:
            control_plane.kubectl("delete", "secret", "db", "-n", namespace, "--ignore-not-found")

        proxy.on_answered = delete
        proxied = proxy.kubeconfig(kubeconfig, tmp_path / "proxied")
        ran = cli.run(proxied, "wait", "db", "-n", namespace, "--version", "f" * 32)
    assert (ran.code, ran.out) == (1, ""), ran
    assert f"no Secret here uses the current version of Secret {namespace}/db" in ran.err


def test_trace_says_that_events_are_left_out(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]))
    ran = cli.run(kubeconfig, "trace", "db", "-n", namespace)
    assert f"note: you may not list the events of namespace {namespace}: warnings are left out" in ran.err


@pytest.mark.parametrize(("release", "name"), [("rotations", "rotations-keyturn"), ("keyturn", "keyturn")])
def test_release_is_found_by_the_name_that_helm_knows(
    control_plane: ControlPlane, namespace: str, release: str, name: str
) -> None:
    """The Deployment is the chart's own. A workload of another chart in the same release does not count."""
    values = {**SOME_KEY, "rollouts": {"enabled": False}, "replicas": 0}
    (made,) = yaml.safe_load_all(rendered_chart(namespace, release, values)["keyturn/templates/deployment.yaml"])
    assert made["metadata"]["name"] == name
    other = workload(namespace, "another", env_from("db"))
    other["metadata"]["labels"] = {"app.kubernetes.io/instance": release}
    control_plane.create([filled(namespace), made, other])
    place = ("--release", f"{namespace}/{release}")
    ran = cli.run(control_plane.kubeconfig, "wait", "db", "-n", namespace, "--version", VERSION, "--for=live", *place)
    assert (ran.code, ran.err) == (0, "")  # rollouts are off, so the workload is not waited for
    ran = cli.run(control_plane.kubeconfig, "ui", "--no-browser", *place)
    assert ran.err.startswith(f"Error: release {namespace}/{release} has no pod")
    found = cli.run(control_plane.kubeconfig, "doctor", "-o", "json", *place).data["findings"]
    assert [each["text"] for each in found if "Lease" in each["text"]] == [
        f"poller: no replica holds the Lease {name}-poller",
        f"event path: no heartbeat has ever arrived (Lease {name}-event-path)",
    ]
    found = cli.run(control_plane.kubeconfig, "doctor", "-o", "json", "--release", f"{namespace}/other").data[
        "findings"
    ]
    about = {each["text"].partition(":")[0]: each for each in found}
    missing = f"there is no release other of Keyturn in namespace {namespace}"
    assert about["receivers"]["text"] == f"receivers: {missing}"
    assert "; this cluster has " in about["receivers"]["remedy"]
    for subject in ("poller", "event path"):  # they are unknown, not broken
        assert about[subject]["level"] == "skipped"
        assert about[subject]["text"] == f"{subject}: not checked, because {missing}"


def test_release_that_is_not_there_is_told_with_the_way_to_name_it(control_plane: ControlPlane, namespace: str) -> None:
    told = f"there is no release rotations of Keyturn in namespace {namespace}"
    for command in (["ui", "--no-browser"], ["doctor"]):
        ran = cli.run(control_plane.kubeconfig, *command, "--release", f"{namespace}/rotations")
        assert told in ran.out + ran.err
        assert "--release NAMESPACE/NAME (helm list -A)" in ran.out + ran.err


def test_rotate_rotates_nothing_that_it_could_not_wait_for(control_plane: ControlPlane, namespace: str) -> None:
    """AWS cannot be reached in this test, so an attempt to rotate would give another error."""
    pinned = filled(namespace, "pinned")
    pinned["metadata"]["annotations"]["keyturn.dev/version-stage"] = "AWSPREVIOUS"
    other = secret(namespace, "web", f"{namespace}/another")
    control_plane.create([pinned, other])
    for name, told in (
        (f"{namespace}/db", f"no Secret here uses the current version of {namespace}/db"),
        (f"{namespace}/web", f"no Secret is bound to the AWS secret {namespace}/web"),
    ):
        ran = cli.run(
            control_plane.kubeconfig, "rotate", name, "--wait", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        )
        assert (ran.code, ran.out) == (1, "")
        assert told in ran.err


def watched(kubeconfig: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = cli.command("status", *arguments, "--watch")
    return subprocess.Popen(
        command, env=cli.environment(kubeconfig), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_watch_shows_the_secret_that_was_named(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    control_plane.create([filled(namespace), filled(namespace, "web")])
    process = watched(control_plane.kubeconfig, f"{namespace}/db")
    assert process.stdout
    assert [process.stdout.readline().split()[1] for _ in range(2)] == ["SECRET", "db"]
    for name in ("web", "db"):
        control_plane.kubectl("annotate", "secret", name, "keyturn.dev/status=Wrong: x", "--overwrite", "-n", namespace)
    assert process.stdout.readline().split()[1] == "db"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert rest == ""


def test_watch_stays_in_the_namespace_that_may_be_listed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]))
    content = json.loads(kubeconfig.read_text())
    content["contexts"][0]["context"]["namespace"] = namespace
    write_kubeconfig(kubeconfig, content)
    process = watched(kubeconfig)
    assert process.stdout
    assert [process.stdout.readline().split()[1] for _ in range(2)] == ["SECRET", "db"]
    control_plane.kubectl("annotate", "secret", "db", "keyturn.dev/status=Wrong: x", "--overwrite", "-n", namespace)
    assert process.stdout.readline().split()[:2] == [namespace, "db"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 130


def test_watch_goes_on_after_an_outage(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, ("", ["secrets"]), ("apps", WORKLOADS))
    faults: list[Fault] = [Reply(503), Cut(), Reply(503)]
    with closing(FaultProxy(control_plane.url, control_plane.ca_file)) as proxy:
        proxy.fault_for = lambda call: faults.pop(0) if call.watch and faults else None
        process = watched(proxy.kubeconfig(kubeconfig, tmp_path / "proxied"), "-n", namespace)
        assert process.stdout
        assert [process.stdout.readline().split()[1] for _ in range(2)] == ["SECRET", "db"]
        control_plane.kubectl("annotate", "secret", "db", "keyturn.dev/status=Wrong: x", "--overwrite", "-n", namespace)
        assert process.stdout.readline().split()[:2] == [namespace, "db"]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == ""
    assert (process.returncode, faults) == (130, [])


def test_older_event_is_not_shown_as_the_last_one(control_plane: ControlPlane, namespace: str) -> None:
    events = [f"{number}0000000-55b2-4b4e-a1f4-3f4b7c9d2e10" for number in (1, 2)]
    text = ""
    for number, event in enumerate(events):
        text = add(text, Change(f"2026-11-28T08:3{number}:00.000Z", VERSION, event=event, cause="notification", keys=1))
    control_plane.create([filled(namespace, **{"keyturn.dev/history": text})])
    newer = cli.run(control_plane.kubeconfig, "trace", events[1], "-n", namespace)
    assert (newer.code, newer.err.count("older")) == (0, 0)
    older = cli.run(control_plane.kubeconfig, "trace", events[0], "-n", namespace)
    assert f"note: this is the last change, and event {events[0]} is an older one: Secret {namespace}/db" in older.err
