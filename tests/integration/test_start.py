"""The start of the receiver, and its messages when it cannot start."""

import os
import subprocess
import sys

import pytest

from keyturn_local.processes.environment import IMPORT_ROOTS


def start(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": IMPORT_ROOTS, **settings}
    command = [sys.executable, "-m", "keyturn_receiver"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "KEYTURN_SIGNING_KEY_SECRET_ID"),
        ({}, "KEYTURN_SIGNING_KEY_FILE"),
        ({"KEYTURN_SIGNING_KEY_FILE": "/keys", "KEYTURN_DELETIONS": "perhaps"}, "KEYTURN_DELETIONS"),
        ({"KEYTURN_SIGNING_KEY_SECRET_ID": "a", "KEYTURN_PORT": "eighty"}, "KEYTURN_PORT"),
        ({"KEYTURN_SIGNING_PUBLIC_KEYS": "whpk_nonsense"}, "KEYTURN_SIGNING_PUBLIC_KEYS"),
        ({"KEYTURN_SIGNING_KEY_SECRET_ID": "a", "KEYTURN_POLICY_DEFAULT": "maybe"}, "KEYTURN_POLICY_DEFAULT"),
    ],
)
def test_wrong_setting_is_named_and_ends_the_receiver(settings: dict[str, str], named: str) -> None:
    done = start(**settings)
    assert done.returncode == 2
    assert named in done.stderr
    assert "docs/settings.md" in done.stderr


def test_missing_cluster_is_reported_without_quoting_the_kubeconfig() -> None:
    done = start(KEYTURN_SIGNING_KEY_SECRET_ID="a", AWS_REGION="us-east-1", KUBECONFIG="/nowhere")
    assert done.returncode == 1
    assert '"level": "CRITICAL"' in done.stdout
    assert "ConfigException" in done.stdout
