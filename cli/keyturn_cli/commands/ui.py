"""`keyturn ui`: opens the status page of a receiver."""

import shutil
import signal
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from keyturn_cli.advice import advised
from keyturn_cli.cluster import Cluster
from keyturn_cli.doctor.cluster_reader import configuration_of, is_ready, receiver_pods
from keyturn_cli.errors import CliError, UsageError, reported
from keyturn_cli.options import DEFAULT_RELEASE, Context, Release, ReleaseName, read_release
from keyturn_cli.output import Output
from keyturn_cli.port_forward import Disconnected, by_client, by_kubectl, check_page, free_port
from keyturn_cli.release import find_deployment
from keyturn_receiver.core.json_access import as_object

PAGE_PORT = 9091  # on the pod's loopback; the chart's values can change it
AGAIN_SECONDS = 120.0  # seconds without a connection after which the command ends
PAUSE = 1.0  # seconds between two attempts to connect again


@reported
def ui(
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of this machine; another one if it is taken.")
    ] = PAGE_PORT,
    context: Context = None,
    release: ReleaseName = DEFAULT_RELEASE,
) -> None:
    """Open the status page, until Ctrl-C.

    A receiver serves the page only on its pod's loopback, so this forwards a port to it. If the pod goes, the same
    port is forwarded to another pod. The rights that this takes are in docs/cli.md.
    """
    out = Output()
    cluster = Cluster.connect(context)
    if cluster.in_pod:
        raise UsageError("a pod has no browser", f"run {advised('ui')} on your own machine")
    chosen, local = read_release(release), free_port(port)
    url = f"http://127.0.0.1:{local}/"
    # SIGTERM raises SystemExit, so that the clean-up ends kubectl, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    shown, deadline = False, 0.0
    while True:
        try:
            pod, page_port = _find_page(cluster, chosen)
            with _forwarded(cluster, chosen.namespace, pod, (local, page_port)) as wait:
                check_page(local)
                out.line(f"{url}  (pod {pod}; Ctrl-C ends it)")
                if browser and not shown:
                    webbrowser.open(url)
                shown = True
                wait()
        except Disconnected as ended:
            out.note(f"The connection to pod {pod} has ended: {ended}. Connecting again.")
            deadline = time.monotonic() + AGAIN_SECONDS
        except CliError:
            if not shown or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def _find_page(cluster: Cluster, release: Release) -> tuple[str, int]:
    """Return the name of a receiver's pod, a ready one if there is one, and the port of its page. Raises CliError."""
    deployment = find_deployment(cluster, release)
    configuration = configuration_of(deployment)
    if not configuration.is_on("KEYTURN_STATUS_PAGE", True):
        raise CliError(
            f"release {release.namespace}/{release.name} serves no status page",
            "set the chart's value statusPage.enabled",
        )
    pods = sorted(receiver_pods(cluster, release.namespace, deployment), key=is_ready, reverse=True)
    if not pods:
        raise CliError(f"release {release.namespace}/{release.name} has no pod", f"run {advised('doctor')}")
    page_port = int(configuration.settings.get("KEYTURN_STATUS_PAGE_PORT") or PAGE_PORT)
    return str(as_object(pods[0].get("metadata")).get("name")), page_port


def _forwarded(
    cluster: Cluster, namespace: str, pod: str, ports: tuple[int, int]
) -> AbstractContextManager[Callable[[], None]]:
    local, page_port = ports
    if kubectl := shutil.which("kubectl"):
        where = ["--context", cluster.context, "-n", namespace, f"pod/{pod}"]
        return by_kubectl([kubectl, "port-forward", *where, f"{local}:{page_port}"])
    return by_client(lambda: cluster.dial(namespace, pod, page_port), local)
