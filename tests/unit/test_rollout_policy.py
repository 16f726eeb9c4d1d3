"""Rollout policy: which level of ``keyturn.dev/rollout`` decides, for every combination of what the levels say."""

from itertools import product
from typing import Any

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import Consumer, read_consumer
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch, switch_faults
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy

DB = Target("team", "db")
TEXTS = (None, "enabled", "disabled", "off")  # what an author may write on a level


def annotations(text: str | None) -> dict[str, str]:
    return {} if text is None else {"keyturn.dev/rollout": text}


def consumer(on_workload: str | None, on_template: str | None) -> Consumer:
    pod = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}
    made = read_consumer(
        WORKLOAD_KINDS["Deployment"],
        {
            "metadata": {
                "namespace": "team",
                "name": "web",
                "resourceVersion": "1",
                "annotations": annotations(on_workload),
            },
            "spec": {"template": {"metadata": {"annotations": annotations(on_template)}, "spec": pod}},
        },
    )
    assert made is not None
    return made


def policy(default: str, on_namespace: str | None) -> RolloutPolicy:
    namespaces = NamespaceCache()
    made: dict[str, Any] = {"metadata": {"name": "team", "annotations": annotations(on_namespace)}}
    namespaces.update(namespaces.transform(made))
    return RolloutPolicy(namespaces, Switch(default))


@pytest.mark.parametrize("default", ["enabled", "disabled"])
@pytest.mark.parametrize("on_namespace", TEXTS)
def test_innermost_level_that_says_something_decides(default: str, on_namespace: str | None) -> None:
    rollouts = policy(default, on_namespace)
    for on_secret, on_workload, on_template in product(TEXTS, repeat=3):
        told = [each for each in (default, on_namespace, on_secret, on_workload, on_template) if each]
        expected = "off" not in told and told[-1] == "enabled"
        permitted = rollouts.permits(consumer(on_workload, on_template), DB, read_spec(annotations(on_secret)))
        assert permitted is expected, told


def test_fault_of_a_workload_forbids_its_restarts_whatever_it_says() -> None:
    pod = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}
    on_workload = {"keyturn.dev/rollout": "enabled", "keyturn.dev/rolout": "enabled"}
    metadata = {"namespace": "team", "name": "web", "resourceVersion": "1", "annotations": on_workload}
    made = read_consumer(WORKLOAD_KINDS["Deployment"], {"metadata": metadata, "spec": {"template": {"spec": pod}}})
    assert made is not None
    assert not policy("enabled", "enabled").permits(made, DB, read_spec(annotations("enabled")))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Enabled", "enabled"),
        ("enable", "enabled"),
        ("true", "enabled"),
        ("TRUE", "enabled"),
        ("on", "enabled"),
        ("auto", "enabled"),
        ("enabeld", "enabled"),
        ("disable", "disabled"),
        ("DISABLED", "disabled"),
        ("dissabled", "disabled"),
        ("false", "disabled"),
        ("off", "disabled"),
        ("never", "disabled"),
        ("ignore", "disabled"),
    ],
)
def test_text_that_is_not_understood_is_told_with_the_nearest_word(text: str, meant: str) -> None:
    assert read_switch(annotations(text)) is Switch.UNKNOWN
    assert switch_faults(annotations(text)) == (
        f'annotation keyturn.dev/rollout is "{text}": did you mean {meant}? write enabled or disabled',
    )


@pytest.mark.parametrize("text", ["", "later", "x" * 100_000])
def test_text_that_resembles_no_word_is_told_without_one(text: str) -> None:
    assert switch_faults(annotations(text)) == (
        f'annotation keyturn.dev/rollout is "{text[:40]}": write enabled or disabled',
    )


def test_blanks_around_a_word_do_no_harm() -> None:
    assert read_switch(annotations(" disabled\n")) is Switch.DISABLED
    assert switch_faults(annotations(" enabled ")) == ()


def test_levels_that_say_nothing_are_unset_together() -> None:
    assert innermost() is innermost(Switch.UNSET, Switch.UNSET) is Switch.UNSET
