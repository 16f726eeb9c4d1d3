"""`make demo`, as a user runs it."""

import os
import re
import subprocess
import sys

from keyturn_local.aws import IMPORT_ROOTS


def test_the_demo_ends_with_every_claim_held_and_leaves_nothing() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    done = subprocess.run(
        [sys.executable, "-m", "keyturn_local.demo"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**environment, "PYTHONPATH": IMPORT_ROOTS},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "BROKEN" not in done.stdout
    steps = ["label moved", "queued", "taken by the notifier", "Secret applied", "delivered", "pods replaced: web"]
    first = done.stdout[done.stdout.index("Act 1") :]
    positions = [first.index(step) for step in steps]
    assert positions == sorted(positions)
    assert len(re.findall(r"^ +\d+ ms  ", done.stdout, re.MULTILINE)) >= 20
    assert re.search(r"Verdict: (\d+) of \1 claims held", done.stdout)


def test_a_context_that_does_not_exist_is_told_and_nothing_is_started() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keyturn_local.demo", "--context", "no-such-context"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": IMPORT_ROOTS},
    )
    assert done.returncode == 2
    assert "no-such-context" in done.stdout
