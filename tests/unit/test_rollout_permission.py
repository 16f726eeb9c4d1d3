"""Which consumers may be restarted, with all levels together."""

from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.reloader import ReloaderMode, ReloaderRules
from keyturn_receiver.core.rollout_permission import OuterLevels, is_left_to_reloader, permits, refusal
from keyturn_receiver.core.rollout_switch import Switch

TARGET = Target("team", "db")
ROLLOUT = "keyturn.dev/rollout"


def consumer(**fields: Any) -> Consumer:
    ref = WorkloadRef("Deployment", "team", "web")
    return Consumer(ref, "1", {"db": Reads(whole=True)}, {}, {}, **{"switch": Switch.UNSET, **fields})


def ask(
    each: Consumer,
    on_secret: dict[str, str] | None = None,
    in_namespace: dict[str, str] | None = None,
    default: Switch = Switch.ENABLED,
    mode: ReloaderMode = ReloaderMode.ABSENT,
) -> bool:
    return permits(each, TARGET, read_spec(on_secret or {}), OuterLevels(in_namespace or {}, default, mode))


def test_innermost_level_decides() -> None:
    assert ask(consumer())
    assert not ask(consumer(), default=Switch.DISABLED)
    assert ask(consumer(), in_namespace={ROLLOUT: "enabled"}, default=Switch.DISABLED)
    assert not ask(consumer(), on_secret={ROLLOUT: "disabled"}, in_namespace={ROLLOUT: "enabled"})
    assert ask(consumer(switch=Switch.ENABLED), on_secret={ROLLOUT: "disabled"})


@pytest.mark.parametrize("annotations", [{ROLLOUT: "sometimes"}, {"keyturn.dev/rollout-pace": "fast"}])
def test_namespace_that_is_not_understood_forbids(annotations: dict[str, str]) -> None:
    assert not ask(consumer(switch=Switch.ENABLED), in_namespace=annotations)


def test_reloader_that_runs_is_left_its_workloads() -> None:
    each = consumer(reloader=ReloaderRules(auto=True, selecting=True))
    assert not ask(each, mode=ReloaderMode.RUNNING)
    assert is_left_to_reloader(each, TARGET, read_spec({}), ReloaderMode.RUNNING)
    assert ask(each, on_secret={"reloader.stakater.com/ignore": "true"}, mode=ReloaderMode.RUNNING)


@pytest.mark.parametrize(
    ("rules", "is_left"),
    [
        (ReloaderRules(auto=True, selecting=True), False),
        (ReloaderRules(search=True, selecting=True), False),
        (ReloaderRules(patterns=("d.*",), selecting=True), False),
        (ReloaderRules(names=frozenset({TARGET.name}), selecting=True), True),
    ],
)
def test_reader_by_name_is_left_to_reloader_only_if_reloader_knows_the_name(
    rules: ReloaderRules, is_left: bool
) -> None:
    each = replace(consumer(reloader=rules), reads={TARGET.name: Reads(whole=True, in_template=False)})
    match = {"reloader.stakater.com/match": "true"}
    assert ask(each, on_secret=match, mode=ReloaderMode.RUNNING) is not is_left
    in_template = replace(each, reads={TARGET.name: Reads(whole=True)})
    assert not ask(in_template, on_secret=match, mode=ReloaderMode.RUNNING)


def test_reloader_that_was_replaced_selects() -> None:
    chosen = consumer(reloader=ReloaderRules(auto=True, selecting=True))
    other = consumer(reloader=ReloaderRules(names=frozenset({"other"}), selecting=True))
    assert ask(chosen, default=Switch.DISABLED, mode=ReloaderMode.REPLACED)
    assert not ask(other, mode=ReloaderMode.REPLACED)


WHY = [
    (consumer(), {}, {}, Switch.DISABLED, "restarts are off (chart value rollouts.default)"),
    (consumer(), {}, {}, Switch.UNSET, "restarts are off (chart value rollouts.default)"),
    (
        consumer(),
        {},
        {ROLLOUT: "disabled"},
        Switch.ENABLED,
        "restarts are off (keyturn.dev/rollout on the namespace)",
    ),
    (
        consumer(),
        {ROLLOUT: "disabled"},
        {ROLLOUT: "enabled"},
        Switch.ENABLED,
        "restarts are off (keyturn.dev/rollout on the Secret)",
    ),
    (
        consumer(switch=Switch.DISABLED),
        {ROLLOUT: "enabled"},
        {},
        Switch.ENABLED,
        "restarts are off (keyturn.dev/rollout on the workload)",
    ),
    (
        consumer(),
        {},
        {"keyturn.dev/rollout-pace": "fast"},
        Switch.ENABLED,
        'never restarted until this is corrected: annotation keyturn.dev/rollout-pace is "fast"',
    ),
    (
        consumer(),
        {ROLLOUT: "sometimes"},
        {},
        Switch.ENABLED,
        "never restarted until this is corrected: keyturn.dev/rollout on the Secret",
    ),
    (consumer(faults=("an order",)), {}, {}, Switch.DISABLED, "never restarted until this is corrected: an order"),
    (consumer(), {}, {}, Switch.ENABLED, ""),
]


@pytest.mark.parametrize(("each", "on_secret", "in_namespace", "default", "why"), WHY)
def test_refusal_names_the_level_that_decides(
    each: Consumer, on_secret: dict[str, str], in_namespace: dict[str, str], default: Switch, why: str
) -> None:
    told = refusal(each, TARGET, read_spec(on_secret), OuterLevels(in_namespace, default, ReloaderMode.ABSENT))
    assert told.startswith(why)
    assert (told == "") == ask(each, on_secret, in_namespace, default)


def test_refusal_names_reloader() -> None:
    each = consumer(reloader=ReloaderRules(auto=True, selecting=True))
    running = refusal(each, TARGET, read_spec({}), OuterLevels({}, Switch.ENABLED, ReloaderMode.RUNNING))
    assert running == "Reloader restarts it"
    other = consumer(reloader=ReloaderRules(names=frozenset({"other"}), selecting=True))
    replaced = refusal(other, TARGET, read_spec({}), OuterLevels({}, Switch.ENABLED, ReloaderMode.REPLACED))
    assert replaced == "restarts are off (Reloader's annotations)"
