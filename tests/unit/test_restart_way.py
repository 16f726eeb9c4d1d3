"""The annotation that says how the pods of a workload are restarted."""

from typing import Any

import pytest

from keyturn_receiver.core.consumer import Consumer, read_consumer
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, PAUSED
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS

RESTART = "keyturn.dev/restart"


def consumer(own: str | None, on_template: str | None = None, **spec: Any) -> Consumer:
    metadata = {"namespace": "team", "name": "web", "resourceVersion": "1"}
    annotations, of_template = ({RESTART: text} if text is not None else {} for text in (own, on_template))
    pod = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}
    template = {"metadata": {"annotations": of_template}, "spec": pod}
    made = read_consumer(
        WORKLOAD_KINDS["Deployment"],
        {"metadata": {**metadata, "annotations": annotations}, "spec": {"template": template, **spec}},
    )
    assert made
    return made


@pytest.mark.parametrize(
    ("own", "on_template", "evicts"),
    [
        (None, None, False),
        ("template", None, False),
        ("evict", None, True),
        (" evict\n", None, True),
        (None, "evict", True),
        ("evict", "template", False),  # the innermost one decides
        ("template", "evict", True),
    ],
)
def test_innermost_annotation_decides(own: str | None, on_template: str | None, evicts: bool) -> None:
    made = consumer(own, on_template)
    assert (made.evicts, made.faults, made.switch) == (evicts, (), Switch.UNSET)


@pytest.mark.parametrize("text", ["", "Evict", "evicted", "true", "x" * 1000])
def test_text_that_is_not_understood_restarts_nobody_and_is_told(text: str) -> None:
    advice = "write evict, or template, which is the default"
    assert consumer(text).faults == (f'annotation {RESTART} is "{text[:40]}": {advice}',)
    assert consumer(None, text).faults == (f'annotation {RESTART} on the pod template is "{text[:40]}": {advice}',)
    assert consumer("evict", text).switch is Switch.UNKNOWN


def test_settings_that_hold_a_changed_template_hold_no_eviction() -> None:
    assert consumer("template", paused=True).hold is PAUSED
    assert consumer("evict", paused=True).hold is None
    assert consumer("evict", replicas=0).hold is NO_REPLICAS
