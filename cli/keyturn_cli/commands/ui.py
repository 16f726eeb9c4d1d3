"""`keyturn ui`: opens the status page of a receiver."""

import shutil
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from keyturn_cli.cluster import Cluster
from keyturn_cli.doctor.cluster_reader import configuration_of, is_ready, receiver_pods
from keyturn_cli.errors import CliError, UsageError, reported
from keyturn_cli.options import DEFAULT_RELEASE, Context, ReleaseName, read_release
from keyturn_cli.output import Output
from keyturn_cli.port_forward import by_client, by_kubectl, check_page, free_port
from keyturn_cli.release import find_deployment
from keyturn_receiver.core.json_access import as_object

PAGE_PORT = 9091  # on the pod's loopback; the chart's values can change it


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

    A receiver serves the page only on its pod's loopback, so this forwards a port to it. That takes the rights to get
    pods and to create pods/portforward in the release's namespace.
    """
    out = Output()
    cluster = Cluster.connect(context)
    if cluster.in_pod:
        raise UsageError("a pod has no browser", "run keyturn ui on your own machine")
    chosen = read_release(release)
    deployment = find_deployment(cluster, chosen)
    configuration = configuration_of(deployment)
    if not configuration.is_on("KEYTURN_STATUS_PAGE", True):
        raise CliError(f"release {release} serves no status page", "set the chart's value statusPage.enabled")
    pods = sorted(receiver_pods(cluster, chosen.namespace, deployment), key=is_ready, reverse=True)
    if not pods:
        raise CliError(f"release {release} has no pod", "run keyturn doctor")
    pod = str(as_object(pods[0].get("metadata")).get("name"))
    local = free_port(port)
    page_port = int(configuration.settings.get("KEYTURN_STATUS_PAGE_PORT") or PAGE_PORT)
    with _forwarded(cluster, chosen.namespace, pod, (local, page_port)) as wait:
        check_page(local)
        url = f"http://127.0.0.1:{local}/"
        out.line(f"{url}  (pod {pod}; Ctrl-C ends it)")
        if browser:
            webbrowser.open(url)
        wait()


def _forwarded(
    cluster: Cluster, namespace: str, pod: str, ports: tuple[int, int]
) -> AbstractContextManager[Callable[[], None]]:
    local, page_port = ports
    if kubectl := shutil.which("kubectl"):
        where = ["--context", cluster.context, "-n", namespace, f"pod/{pod}"]
        return by_kubectl([kubectl, "port-forward", *where, f"{local}:{page_port}"], local)
    return by_client(lambda: cluster.dial(namespace, pod, page_port), local)
