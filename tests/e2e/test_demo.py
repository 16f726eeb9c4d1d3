"""`make demo`, run the way a user runs it."""

import os
import re
import signal
import subprocess
from pathlib import Path

from keyturn_local.kubernetes.control_plane import CONTEXT, ControlPlane
from keyturn_local.processes.environment import IMPORT_ROOTS
from support.cluster_state import data_of
from support.demo_output import DEMO, all_values, client_from_printed_env, contains_value, read_until_done, step_times
from support.manifests import secret
from support.wait import eventually


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user who has set a proxy and an AWS endpoint at which nothing answers."""
    more = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "AWS_PROFILE": "mine", **more}
    more["AWS_ENDPOINT_URL_SECRETSMANAGER"] = "http://127.0.0.1:9"
    inherited = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    return {**inherited, "PYTHONPATH": IMPORT_ROOTS, **more}


def test_demo_ends_with_every_claim_held() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=240, env=environment())
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "BROKEN" not in done.stdout
    first, second, cut, unread = step_times(done.stdout)
    on_the_way = {"label moved", "queued", "taken by the notifier", "Secret applied", "delivered"}
    assert first.keys() == on_the_way | {"pods replaced: web", "pods replaced: queue"}
    assert second.keys() == on_the_way | {"pods replaced: agent"}
    assert cut.keys() == {"label moved", "Secret applied", "pods replaced: web", "pods replaced: queue"}
    assert unread.keys() == on_the_way
    for timeline in (first, second, unread):
        assert [*timeline][:3] == ["label moved", "queued", "taken by the notifier"]
        # A watch tells when the Secret was applied, possibly later than the notifier's log tells of the delivery.
        assert timeline["Secret applied"] < 1000
    for timeline in (first, second, cut, unread):
        assert [*timeline.values()] == sorted(timeline.values())
    assert re.search(r"Verdict: (\d+) of \1 claims held", done.stdout)


def test_kept_demo_rotates_by_hand_and_leaves_a_clean_cluster(
    control_plane: ControlPlane,
) -> None:
    """The demo runs in the user's own cluster. In this test, that is a control plane that is already running."""
    mine = environment(KUBECONFIG=str(control_plane.kubeconfig))
    command = [*DEMO, "--keep", "--context", CONTEXT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=mine) as demo:
        try:
            printed = read_until_done(demo)
            assert f"using your cluster at {control_plane.url}" in printed
            client = client_from_printed_env(printed)
            assert not contains_value(printed, all_values(client))
            client.put_secret_value(SecretId="demo/api-token", SecretString="by-hand")
            eventually(lambda: data_of(control_plane, "keyturn-demo", "api-token") == {"value": b"by-hand"})
            demo.send_signal(signal.SIGINT)
            demo.communicate()
            assert demo.wait(60) == 0
        finally:
            demo.kill()
    left = control_plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "keyturn-demo" not in left
    control_plane.kubectl("wait", "--for=delete", "namespace/keyturn-demo", "--timeout=120s")


def test_unknown_context_is_reported_and_starts_nothing() -> None:
    done = subprocess.run(
        [*DEMO, "--context", "no-such-context"], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 2
    assert "no-such-context" in done.stdout


def test_cluster_without_answer_is_reported_within_seconds(control_plane: ControlPlane, tmp_path: Path) -> None:
    nobody = tmp_path / "kubeconfig"
    nobody.write_text(control_plane.kubeconfig.read_text().replace(control_plane.url, "https://127.0.0.1:1"))
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=60, env=environment(KUBECONFIG=str(nobody)))
    assert done.returncode == 2
    assert "https://127.0.0.1:1 is of no use" in done.stdout
    assert "Check KUBECONFIG" in done.stdout


def test_cluster_with_bound_secrets_is_left_alone(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([secret(namespace, "db", f"{namespace}/db")])
    mine = environment(KUBECONFIG=str(control_plane.kubeconfig))
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=60, env=mine)
    assert done.returncode == 2
    assert "use a cluster without Keyturn" in done.stdout
    assert "keyturn-demo" not in control_plane.kubectl("get", "namespaces", "-o", "name")
