"""Entry point of `make demo`. It starts all parts, runs the scenarios, and prints the verdict."""

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keyturn_local.aws.deployed import Deploying
from keyturn_local.aws.emulator.sam import DeployFailed
from keyturn_local.aws.emulator.server import TOOLS
from keyturn_local.demo import manifests
from keyturn_local.demo.observer import Observer
from keyturn_local.demo.report import Claims, heading, say
from keyturn_local.demo.scenarios import POLL_SECONDS, Scenarios
from keyturn_local.kubernetes.cluster import Cluster, KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import cgroups, enclosure, images, network, programs
from keyturn_local.node.node import Node
from keyturn_local.processes.environment import bypass_proxies
from keyturn_local.processes.program import StartFailed
from keyturn_local.receiver.release import NAME, RECEIVERS
from keyturn_local.stack import PlannedReceiver, PlannedRelease, Stack
from keyturn_local.toolchain import binaries

FAILURES = (
    StartFailed,
    DeployFailed,
    KubectlFailed,
    binaries.NotFound,
    programs.NotFound,
    images.NotFound,
    enclosure.EnclosureError,
)


def main() -> int:
    """Run the demo. Return its exit status, which is 0 if every claim was true."""
    parser = argparse.ArgumentParser(prog="make demo", description="Rotations from a local AWS into Kubernetes, live.")
    parser.add_argument("--keep", action="store_true", help="keep everything running afterwards, until Ctrl-C")
    parser.add_argument("--node", action="store_true", help="on a real node, in an enclosure: make demo NODE=real")
    parser.add_argument("--context", help="use this context of your own kubeconfig in place of a local control plane")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # this raises an exception, so that the clean-up runs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` makes the command ignore SIGINT; undo that
    bypass_proxies()
    directory = Path(tempfile.mkdtemp(prefix="keyturn-demo-"))
    try:
        with _stack(directory, arguments.context, arguments.node) as stack:
            return _run(stack, arguments.node, arguments.keep)
    except FAILURES as error:
        say(f"\nThe demo could not run: {_first(error)}")
        if error is not _first(error):
            say(f"and then the clean-up failed, so that something may be left: {error}")
        return 2
    except KeyboardInterrupt:
        say("\nstopped")
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(stack: Stack, node: bool, keep: bool) -> int:
    """Run the scenarios. Return the exit status. If ``node`` is true, pods have containers, and the receiver runs in
    pods."""
    claims = Claims()
    cluster = stack.cluster
    cluster.kubectl("annotate", "namespace", manifests.NAMESPACE, f"keyturn.dev/allow-secrets={manifests.ALLOWED}")
    observer = Observer(cluster.kubeconfig, manifests.NAMESPACE, reads_logs=node)
    heading("The stage: 2 AWS secrets, 2 Secrets, 4 workloads" + (", 2 receivers by Helm" if node else ""))
    scenarios = Scenarios(stack, observer, claims, images.BUSYBOX if node else manifests.IMAGE)
    scenarios.create_objects()
    scenarios.event_path()
    scenarios.without_event_path()
    scenarios.unread_key()
    status = claims.conclude()
    if keep:
        _keep(stack, node)
    return status


@contextmanager
def _stack(directory: Path, context: str | None, node: bool) -> Iterator[Stack]:
    """Start all parts. The control plane starts while SAM deploys the stack. If the user names a cluster, the demo
    first checks this cluster, and then uses it instead of a control plane of its own."""
    with ExitStack() as parts:
        cluster: Cluster | None = None
        if context or os.environ.get("KUBECONFIG"):
            cluster = _cluster_of_user(directory, context)
        say("deploying the stack with SAM to a local AWS (ministack) ...")
        started = time.monotonic()
        if node:
            release = PlannedRelease(directory, manifests.NAMESPACE)
            deploying = parts.enter_context(release.deploy(log_events=True))
            cluster = cluster or parts.enter_context(_control_plane(directory, node))
            _wait(deploying, started)
            values = {"poller": {"intervalSeconds": int(POLL_SECONDS)}, "drainSeconds": 0}
            yield parts.enter_context(release.run(deploying, cluster, values))
        else:
            receiver = PlannedReceiver(directory)
            deploying = parts.enter_context(receiver.deploy(log_events=True))
            cluster = cluster or parts.enter_context(_control_plane(directory, node))
            _wait(deploying, started)
            settings = {"KEYTURN_POLL_INTERVAL_SECONDS": str(POLL_SECONDS)}
            yield parts.enter_context(receiver.run(deploying, cluster, manifests.NAMESPACE, settings))


def _wait(deploying: Deploying, started: float) -> None:
    deploying.result()
    say(f"the stack is deployed after {time.monotonic() - started:.1f} s; starting the receiver ...")


def _cluster_of_user(directory: Path, context: str | None) -> Cluster:
    cluster = Cluster.of_user(shutil.which("kubectl") or str(binaries.resolve() / "kubectl"), context, directory)
    server = cluster.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
    say(f"using your cluster at {server}, in a namespace of its own: {manifests.NAMESPACE}")
    _check(cluster, server)
    return cluster


@contextmanager
def _control_plane(directory: Path, node: bool) -> Iterator[Cluster]:
    started = time.monotonic()
    say(f"starting a Kubernetes control plane{' and a real node' if node else ''} ...")
    with ExitStack() as stack:
        host = network.HOST if node else ""
        control_plane = stack.enter_context(ControlPlane.start(directory / "control-plane", host=host))
        if node:
            stack.enter_context(Node.start(directory, control_plane))
        say(f"Kubernetes is ready after {time.monotonic() - started:.1f} s, at {control_plane.url}")
        yield control_plane


def _check(cluster: Cluster, server: str) -> None:
    """Refuse a cluster that does not answer, or that has objects which the demo would disturb."""
    try:
        cluster.kubectl("get", "--raw=/api/v1/namespaces?limit=1", "--request-timeout=10s")
    except KubectlFailed as error:
        reason = str(error).splitlines()[-1]
        raise KubectlFailed(
            f"{server} is of no use: {reason}\n"
            "Check KUBECONFIG and CONTEXT; without both, the demo starts a control plane of its own."
        ) from None
    if cluster.kubectl("get", "namespace", manifests.NAMESPACE, "--ignore-not-found"):
        raise KubectlFailed(f"namespace {manifests.NAMESPACE} exists: delete it, or wait until it is gone")
    if bound := cluster.kubectl("get", "secrets", "-A", "-l", "keyturn.dev/bind=true", "-o", "name").split():
        raise KubectlFailed(
            f"{len(bound)} Secrets of this cluster are bound already, and the demo's receiver would look for their "
            "values in the demo's AWS: use a cluster without Keyturn"
        )


def _first(error: BaseException) -> BaseException:
    """Return the original failure. ``error`` may be a later failure that happened during the clean-up."""
    while isinstance(error.__context__, FAILURES):
        error = error.__context__
    return error


def _keep(stack: Stack, node: bool) -> None:
    """Print how to use the running parts. Wait for Ctrl-C."""
    kubectl = shlex.join(stack.cluster.command)
    environment = " ".join(f"{name}={value}" for name, value in stack.aws.environment().items())
    receiver_log, page = f"less {stack.directory}/receiver.log", f"open {stack.receiver.page_url}"
    heading("Everything keeps running, until Ctrl-C")
    if node:
        outer = enclosure.cgroup().removeprefix(cgroups.PREFIX)
        say(f"\n  enter:    nsenter --target {outer} --mount --net    # the rest works only in there")
        receiver_log = f"{kubectl} logs -n {manifests.NAMESPACE} -l {RECEIVERS}"
        page = f"{kubectl} port-forward -n {manifests.NAMESPACE} deploy/{NAME} 9091    # then {page}"
    put = f"{TOOLS}/aws secretsmanager put-secret-value --secret-id {manifests.API_TOKEN}"
    say(f"""
  look:     {kubectl} get secrets,deploy,sts,ds,pods -n {manifests.NAMESPACE}
            {kubectl} get secret database -n {manifests.NAMESPACE} -o yaml --show-managed-fields
            {kubectl} events -n {manifests.NAMESPACE} --for secret/database
  page:     {page}
  metrics:  curl {stack.receiver.operations_url}/metrics
  logs:     {receiver_log}
  AWS:      export {environment}
            {TOOLS}/aws logs tail {stack.aws.outputs["NotifierLogGroup"]}
            {put} --secret-string "$(openssl rand -hex 16)"
""")
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("\nstopping")


if __name__ == "__main__":
    sys.exit(main())
