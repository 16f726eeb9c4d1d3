"""Which consumers may be restarted, with all levels together."""

from typing import Any

import pytest

from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.reloader import ReloaderMode, ReloaderRules
from keyturn_receiver.core.rollout_permission import is_left_to_reloader, permits
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
    return permits(each, TARGET, read_spec(on_secret or {}), in_namespace or {}, default, mode)


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


def test_reloader_that_was_replaced_selects() -> None:
    chosen = consumer(reloader=ReloaderRules(auto=True, selecting=True))
    other = consumer(reloader=ReloaderRules(names=frozenset({"other"}), selecting=True))
    assert ask(chosen, default=Switch.DISABLED, mode=ReloaderMode.REPLACED)
    assert not ask(other, mode=ReloaderMode.REPLACED)
