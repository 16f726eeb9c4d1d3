"""docs/rollouts.md, checked against the code."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import read_consumer
from keyturn_receiver.core.reloader import EXCLUDED, IGNORE, MATCH, SELECTING
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import GROUP_VERSIONS, WORKLOAD_KINDS
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from support import reloader

PAGE = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()


def item(kind: str, name: str, pod: dict[str, Any], owner: str = "", group: str = "") -> dict[str, Any]:
    version = f"{group}/v1" if group else GROUP_VERSIONS.get(owner, "v1")
    owners = {"ownerReferences": [{"apiVersion": version, "kind": owner, "name": "x"}]} if owner else {}
    metadata = {"name": name, **owners}
    spec = pod if kind == "Pod" else {"template": {"spec": pod}}
    return {"kind": kind, "metadata": metadata, "spec": {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec}


def test_command_lists_the_readers_that_nobody_restarts() -> None:
    (command,) = re.findall(r"^kubectl get pods.*?(?=^```)", PAGE, re.DOTALL | re.MULTILINE)
    variable = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": "a"}}}
    items = [
        item("Pod", "env", {"containers": [{"env": [variable]}]}),
        item("Pod", "other", {"containers": [{"envFrom": [{"secretRef": {"name": "cache"}}]}]}),
        *(
            item("Pod", f"of-{owner.lower()}", {"containers": [{"env": [variable]}]}, owner)
            for owner in ("ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Kafka")
        ),
        *(
            item(kind, f"of-{owner.lower()}", {"containers": [{"env": [variable]}]}, owner)
            for kind, owner in (("ReplicaSet", "Deployment"), ("ReplicaSet", "Rollout"), ("Job", "CronJob"))
        ),
        *(
            item("Pod", f"of-{group}", {"containers": [{"env": [variable]}]}, owner, group)
            for owner, group in (("StatefulSet", "apps.kruise.io"), ("Job", "batch.volcano.sh"))
        ),
        item("ReplicaSet", "all", {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}),
        item("Job", "volume", {"volumes": [{"secret": {"secretName": "db"}}]}),
        item("CronJob", "projected", {"volumes": [{"projected": {"sources": [{"secret": {"name": "db"}}]}}]}),
        item("CronJob", "nothing", {}),
    ]
    # The fake ``kubectl`` prints what the API server would return.
    script = f"kubectl() {{ cat <<'END'\n{json.dumps({'items': items})}\nEND\n}}\n{command}"
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout  # noqa: S607
    others = ["Pod/of-kafka", "Pod/of-apps.kruise.io", "Pod/of-batch.volcano.sh"]
    assert told.split() == ["Pod/env", *others, "ReplicaSet/all", "Job/volume", "CronJob/projected"]


ROWS = re.findall(r"^\| (enabled|disabled) \|(.*)\|(.*)\|(.*)\|(.*)\| (yes|no) \|$", PAGE, re.MULTILINE)


def switch(text: str) -> dict[str, str]:
    return {"keyturn.dev/rollout": text.strip()} if text.strip() else {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(each.strip() or "unset" for each in row))
def test_table_of_levels_says_what_is_decided(row: tuple[str, ...]) -> None:
    default, on_namespace, on_secret, on_workload, on_template, restart = row
    namespaces = NamespaceCache()
    namespaces.update(namespaces.transform({"metadata": {"name": "team", "annotations": switch(on_namespace)}}))
    pod = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}
    template = {"metadata": {"annotations": switch(on_template)}, "spec": pod}
    metadata = {"namespace": "team", "name": "web", "resourceVersion": "1", "annotations": switch(on_workload)}
    consumer = read_consumer(WORKLOAD_KINDS["Deployment"], {"metadata": metadata, "spec": {"template": template}})
    assert consumer is not None
    policy = RolloutPolicy(namespaces, Switch(default))
    assert policy.permits(consumer, Target("team", "db"), read_spec(switch(on_secret))) is (restart == "yes")


def test_table_of_levels_was_found() -> None:
    assert len(ROWS) == 10


def test_every_row_about_reloader_has_cases_that_a_test_plays() -> None:
    rows = re.findall(r"^\| (R\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert [number for number, *_ in rows] == list(reloader.ROWS) == [f"R{n + 1}" for n in range(len(rows))]
    assert all(reloader.ROWS.values())


def test_every_annotation_of_reloader_that_counts_is_in_the_table() -> None:
    table = PAGE.partition("| row |")[2].partition("\n\n")[0]
    for name in (*SELECTING, MATCH, IGNORE, EXCLUDED):
        assert f"`{name}" in table, name
