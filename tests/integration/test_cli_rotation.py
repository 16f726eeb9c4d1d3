"""`keyturn status`, `explain`, `trace` and `wait` beside a receiver that fills Secrets and restarts workloads."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyte
import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.cluster import write_kubeconfig
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli, terminal
from support.cli_samples import aligned, hold_samples, replaced
from support.fault_env import FaultEnv
from support.manifests import account, env_from, secret, workload
from support.wait import eventually

CANARY = "cli-canary"
READER = {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": "username"}}}]}


def value(number: int, **more: str) -> str:
    return json.dumps({"username": f"{CANARY}-user", "password": f"{CANARY}-{number}", **more})


class Shop:
    """A namespace with two bindings of the AWS secret `db`, one of them wrong, and readers of each sort."""

    def __init__(self, env: FaultEnv) -> None:
        self.env, self.namespace, self.secret_id = env, env.namespace, f"{env.namespace}/db"
        env.client.create_secret(Name=self.secret_id, SecretString=value(0))
        env.receiver()
        wrong = {"keyturn.dev/data": "PASSWORD: pasword"}
        env.cluster.create([secret(self.namespace, "db", self.secret_id)])
        env.cluster.create([secret(self.namespace, "wrong", self.secret_id, **wrong)])
        eventually(lambda: self.annotation("db", "keyturn.dev/status") == "ok")
        eventually(lambda: self.annotation("wrong", "keyturn.dev/status"))
        parted = workload(self.namespace, "parted", env_from("db"), "StatefulSet")
        parted["spec"] |= {"updateStrategy": {"rollingUpdate": {"partition": 5}}, "serviceName": "parted"}
        off = workload(self.namespace, "off", env_from("db"))
        off["metadata"]["annotations"] = {"keyturn.dev/rollout": "disabled"}
        bare = {"containers": [{"name": "main", "image": "none", **env_from("db")["container"]}]}
        nightly = {
            "schedule": "0 3 * * *",
            "jobTemplate": {"spec": {"template": {"spec": {**bare, "restartPolicy": "Never"}}}},
        }
        env.cluster.create(
            [
                workload(self.namespace, "web", env_from("db")),
                workload(self.namespace, "api", {"container": READER}),
                parted,
                off,
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": self.namespace, "name": "bare"},
                    "spec": bare,
                },
                {
                    "apiVersion": "batch/v1",
                    "kind": "CronJob",
                    "metadata": {"namespace": self.namespace, "name": "nightly"},
                    "spec": nightly,
                },
            ]
        )
        eventually(lambda: env.history.baseline("web", "db"))
        eventually(lambda: env.history.baseline("api", "db"))
        eventually(lambda: len(env.cluster.list("pods", self.namespace)) >= 5)

    def annotation(self, name: str, annotation: str) -> str:
        annotations = self.env.cluster.get("secret", name, self.namespace)["metadata"]["annotations"]
        return str(annotations.get(annotation, ""))

    def rotate(self, number: int) -> str:
        """Rotate the AWS secret, deliver the notification, and return the version id."""
        version = str(rotate(self.env.client, self.secret_id, value(number)))
        told = self.env.notification_of("db", version)
        self.env.send(replace(told, time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
        return version

    @property
    def version(self) -> str:
        """The version that the Secret was made from."""
        (version,) = json.loads(self.annotation("db", "keyturn.dev/version-ids")).values()
        return str(version)

    def run(self, *arguments: str, **variables: str) -> cli.Ran:
        """Run the command line, and check that it prints no secret value."""
        ran = cli.run(self.env.cluster.kubeconfig, *arguments, env={**self.aws, **variables})
        assert CANARY not in ran.out + ran.err
        return ran

    @property
    def aws(self) -> dict[str, str]:
        """The environment variables of somebody who may read the AWS secret."""
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "eu-west-1"}
        return {"AWS_ENDPOINT_URL": self.env.aws.endpoint_url, **keys}


@pytest.fixture(scope="module")
def shop(
    control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    with FaultEnv.start(control_plane, session_aws, signing_key_id, directory) as env:
        yield Shop(env)


# --- status


def test_status_has_a_line_for_each_binding(shop: Shop) -> None:
    told = shop.run("status", shop.namespace)
    head, db, wrong = told.out.splitlines()
    assert (told.code, told.err) == (1, "")
    assert head.split() == ["NAMESPACE", "SECRET", "AWS", "SECRET", "VERSION", "APPLIED", "CONSUMERS", "STATUS"]
    assert db.split()[:4] == [shop.namespace, "db", shop.secret_id, shop.version[:8]]
    assert db.split()[-2:] == ["4", "ok"]
    assert wrong.split()[:5] == [shop.namespace, "wrong", shop.secret_id, "-", "never"]
    assert "InvalidValue: AWS secret" in wrong


def test_failing_leaves_out_what_is_well(shop: Shop) -> None:
    told = shop.run("status", "-n", shop.namespace, "--failing", "-o", "json")
    assert told.code == 1
    (item,) = told.data["items"]
    assert (item["name"], item["needsSomebody"], item["consumers"]) == ("wrong", True, 0)


def test_status_of_one_secret_that_is_well_is_fine(shop: Shop) -> None:
    assert shop.run("status", f"{shop.namespace}/db").code == 0
    assert shop.run("status", "db", "-n", shop.namespace, "--failing").out == "1 bound Secret, all ok\n"


def test_status_of_all_namespaces_has_this_one(shop: Shop) -> None:
    assert shop.namespace in shop.run("status").out
    assert shop.namespace in shop.run("status", "-A", "-o", "yaml").out


def test_status_of_a_namespace_without_bindings_says_so(shop: Shop) -> None:
    told = shop.run("status", "default")
    assert (told.code, told.out.partition(":")[0]) == (0, "no Secret in namespace default is bound to AWS")


def test_missing_rights_are_told_with_what_is_left(shop: Shop, tmp_path: Path) -> None:
    kubeconfig = kubeconfig_with(
        shop, tmp_path, "team", [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]
    )
    told = cli.run(kubeconfig, "status", shop.namespace)
    assert told.code == 1
    assert told.out.splitlines()[1].split()[-2:] == ["?", "ok"]
    assert told.err == "note: you may not list deployments, statefulsets, daemonsets: CONSUMERS is not known\n"
    content = json.loads(kubeconfig.read_text())
    content["contexts"][0]["context"]["namespace"] = shop.namespace
    write_kubeconfig(kubeconfig, content)
    told = cli.run(kubeconfig, "status")
    assert "note: you may not list the Secrets of all namespaces" in told.err
    assert shop.namespace in told.out
    assert cli.run(kubeconfig, "status", "-A").code == 1
    assert 'cannot list resource "secrets"' in cli.run(kubeconfig, "status", "-A").err


def test_watch_prints_what_changes(shop: Shop) -> None:
    process = subprocess.Popen(
        cli.command("status", shop.namespace, "--watch"),
        env=cli.environment(shop.env.cluster.kubeconfig),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for _ in range(3):
        process.stdout.readline()
    version = shop.rotate(100)
    line = process.stdout.readline()
    assert line.split()[:4] == [shop.namespace, "db", shop.secret_id, version[:8]]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


# --- explain


def kubeconfig_with(shop: Shop, directory: Path, name: str, rules: list[dict[str, Any]]) -> Path:
    shop.env.create_objects(*account(shop.namespace, name, rules))
    return shop.env.cluster.kubeconfig_for(shop.namespace, name, directory)


def test_explain_tells_who_is_hit(shop: Shop) -> None:
    told = shop.run("explain", shop.secret_id)
    assert told.code == 1
    assert told.out.splitlines() == [
        f"{shop.secret_id}  if its AWSCURRENT moved now",
        f"├── Secret {shop.namespace}/db  keys password, username",
        "│   ├── Deployment api  reads username: restarts",
        "│   ├── Deployment off  reads every key: not restarted: restarts are off (keyturn.dev/rollout on the"
        " workload)",
        "│   ├── Deployment web  reads every key: restarts",
        "│   ├── StatefulSet parted  reads every key: keeps all of its pods: lower"
        " spec.updateStrategy.rollingUpdate.partition, which is 5, to restart them",
        "│   ├── CronJob nightly  its next run reads the new value",
        "│   └── Pod bare  never restarted by Keyturn",
        f"└── Secret {shop.namespace}/wrong  not filled: {shop.annotation('wrong', 'keyturn.dev/status')}",
        "",
        "2 Secrets, 1 not filled; 4 workloads read them, 2 would restart",
    ]


def test_rehearsal_with_a_file_compares_each_key(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "new").write_text(value(200))
    told = shop.run("explain", shop.secret_id, "--new-value", str(tmp_path / "new"), "-o", "json")
    db = told.data["secrets"][0]
    assert db["keys"] == ["password"]
    outcomes = {each["name"]: each["outcome"] for each in db["workloads"]}
    assert outcomes == {"api": "unconcerned", "web": "restarts", "off": "off", "parted": "held"}


def test_rehearsal_names_a_new_value_that_could_not_be_applied(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("{}")
    told = shop.run("explain", f"{shop.namespace}/db", "-n", shop.namespace, "--new-value", str(tmp_path / "new"))
    told = shop.run("explain", "db", "-n", shop.namespace, "--new-value", str(tmp_path / "new"))
    assert told.code == 1
    assert "not filled: InvalidValue: " in told.out
    assert "0 would restart" in told.out


def test_rehearsal_reads_the_pending_version(shop: Shop) -> None:
    client = shop.env.client
    client.put_secret_value(SecretId=shop.secret_id, SecretString=value(300, port="5432"), VersionStages=["AWSPENDING"])
    told = shop.run("explain", shop.secret_id, "--stage", "AWSPENDING")
    assert f"{shop.secret_id}  if AWSCURRENT moved to AWSPENDING now" in told.out
    assert "keys password, port" in told.out
    assert "Deployment api  reads username: reads no key that changes" in told.out


def test_rehearsal_without_rights_in_aws_is_told(shop: Shop) -> None:
    told = shop.run("explain", shop.secret_id, "--stage", "NOWHERE")
    assert told.code == 1
    assert "with the label NOWHERE cannot be read from AWS (ResourceNotFoundException)" in told.err
    told = shop.run("explain", shop.secret_id, "--stage", "AWSPENDING", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert told.code == 1
    assert "cannot be read from AWS (NoCredentialsError): log in to AWS" in told.err


def test_new_value_that_cannot_be_read_is_usage(shop: Shop, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    told = shop.run("explain", shop.secret_id, "--new-value", str(missing))
    assert (told.code, told.err.partition(":")[2].strip()) == (
        2,
        f"{missing} cannot be read (No such file or directory): name a file with the new value",
    )


def test_secret_that_nobody_binds_is_told(shop: Shop) -> None:
    for command in ("explain", "trace", "wait"):
        told = shop.run(command, f"{shop.namespace}/nobody")
        assert told.code == 1, command
        told_by = "Error: keyturn-local: no Secret is bound to the AWS secret"
        assert told.err.startswith(f"{told_by} {shop.namespace}/nobody: bind one")


@pytest.mark.parametrize("name", ["", "a b", "\x1b[31m", "arn:aws:nothing", "x" * 600])
def test_odd_subject_is_usage(shop: Shop, name: str) -> None:
    told = shop.run("explain", "--", name)
    assert (told.code, "is no name of a secret" in told.err) == (2, True)


def test_explain_without_rights_leaves_out_and_says_so(shop: Shop, tmp_path: Path) -> None:
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "get"]}]
    told = cli.run(kubeconfig_with(shop, tmp_path, "reader", rules), "explain", "db", "-n", shop.namespace)
    # Without the annotations of the namespace nobody can tell what it may read.
    assert "note: you may not read the annotations of namespace" in told.err
    assert "Traceback" not in told.err


# --- a terminal


def on_terminal(shop: Shop, columns: int, *arguments: str, **variables: str) -> pyte.Screen:
    env = cli.environment(shop.env.cluster.kubeconfig, **shop.aws, **variables)
    return terminal.show(cli.command(*arguments), env, columns)


def test_narrow_terminal_shows_each_secret_as_a_block(shop: Shop) -> None:
    screen = on_terminal(shop, 40, "status", shop.namespace)
    lines = terminal.text_of(screen)
    assert lines[:2] == [f"NAMESPACE   {shop.namespace}", "SECRET      db"]
    assert "STATUS      ok" in lines
    assert f"NAMESPACE   {shop.namespace}" in lines[7:]
    # No line is cut at the right edge: the words of the status are all there.
    status = " ".join(" ".join(line[12:] for line in lines[lines.index("SECRET      wrong") :]).split())
    assert shop.annotation("wrong", "keyturn.dev/status").replace(" ", "") in status.replace(" ", "")


@pytest.mark.parametrize("command", ["explain", "trace"])
def test_narrow_terminal_folds_lines(shop: Shop, command: str) -> None:
    told = " ".join(shop.run(command, shop.secret_id).out.split())
    lines = terminal.text_of(on_terminal(shop, 40, command, shop.secret_id))
    shown = "".join(lines).replace(" ", "")
    assert len(lines) > 12
    assert "Deployment" in shown
    words = [word for word in re.findall(r"[A-Za-z]{6,}", told) if word not in shown.replace("│", "")]
    assert words == []


def test_terminal_has_colours_unless_they_are_turned_off(shop: Shop) -> None:
    assert terminal.color_of(on_terminal(shop, 160, "status", shop.namespace), "wrong") == "red"
    assert terminal.color_of(on_terminal(shop, 160, "status", shop.namespace), "db") == "default"
    assert terminal.color_of(on_terminal(shop, 160, "status", shop.namespace, "--no-color"), "wrong") == "default"
    assert terminal.color_of(on_terminal(shop, 160, "status", shop.namespace, NO_COLOR="1"), "wrong") == "default"


def test_wait_shows_what_it_waits_for(shop: Shop) -> None:
    asked = ("wait", "db", "-n", shop.namespace, "--version", "f" * 32, "--timeout", "3s")
    lines = terminal.text_of(on_terminal(shop, 100, *asked))
    assert lines[0].startswith("Error: version ffffffff has not arrived within 3s")  # the progress is wiped
    assert "left" not in " ".join(lines)


# --- trace and wait


def as_on_the_page(shop: Shop, text: str) -> str:
    """Return an output with the names and numbers of docs/cli.md in place of its own, which differ in each run."""
    patterns = [
        (r"\bversion [0-9a-f]{8}\b", "version b6fe5c7e"),
        (r"(shop/db +)[0-9a-f]{8}", r"\1b6fe5c7e"),
        (r"label moved \S+Z", "label moved 2026-11-28T08:30:56Z"),
        (r"by notification \S+", "by notification d47862ed-55b2-4b4e-a1f4-3f4b7c9d2e10"),
        (r"\d+[smhd] ago", "96s ago"),
        (r"^ +\d+\.\d s ", "     0.7 s "),
        (r"^ +\d+   s (?!  label)", "     9   s "),
        (r"\(\d+[smh]\)", "(9s)"),
        (r"live in \d+[smhd]", "live in 9s"),
    ]
    text = replaced(text, {shop.namespace: "shop", "keyturn-local": "blue"}, patterns)
    return aligned(text, lambda line: line.startswith(("NAMESPACE", "shop ")))


def test_samples_of_the_page_are_what_is_printed(shop: Shop, tmp_path: Path) -> None:
    shop.rotate(700)
    (tmp_path / "new.json").write_text(value(701))
    asked = {
        "status": ("status", shop.namespace),
        "explain": ("explain", shop.secret_id),
        "explain a new value": ("explain", shop.secret_id, "--new-value", str(tmp_path / "new.json")),
        "wait": ("wait", "db", "-n", shop.namespace, "--for", "live", "--timeout", "5m"),
        "trace": ("trace", shop.secret_id),
        "reconcile": ("reconcile", f"{shop.namespace}/db"),
    }
    texts = {}
    for name in ("wait", *asked):
        shown = " ".join(asked[name]).replace(str(tmp_path / "new.json"), "new.json")
        texts[name] = as_on_the_page(shop, f"$ keyturn {shown}\n{shop.run(*asked[name]).out}")
    hold_samples(texts)
    # The next test rotates: a reconcile that is still running would find the new version before the notification does.
    eventually(
        lambda: shop.annotation("db", "keyturn.dev/reconciled") == shop.annotation("db", "keyturn.dev/reconcile")
    )


def test_wait_and_trace_follow_a_rotation(shop: Shop) -> None:
    version = shop.rotate(400)
    told = shop.run("wait", "db", "-n", shop.namespace, "--version", version, "--timeout", "60s", "-o", "json")
    assert told.code == 0, told
    assert [place["stage"] for place in told.data["places"]] == ["applied"]
    told = shop.run("wait", "db", "-n", shop.namespace, "--for", "live", "--timeout", "90s")
    assert told.code == 1, told  # a StatefulSet keeps its pods
    assert told.out.splitlines()[0].startswith(
        f"db version {version[:8]} is live in keyturn-local: 1 Secret, 2 workloads ("
    )
    assert told.out.splitlines()[1].startswith(f"except StatefulSet {shop.namespace}/parted: keeps all of its pods")

    told = shop.run("trace", shop.secret_id)
    lines = told.out.splitlines()
    assert told.code == 1
    assert re.fullmatch(
        rf"{shop.secret_id}  version {version[:8]}  label moved \S+Z  by notification \S{{36}}", lines[0]
    )
    legs = [line[11:].strip() for line in lines[1:-1]]
    in_order = [
        "label moved",
        f"✔ Secret {shop.namespace}/db applied, 1 key",
        f"Deployment {shop.namespace}/web marked",
        f"✔ Deployment {shop.namespace}/web 1/1 pods ready with it",
    ]
    assert [leg for leg in legs if leg in in_order] == in_order
    assert any(leg.startswith(f"✗ Secret {shop.namespace}/wrong  InvalidValue: ") for leg in legs)
    assert any(leg.startswith(f"… StatefulSet {shop.namespace}/parted  keeps all of its pods") for leg in legs)
    off = "not restarted: 1 workload, whose pods may have the old value"
    assert re.fullmatch(rf"live in \d+[smhd], except: 1 Secret, 1 workload; {off}", lines[-1])

    event = told.out.splitlines()[0].rsplit(" ", 1)[1]
    by_event = shop.run("trace", event, "-o", "json")
    assert by_event.data["event"] == event
    assert {leg["text"] for leg in by_event.data["legs"]} >= {f"Secret {shop.namespace}/db applied, 1 key"}


def test_event_that_no_secret_remembers_is_told(shop: Shop) -> None:
    told = shop.run("trace", "00000000-0000-0000-0000-000000000000")
    assert (told.code, told.err.partition(":")[2].split(":")[0].strip()) == (
        1,
        "no Secret remembers the event 00000000-0000-0000-0000-000000000000",
    )


def test_wait_asks_aws_for_the_version(shop: Shop) -> None:
    version = shop.rotate(500)
    told = shop.run("wait", f"{shop.namespace}/db", "-n", shop.namespace, "--timeout", "60s")
    assert told.out.startswith(f"{shop.namespace}/db version {version[:8]} is applied")


def test_wait_ends_after_the_time_out(shop: Shop) -> None:
    started = time.monotonic()
    told = shop.run("wait", "db", "-n", shop.namespace, "--version", "f" * 32, "--timeout", "2s")
    assert (told.code, told.out) == (3, "")
    assert time.monotonic() - started < 20
    assert told.err.startswith(f"Error: version ffffffff has not arrived within 2s: Secret {shop.namespace}/db in ")
    assert "it has version" in told.err


def test_wait_in_two_contexts_names_both(shop: Shop, tmp_path: Path) -> None:
    content = json.loads(shop.env.cluster.kubeconfig.read_text())
    (context,) = content["contexts"]
    content["contexts"] += [{**context, "name": "green"}]
    write_kubeconfig(tmp_path / "config", content)
    names = ("--context", context["name"], "--context", "green")
    told = cli.run(tmp_path / "config", "wait", "db", "-n", shop.namespace, "--version", shop.version, *names)
    assert told.code == 0, told
    assert "is applied in keyturn-local, green: 2 Secrets" in told.out


def test_interrupt_ends_a_wait_silently(shop: Shop) -> None:
    process = subprocess.Popen(
        cli.command("wait", "db", "-n", shop.namespace, "--version", "f" * 32),
        env=cli.environment(shop.env.cluster.kubeconfig),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    assert (*process.communicate(timeout=30), process.returncode) == (b"", b"", 130)


def test_odd_time_out_is_usage(shop: Shop) -> None:
    for text in ("", "5", "m", "-1s", "5 m", "1d"):
        told = shop.run("wait", "db", "-n", shop.namespace, f"--timeout={text}")
        assert (told.code, "is no duration" in told.err) == (2, True), text


def test_failed_rollout_ends_a_wait(shop: Shop) -> None:
    broken = workload(shop.namespace, "broken", env_from("db"))
    broken["spec"]["progressDeadlineSeconds"] = 3
    broken["spec"]["template"]["spec"]["nodeSelector"] = {"example.com/is": "nowhere"}
    shop.env.create_objects(broken)
    eventually(lambda: shop.env.history.baseline("broken", "db"))
    version = shop.rotate(600)
    told = shop.run("wait", "db", "-n", shop.namespace, "--version", version, "--for", "live", "--timeout", "90s")
    assert told.code == 4, told
    assert told.err.splitlines()[-1].startswith(
        f"Error: version {version[:8]}: Deployment {shop.namespace}/broken in keyturn-local (0/1 pods;"
        " ProgressDeadlineExceeded): see its pods"
    )
