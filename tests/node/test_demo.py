"""`make demo NODE=real` on the running node. The receivers run in pods, and real processes report which values they
use."""

import os
import re
import signal
import subprocess

from keyturn_local.demo import manifests
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.environment import IMPORT_ROOTS
from keyturn_local.receiver.release import RECEIVERS
from support.cluster_state import data_of
from support.demo_output import DEMO, all_values, client_from_printed_env, contains_value, read_until_done, step_times
from support.wait import eventually

IN_USE = {app: f"new value in use: {app}" for app in manifests.READS}
TELLING = (RECEIVERS, *(f"app={app}" for app in manifests.READS))
BOUND = ("secrets", "-A", "-l", "keyturn.dev/bind=true", "-o", "name")


def test_demo_ends_with_the_new_value_in_use_and_every_claim_held(control_plane: ControlPlane) -> None:
    eventually(lambda: not control_plane.kubectl("get", *BOUND))  # until the Secrets of other tests are gone
    mine = {**os.environ, "PYTHONPATH": IMPORT_ROOTS, "KUBECONFIG": str(control_plane.kubeconfig)}
    with subprocess.Popen([*DEMO, "--node", "--keep"], stdout=subprocess.PIPE, text=True, env=mine) as demo:
        try:
            printed = read_until_done(demo)
            print(printed)
            assert "BROKEN" not in printed
            assert re.search(r"Verdict: (\d+) of \1 claims held", printed)
            first, second, cut, unread = step_times(printed)
            read_by = {"database": ("web", "queue"), "api-token": ("agent",)}
            for timeline, secret_name in ((first, "database"), (second, "api-token"), (cut, "database")):
                assert timeline.keys() & {*IN_USE.values()} == {IN_USE[app] for app in read_by[secret_name]}
                assert all(timeline["Secret applied"] < timeline[IN_USE[app]] for app in read_by[secret_name])
            assert not unread.keys() & {*IN_USE.values()}

            client = client_from_printed_env(printed)
            values = all_values(client)
            logs = [control_plane.kubectl("logs", "-n", manifests.NAMESPACE, f"--selector={each}") for each in TELLING]
            assert all(logs)
            assert not contains_value("\n".join([printed, *logs]), values)
            client.put_secret_value(SecretId=manifests.API_TOKEN, SecretString="by-hand")
            eventually(lambda: data_of(control_plane, manifests.NAMESPACE, "api-token") == {"value": b"by-hand"})

            demo.send_signal(signal.SIGINT)
            demo.communicate()
            assert demo.wait(60) == 0
        finally:
            demo.kill()
    control_plane.kubectl("wait", "--for=delete", f"namespace/{manifests.NAMESPACE}", "--timeout=120s")
    left = control_plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert manifests.NAMESPACE not in left
