"""A release without deliveries (poller-first) on a real node. With the configuration that the chart gives its pods, the
receivers become ready and the poller keeps the Secret current, even behind a proxy."""

from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.helm import RECEIVERS, installed_release, node_values
from support.team import team
from support.wait import eventually

# Nobody answers at this address. The tests' AWS is called by plain HTTP, and this proxy is only for HTTPS.
PROXY = {"url": "http://192.0.2.1:3128", "noProxy": ["172.20.0.0/16"]}


def test_pods_without_a_stack_fill_secrets_and_never_ask_the_proxy_for_the_api_server(
    control_plane: ControlPlane, aws: LocalAws
) -> None:
    first = {"deliveries": {"enabled": False}, "poller": {"intervalSeconds": 5}, "proxy": PROXY}
    with (
        installed_release(control_plane, node_values(aws, "", **first)) as release,
        team(control_plane, aws, "db") as made,
    ):
        assert release.cluster.list("services", release.namespace) == []
        for pod in release.pods():
            assert release.ask(pod, "/readyz").text == "ok\n"
            (container,) = pod["spec"]["containers"]
            assert {"name": "HTTPS_PROXY", "value": PROXY["url"]} in container["env"]
        made.rotate("db")
        eventually(made.is_current, 30)
        assert len(release.helm.ready_pods(RECEIVERS)) == 2
