"""Runs the commands of the README's section "On EKS", in order and as printed, on the emulator of AWS and the real
node.

What the commands use here instead of the real thing:

| in the README | here |
|---|---|
| GitHub | a repository with this tree, behind the same URL |
| AWS | the emulator, with IAM enforced; another account number and region (EXCHANGED) |
| the package index of `sam build` | a cache of uv, because the commands run without a network |
| the image registry | Docker does not run (NOT_RUN); the node has the image under the tag that the README pushes |
| EKS with the Pod Identity agent | the real node, and `support.eks.pod_identity` |
| the AWS Load Balancer Controller, the load balancer, ACM | `support.eks.load_balancer_controller` |
| the DNS record, made by hand | a line in the enclosure's /etc/hosts, once the README says to make it |
| the public image of the consumer | the node's own busybox under that name |
"""

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import trustme

from keyturn_local.aws import sdk
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import images, network
from keyturn_local.node.node import Node
from keyturn_local.receiver import release
from keyturn_local.receiver.process import total
from keyturn_local.toolchain import helm, lambda_packages
from support import readme
from support.eks import LOAD_BALANCER, Names, load_balancer_controller, pod_identity
from support.readme import Step
from support.shell import Shell

EXCHANGED = {"111122223333": sdk.ACCOUNT, "eu-west-1": sdk.REGION}
# The commands that are not run, by the text that they start with, and the reason for each.
# tests/contract/test_readme.py checks these commands.
NOT_RUN = {
    "aws ecr get-login-password": "there is no Docker in the enclosure, and no registry to log in to",
    "docker buildx build": "there is no Docker in the enclosure; the node's image is built from the same Dockerfile",
}
GITHUB = "https://github.com/keyturn/keyturn"
CONSUMER_IMAGE = "public.ecr.aws/docker/library/busybox:stable"


def exchanged(text: str) -> str:
    for old, new in EXCHANGED.items():
        text = text.replace(old, new)
    return text


VARIABLES = {name: exchanged(value) for name, value in readme.variables().items()}


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    names = Names(tmp_path)
    with names.in_use():
        yield names


@pytest.fixture
def authority() -> trustme.CA:
    """The public CA that issues the certificates in ACM."""
    return trustme.CA()


@pytest.fixture
def second_aws(tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator of AWS. Its functions trust our CA, as functions in AWS trust public CAs."""
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(authority.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with Emulator.start(tmp_path / "emulator", host=network.HOST) as running:
        monkeypatch.delenv("SSL_CERT_FILE")
        create_eks_cluster(running)
        yield running


def create_eks_cluster(aws: Emulator) -> None:
    trust = {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "eks.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    }
    role = aws.client("iam").create_role(RoleName="eks", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    aws.client("eks").create_cluster(name=VARIABLES["CLUSTER"], roleArn=role["Arn"], resourcesVpcConfig={})


@pytest.fixture
def cluster(
    control_plane: ControlPlane, node: Node, second_aws: Emulator, authority: trustme.CA
) -> Iterator[ControlPlane]:
    """The README's cluster, with what EKS and the Load Balancer Controller add to a cluster."""
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(VARIABLES["HOST_NAME"]).configure_cert(certificate)
    variables = {"AWS_REGION": sdk.REGION, "AWS_ENDPOINT_URL": second_aws.endpoint_url}
    node.tag(images.BUSYBOX, CONSUMER_IMAGE)
    with ExitStack() as stack:
        stack.enter_context(pod_identity(control_plane, VARIABLES["CLUSTER"], second_aws.client, variables))
        stack.enter_context(
            load_balancer_controller(control_plane, sdk.REGION, {VARIABLES["CERTIFICATE"]: certificate})
        )
        for namespace in ("keyturn", "shop"):
            stack.callback(
                control_plane.kubectl, "delete", "namespace", namespace, "--ignore-not-found", "--wait=false"
            )
        yield control_plane


@pytest.fixture
def shell(cluster: ControlPlane, second_aws: Emulator, tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty directory. Its programs reach our emulator, our cluster, and our copy of the GitHub
    repository."""
    home = tmp_path / "home"
    home.mkdir()
    environment = second_aws.tool_environment()
    kubectl = str(Path(cluster.command[0]).parent)
    with Shell(
        home,
        {
            **{name: value for name, value in environment.items() if name not in ("PYTHONPATH", "MAKEFLAGS", "MFLAGS")},
            "PATH": os.pathsep.join([kubectl, str(helm.resolve()), environment["PATH"]]),
            "KUBECONFIG": str(cluster.kubeconfig),
            "AWS_CONFIG_FILE": str(home / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
            "HELM_CACHE_HOME": str(home),
            "HELM_CONFIG_HOME": str(home),
            "HELM_DATA_HOME": str(home),
            "UV_CACHE_DIR": str(lambda_packages.resolve()),
            "UV_OFFLINE": "1",
            **instead_of_github(tmp_path / "github"),
        },
    ) as running:
        yield running


def instead_of_github(repository: Path) -> dict[str, str]:
    """Make a repository that holds this tree. Return the variables that make git use it for GitHub's URL."""
    author = {f"GIT_{who}_{what}": "walk" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **author, "GIT_DIR": str(repository), "GIT_WORK_TREE": str(readme.ROOT)}
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=this tree"]):
        subprocess.run(["git", *command], env=environment, check=True)  # noqa: S607 - the machine's own git
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": GITHUB,
    }


def not_run(step: Step) -> bool:
    return step.command.startswith(tuple(NOT_RUN))


@pytest.mark.timeout(900)
def test_readme_on_eks_works_as_printed(
    shell: Shell, cluster: ControlPlane, second_aws: Emulator, node: Node, names: Names
) -> None:
    for step in readme.steps():
        if step.command.startswith("docker buildx build"):
            node.tag(images.RECEIVER, option(step, "--tag"))
        if step.command.startswith("kubectl wait lease"):
            names.add(VARIABLES["HOST_NAME"], LOAD_BALANCER)
        if not_run(step):
            continue
        status, output = shell.run(exchanged(step.command))
        print(f"$ {exchanged(step.command)}\n{output}")
        assert status == 0, f"$ {step.command}\n{output}\n{second_aws.log[-3000:]}"
        shown = tuple(map(exchanged, step.prints))
        assert readme.unprinted(shown, output) == [], f"$ {step.command}\n{output}"
    assert sum(total(metrics, "keyturn_recovered_by_poll_total") for metrics in metrics_of_receivers(cluster)) == 0


def metrics_of_receivers(cluster: ControlPlane) -> list[str]:
    addresses = [pod["status"]["podIP"] for pod in release.receivers(cluster, "keyturn")]
    return [httpx.get(f"http://{each}:{release.OPERATIONS_PORT}/metrics").text for each in addresses]


def option(step: Step, name: str) -> str:
    words = step.words(**VARIABLES)
    return words[words.index(name) + 1]
