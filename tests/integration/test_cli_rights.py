"""The command line with few rights: what it may not read is left out, and never taken for something empty."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml

from integration.test_cli_access import VERSION, WORKLOADS, account, filled
from keyturn_local.kubernetes.chart import SOME_KEY, rendered_chart
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.manifests import env_from, secret, workload

SECRETS = ("", ["secrets"])
READERS = ("", ["pods"]), ("batch", ["cronjobs"]), ("apps", WORKLOADS)
KEYS = {"keyturn.dev/data": "password: password"}
EVENT = "d47862ed-55b2-4b4e-a1f4-3f4b7c9d2e10"


# --- a developer who may read the Secrets of one namespace, and whose context has no namespace


def test_secret_is_found_in_the_namespace_that_its_name_begins_with(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, SECRETS)
    name = f"{namespace}/db"
    note = f"you may not list the Secrets of all namespaces: {name} is taken for the Secret {name}\n"
    for command in (["trace"], ["explain"], ["wait", "--version", VERSION]):
        ran = cli.run(kubeconfig, command[0], name, *command[1:])
        assert (ran.code, f"Secret {name}" in ran.out or "1 Secret" in ran.out) == (0, True), ran
        assert note in ran.err
        assert "default" not in ran.err.replace("the chart's default settings", "")


def test_aws_secret_is_found_by_the_other_secrets_of_that_namespace(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    database = filled(namespace)
    database["metadata"]["name"] = "database"
    control_plane.create([database, secret(namespace, "db")])  # the Secret of that name is not bound
    ran = cli.run(account(control_plane, namespace, tmp_path, SECRETS), "trace", f"{namespace}/db")
    assert f"Secret {namespace}/database applied" in ran.out, ran
    assert f"note: you may list Secrets in namespace {namespace} alone\n" in ran.err


def test_rotate_waits_for_the_secrets_that_may_be_listed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """AWS cannot be reached in this test, so the error of AWS shows that the Secret was found."""
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, SECRETS)
    aws = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "eu-west-1"}
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    ran = cli.run(kubeconfig, "rotate", f"{namespace}/db", "--wait", env={**aws, **keys})
    assert ran.err.startswith("Error: AWS: secretsmanager:DescribeSecret"), ran


def test_missing_secret_is_told_with_the_option_that_names_the_namespace(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = account(control_plane, namespace, tmp_path, SECRETS)
    ran = cli.run(kubeconfig, "trace", f"{namespace}/none")
    assert (ran.code, ran.out) == (1, "")
    told = (
        f"no Secret is bound to the AWS secret {namespace}/none (you may list Secrets in namespace {namespace} alone)"
    )
    assert told in ran.err
    assert ran.err.endswith(", or name the namespace of the Secret: -n NAMESPACE\n")


def test_somebody_without_any_right_is_told_about_the_namespace_that_was_asked_for(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = account(control_plane, namespace, tmp_path)
    for command, place in (
        (["trace", f"{namespace}/db"], namespace),
        (["explain", "db"], "default"),
        (["trace", EVENT], "default"),
        (["status"], "default"),
    ):
        ran = cli.run(kubeconfig, *command)
        assert (ran.code, ran.out) == (1, "")
        assert f"you may list the Secrets neither of all namespaces nor of namespace {place}: ask for" in ran.err
        assert "-n NAMESPACE" in ran.err
    ran = cli.run(kubeconfig, "rotate", f"{namespace}/db", "--wait")
    assert ran.err.endswith(f"nor of namespace {namespace}: ask for this right\n")  # rotate has no option -n


# --- what cannot be read is not empty


def notes(ran: cli.Ran) -> list[str]:
    return [line.removeprefix("note: ") for line in ran.err.splitlines()]


def test_explain_does_not_check_what_it_may_not_read(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace, **KEYS), workload(namespace, "web", env_from("db"))])
    control_plane.kubectl("annotate", "namespace", namespace, f"keyturn.dev/allow-secrets={namespace}/*")
    ran = cli.run(account(control_plane, namespace, tmp_path, SECRETS, *READERS), "explain", "db", "-n", namespace)
    assert "NotAllowed" not in ran.out
    assert "Deployment web  reads every key: restarts" in ran.out
    assert ran.out.endswith("1 Secret, 0 not filled; 1 workload reads it, 1 would restart\n")
    assert ran.code == 0
    why = f"because you may not get namespace {namespace}"
    assert f"whether namespace {namespace} may read {namespace}/db is not checked, {why}" in notes(ran)


def test_namespace_without_a_policy_is_not_checked_against_an_assumed_one(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The chart's default denies, but nobody knows whether the release has it."""
    control_plane.create([filled(namespace, **KEYS), workload(namespace, "web", env_from("db"))])
    rights = (SECRETS, *READERS, ("", ["namespaces"]))
    kubeconfig = account(control_plane, namespace, tmp_path, *rights)
    control_plane.kubectl("annotate", "namespace", namespace, "keyturn.dev/allow-secrets-")
    ran = cli.run(kubeconfig, "explain", "db", "-n", namespace)
    assert (ran.code, "Deployment web  reads every key: restarts" in ran.out) == (0, True), ran
    assert any(
        "is not checked, because the namespace has no annotation keyturn.dev/allow" in each for each in notes(ran)
    )
    control_plane.kubectl("annotate", "namespace", namespace, "keyturn.dev/allow-secrets=other/*")
    ran = cli.run(kubeconfig, "explain", "db", "-n", namespace)
    assert (ran.code, "not filled: NotAllowed" in ran.out) == (1, True), ran


def release(namespace: str, **values: Any) -> dict[str, Any]:
    """The chart's Deployment, without replicas."""
    chart = rendered_chart(namespace, "keyturn", {**SOME_KEY, "replicas": 0, **values})
    (made,) = yaml.safe_load_all(chart["keyturn/templates/deployment.yaml"])
    return dict(made)


def test_restarts_that_the_namespace_may_turn_on_are_not_simply_off(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    made = release(namespace, rollouts={"default": "disabled"})
    off = workload(namespace, "off", env_from("db"))
    off["metadata"]["annotations"] = {"keyturn.dev/rollout": "disabled"}
    control_plane.create([filled(namespace), workload(namespace, "web", env_from("db")), off, made])
    kubeconfig = account(control_plane, namespace, tmp_path, SECRETS, *READERS)
    told = "restarts are off (chart value rollouts.default), unless namespace {} turns them on, whose annotations you"
    for command in ("explain", "trace"):
        ran = cli.run(kubeconfig, command, "db", "-n", namespace, "--release", f"{namespace}/keyturn")
        assert told.format(namespace) in ran.out, ran
        assert "restarts are off (keyturn.dev/rollout on the workload)\n" in ran.out
        assert any(each.startswith(f"you may not read the annotations of namespace {namespace}") for each in notes(ran))


def test_workloads_that_may_not_be_listed_are_not_none(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace), workload(namespace, "web", env_from("db"))])
    kubeconfig = account(control_plane, namespace, tmp_path, SECRETS)
    ran = cli.run(kubeconfig, "explain", "db", "-n", namespace)
    assert ran.out.endswith("; at least 0 workloads read it, 0 would restart\n")
    ran = cli.run(kubeconfig, "trace", "db", "-n", namespace)
    assert ran.out.endswith(", as far as you may list the workloads\n")
    command = cli.command("status", namespace, "--watch")
    process = subprocess.Popen(
        command, env=cli.environment(kubeconfig), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    assert process.stdout.readline().split()[-2:] == ["CONSUMERS", "STATUS"]
    assert process.stdout.readline().split()[-2:] == ["?", "ok"]
    control_plane.kubectl("annotate", "secret", "db", "keyturn.dev/status=Wrong:x", "--overwrite", "-n", namespace)
    assert process.stdout.readline().split()[-2:] == ["?", "Wrong:x"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
