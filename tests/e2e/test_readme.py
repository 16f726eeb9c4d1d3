"""The kubectl commands of the README, run exactly as they are written there."""

import shlex
from pathlib import Path

import yaml

from keyturn_local.stack import Stack
from support.readme import files, step
from support.wait import eventually


def run(stack: Stack, beginning: str, directory: Path) -> str:
    """Run a command from the README with the cluster's own kubectl, and return its output."""
    words = shlex.split(step(beginning).command)
    assert words[0] == "kubectl"
    return stack.cluster.kubectl(*(str(directory / word) if word in files() else word for word in words[1:]))


def test_kubectl_commands_print_the_shown_output(stack: Stack, tmp_path: Path) -> None:
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    (tmp_path / "db.yaml").write_text(yaml.safe_dump(files()["db.yaml"]))
    stack.aws.secrets_manager().create_secret(Name="shop/db", SecretString='{"password": "made up"}')
    stack.cluster.create([shop])
    try:
        for beginning in ("kubectl annotate", "kubectl apply"):
            assert tuple(run(stack, beginning, tmp_path).splitlines()) == step(beginning).prints
        status = step("kubectl get secret db")
        eventually(lambda: tuple(run(stack, "kubectl get secret db", tmp_path).splitlines()) == status.prints)
        assert stack.cluster.get("secret", "db", "shop")["data"].keys() == {"password"}
    finally:
        stack.cluster.delete([shop], wait=False)
