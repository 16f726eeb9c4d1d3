"""The README's commands about a first binding, run as they are printed. This test needs no real node.

tests/node/test_walk.py runs all commands.
"""

import os
import shlex
from pathlib import Path

from keyturn_local.stack import Stack
from support.readme import ROOT, Step, step, unprinted
from support.shell import Shell


def run(shell: Shell, step: Step) -> None:
    status, output = shell.run(step.command)
    assert status == 0, output
    assert unprinted(step.prints, output) == []


def test_first_binding_is_filled_and_rotated(stack: Stack) -> None:
    kubectl = Path(stack.cluster.command[0]).parent
    environment = {"PATH": f"{kubectl}{os.pathsep}{os.environ['PATH']}", "KUBECONFIG": str(stack.cluster.kubeconfig)}
    secrets = stack.aws.secrets_manager()
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}

    def value(beginning: str) -> str:
        words = shlex.split(step(beginning).line)
        return words[words.index("--secret-string") + 1]

    secrets.create_secret(Name="shop/db", SecretString=value("aws secretsmanager create-secret"))
    try:
        with Shell(ROOT, {**os.environ, **environment}) as shell:
            run(shell, step("kubectl create namespace"))
            run(shell, step("kubectl apply"))
            secrets.put_secret_value(SecretId="shop/db", SecretString=value("aws secretsmanager put-secret-value"))
            run(shell, step("kubectl wait secret/db"))
    finally:
        stack.cluster.delete([shop], wait=False)
