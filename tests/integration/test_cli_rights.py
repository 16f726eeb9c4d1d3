"""The command line with few rights: what it may not read is left out, and never taken for something empty."""

from pathlib import Path

from integration.test_cli_access import VERSION, account, filled
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.manifests import secret

SECRETS = ("", ["secrets"])
EVENT = "d47862ed-55b2-4b4e-a1f4-3f4b7c9d2e10"


# --- a developer who may read the Secrets of one namespace, and whose context has no namespace


def test_secret_is_found_in_the_namespace_that_its_name_begins_with(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.create([filled(namespace)])
    kubeconfig = account(control_plane, namespace, tmp_path, SECRETS)
    name = f"{namespace}/db"
    note = f"you may not list the Secrets of all namespaces: {name} is taken for the Secret {name}\n"
    for command in (["trace"], ["wait", "--version", VERSION]):
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

