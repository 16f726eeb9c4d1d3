"""Messages of the command line that advise a command: the command is about the same target, and works when pasted."""

import json
import re
import shlex
from pathlib import Path

import pytest

from keyturn_local.kubernetes.cluster import write_kubeconfig
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import cli
from support.manifests import secret

CONTEXT = "my blue cluster"
OTHER_VERSION = "0" * 31 + "2"


@pytest.fixture
def kubeconfig(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Path:
    """A kubeconfig whose current context leads nowhere, so that a lost ``--context`` is an error. A Secret is bound."""
    content = json.loads(control_plane.kubectl("config", "view", "--raw", "-o", "json"))
    content["contexts"] += [{**content["contexts"][0], "name": CONTEXT}]
    content["contexts"][0]["context"] = {"cluster": "gone", "user": "gone"}
    content["clusters"] += [{"name": "gone", "cluster": {"server": "https://127.0.0.1:1"}}]
    write_kubeconfig(tmp_path / "config", content)
    control_plane.create([secret(namespace, "db", f"{namespace}/other")])
    return tmp_path / "config"


def pasted(kubeconfig: Path, text: str) -> cli.Ran:
    """Run the first command that a text advises."""
    found = re.search(r"(keyturn [a-z]+ .*?)(?:, or |, and |;|$)", text.strip(), re.MULTILINE)
    assert found, text
    return cli.run(kubeconfig, *shlex.split(found[1])[1:])


def test_wait_that_times_out_advises_a_trace_of_the_same_secret(kubeconfig: Path, namespace: str) -> None:
    place = ("-n", namespace, "--context", CONTEXT, "--release", "ops/blue")
    ran = cli.run(kubeconfig, "wait", "db", *place, "--version", OTHER_VERSION, "--timeout", "1s")
    assert ran.code == 3
    told = f"see why: keyturn trace db -n {namespace} --context '{CONTEXT}' --release ops/blue\n"
    assert ran.err.endswith(told)
    shown = pasted(kubeconfig, told)
    assert shown.out.startswith(f"Secret {namespace}/db  version none")


def test_secret_that_no_receiver_has_seen_has_a_next_step(kubeconfig: Path, namespace: str) -> None:
    told = (
        "✗ Secret {0}/db  no receiver has looked at it yet: wait a minute; then run {1}, or ask those who run Keyturn"
    )
    ran = cli.run(kubeconfig, "trace", "db", "-n", namespace, "--context", CONTEXT, "--release", "ops/blue")
    assert told.format(namespace, f"keyturn doctor --context '{CONTEXT}' --release ops/blue") in ran.out
    ran = cli.run(kubeconfig, "explain", "db", "-n", namespace, "--context", CONTEXT)
    assert (
        f"not filled: no receiver has looked at it yet: wait a minute; then run keyturn doctor --context '{CONTEXT}'"
        in (ran.out)
    )
    ran = cli.run(kubeconfig, "status", namespace, "--context", CONTEXT)
    assert f"  no receiver has looked at it yet: keyturn doctor --context '{CONTEXT}'\n" in ran.out


def test_reconcile_advises_the_status_of_the_same_secret(kubeconfig: Path, namespace: str) -> None:
    ran = cli.run(kubeconfig, "reconcile", "db", "-n", namespace, "--context", CONTEXT)
    assert f"keyturn status {namespace}/db --context" in ran.out
    assert "db" in pasted(kubeconfig, ran.out.partition(": ")[2]).out


def test_missing_secret_advises_the_list_of_the_same_place(kubeconfig: Path, namespace: str) -> None:
    for place, told in (((), "status -A"), (("-n", namespace), f"status -n {namespace}")):
        ran = cli.run(kubeconfig, "trace", "nothing", "--context", CONTEXT, *place)
        assert f"see what is bound: keyturn {told} --context '{CONTEXT}'\n" in ran.err
        assert "db" in pasted(kubeconfig, ran.err).out


def test_doctor_advises_for_the_same_cluster_and_stack(
    kubeconfig: Path, control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("annotate", "secret", "db", "keyturn.dev/status=Wrong: x", "-n", namespace)
    ran = cli.run(kubeconfig, "doctor", "--context", CONTEXT, "-o", "json")
    remedies = [each["remedy"] for each in ran.data["findings"]]
    assert f"keyturn status -A --failing --context '{CONTEXT}'" in remedies
    assert "db" in pasted(kubeconfig, f"keyturn status -A --failing --context '{CONTEXT}'").out
