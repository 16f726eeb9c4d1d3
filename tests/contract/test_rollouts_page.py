"""docs/rollouts.md, checked against the code."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()


def item(kind: str, name: str, pod: dict[str, Any], owned: bool = False) -> dict[str, Any]:
    metadata = {"name": name, **({"ownerReferences": [{"name": "x"}]} if owned else {})}
    spec = pod if kind == "Pod" else {"template": {"spec": pod}}
    return {"kind": kind, "metadata": metadata, "spec": {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec}


def test_command_lists_the_readers_that_nobody_restarts() -> None:
    (command,) = re.findall(r"^kubectl get pods.*?(?=^```)", PAGE, re.DOTALL | re.MULTILINE)
    variable = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": "a"}}}
    items = [
        item("Pod", "env", {"containers": [{"env": [variable]}]}),
        item("Pod", "other", {"containers": [{"envFrom": [{"secretRef": {"name": "cache"}}]}]}),
        item("Pod", "owned", {"containers": [{"env": [variable]}]}, owned=True),
        item("ReplicaSet", "all", {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}),
        item("Job", "volume", {"volumes": [{"secret": {"secretName": "db"}}]}),
        item("CronJob", "projected", {"volumes": [{"projected": {"sources": [{"secret": {"name": "db"}}]}}]}),
        item("CronJob", "nothing", {}),
    ]
    # The fake ``kubectl`` prints what the API server would return.
    script = f"kubectl() {{ cat <<'END'\n{json.dumps({'items': items})}\nEND\n}}\n{command}"
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout  # noqa: S607
    assert told.split() == ["Pod/env", "ReplicaSet/all", "Job/volume", "CronJob/projected"]
