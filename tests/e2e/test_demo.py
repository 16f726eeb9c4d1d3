"""`make demo`, as a user runs it."""

import os
import re
import signal
import subprocess
import sys

import boto3

from keyturn_local.aws import IMPORT_ROOTS
from keyturn_local.control_plane import CONTEXT, ControlPlane
from objects import data_of, eventually

DEMO = [sys.executable, "-m", "keyturn_local.demo"]


def environment(**more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    return {**inherited, "PYTHONPATH": IMPORT_ROOTS, **more}


def test_the_demo_ends_with_every_claim_held() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=240, env=environment())
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "BROKEN" not in done.stdout
    steps = ["label moved", "queued", "taken by the notifier", "Secret applied", "delivered", "pods replaced: web"]
    first = done.stdout[done.stdout.index("Act 1") :]
    positions = [first.index(step) for step in steps]
    assert positions == sorted(positions)
    assert len(re.findall(r"^ +\d+ ms  ", done.stdout, re.MULTILINE)) >= 20
    assert re.search(r"Verdict: (\d+) of \1 claims held", done.stdout)


def test_kept_it_can_be_rotated_by_hand_as_it_says_and_ends_with_ctrl_c_on_a_clean_cluster(
    control_plane: ControlPlane,
) -> None:
    """On a cluster of the user's own: here one that was there before."""
    mine = environment(KUBECONFIG=str(control_plane.kubeconfig))
    command = [*DEMO, "--keep", "--context", CONTEXT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=mine) as demo:
        try:
            assert demo.stdout is not None
            printed = ""
            while "put-secret-value" not in printed and (line := demo.stdout.readline()):
                printed += line
            assert f"using your cluster at {control_plane.url}" in printed
            rotate_as_printed(printed)
            eventually(lambda: data_of(control_plane, "keyturn-demo", "api-token") == {"value": b"by-hand"})
            demo.send_signal(signal.SIGINT)
            demo.stdout.read()
            assert demo.wait(60) == 0
        finally:
            demo.kill()
    left = control_plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "keyturn-demo" not in left
    control_plane.kubectl("wait", "--for=delete", "namespace/keyturn-demo", "--timeout=60s")


def rotate_as_printed(printed: str) -> None:
    """Do with boto3 what the demo says to do with the AWS CLI, in the environment it says."""
    exported = re.search(r"export (.*)", printed)
    assert exported is not None
    variables = dict(pair.split("=", 1) for pair in exported[1].split())
    client = boto3.client(
        "secretsmanager",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )
    client.put_secret_value(SecretId="demo/api-token", SecretString="by-hand")


def test_a_context_that_does_not_exist_is_told_and_nothing_is_started() -> None:
    done = subprocess.run(
        [*DEMO, "--context", "no-such-context"], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 2
    assert "no-such-context" in done.stdout
