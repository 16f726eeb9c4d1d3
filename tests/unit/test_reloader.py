"""Reloader's annotations: each row of the table in docs/rollouts.md, and what wrong annotations lead to."""

import time
from typing import Any

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import FAULT_UNIT, Consumer, Reads, read_consumer
from keyturn_receiver.core.reloader import MAX_NAMES, MAX_PATTERNS, ReloaderMode, read_rules, rule_faults
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from support.reloader import AUTO, ROWS, Case, excluded, listed

DB = Target("team", "db")


def consumer(case: Case, mode: ReloaderMode) -> Consumer:
    name = "db" if case.reads else "other"
    pod = {"containers": [{"envFrom": [{"secretRef": {"name": name}}]}]}
    workload: dict[str, Any] = {
        "metadata": {"namespace": "team", "name": "web", "resourceVersion": "1", "annotations": case.workload},
        "spec": {"template": {"metadata": {"annotations": case.template}, "spec": pod}},
    }
    made = read_consumer(WORKLOAD_KINDS["Deployment"], workload, mode)
    assert made is not None
    return made


def is_restarted(case: Case, mode: ReloaderMode, default: Switch) -> bool:
    made = consumer(case, mode)
    policy = RolloutPolicy(NamespaceCache(), default, mode)
    return "db" in made.reads and policy.permits(made, DB, read_spec(case.secret))


CASES = [pytest.param(case, id=f"{row}-{number}") for row, cases in ROWS.items() for number, case in enumerate(cases)]


@pytest.mark.parametrize("default", [Switch.ENABLED, Switch.DISABLED])
@pytest.mark.parametrize("case", CASES)
def test_row_of_the_table(case: Case, default: Switch) -> None:
    for mode, expected in ((ReloaderMode.REPLACED, case.replaced), (ReloaderMode.RUNNING, case.running)):
        if expected is None:
            own = case.secret.get("keyturn.dev/rollout", default)
            expected = case.reads and own == Switch.ENABLED
        assert is_restarted(case, mode, default) is expected, mode


@pytest.mark.parametrize("case", CASES)
def test_annotations_mean_nothing_where_nobody_has_used_reloader(case: Case) -> None:
    own = [
        each["keyturn.dev/rollout"]
        for each in (case.secret, case.workload, case.template)
        if "keyturn.dev/rollout" in each
    ]
    for default in (Switch.ENABLED, Switch.DISABLED):
        expected = case.reads and [default.value, *own][-1] == "enabled"
        assert is_restarted(case, ReloaderMode.ABSENT, default) is expected
    assert consumer(case, ReloaderMode.ABSENT).faults == ()


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].told])  # type: ignore[attr-defined]
def test_text_that_is_not_understood_is_told(case: Case) -> None:
    for mode in (ReloaderMode.REPLACED, ReloaderMode.RUNNING):
        (told,) = consumer(case, mode).faults
        assert case.told in told


def test_faults_are_told_where_the_row_says_so_alone() -> None:
    for row, cases in ROWS.items():
        assert all(bool(case.told) == (row == "R12") for case in cases)
        if row != "R12":
            assert not any(consumer(case, mode).faults for case in cases for mode in ReloaderMode), row


@pytest.mark.parametrize("name", ["ignore", "match"])
def test_annotation_of_a_secret_that_is_not_understood_is_told(name: str) -> None:
    spec = read_spec({f"reloader.stakater.com/{name}": "yes"})
    told = {mode: RolloutPolicy(NamespaceCache(), Switch.ENABLED, mode).faults(spec) for mode in ReloaderMode}
    assert told == {
        ReloaderMode.ABSENT: (),
        ReloaderMode.RUNNING: (),
        ReloaderMode.REPLACED: (f'annotation reloader.stakater.com/{name} is "yes": write true or false',),
    }


def test_listed_secrets_are_read_without_a_reference_where_reloader_was_replaced() -> None:
    case = Case(True, None, listed("db, cache, x.*"), reads=False)
    whole = Reads(whole=True)
    assert consumer(case, ReloaderMode.REPLACED).reads == {"db": whole, "cache": whole, "other": whole}
    assert consumer(case, ReloaderMode.RUNNING).reads == {"other": whole}


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("db.*", "db", True),
        ("db.*", "db-1", True),
        ("db.*", "a-db", False),
        (".*db", "a-db", True),
        ("a.*b.*c", "a-b-c", True),
        ("a.*b.*c", "abc", True),
        ("a.*b.*c", "ac", False),
        ("a.*b.*b.*c", "abc", False),
        ("a.*a", "a", False),
        (".*.*", "x", True),
    ],
)
def test_wildcard_stands_for_any_text(pattern: str, name: str, matches: bool) -> None:
    rules = read_rules(listed(pattern), {})
    assert rules is not None
    assert rules.selects(name, None) is matches
    assert list(rule_faults(listed(pattern), {})) == []


def test_names_of_one_annotation_are_limited_and_matched_quickly() -> None:
    many = ",".join(f"s{number}" for number in range(100_000))
    wild = ",".join(".*".join("a" * 100) + f"{number}" for number in range(1000))
    started = time.process_time()
    assert list(rule_faults(listed(many), {})) == [
        f"annotation secret.reloader.stakater.com/reload has more than {MAX_NAMES} names: name fewer"
    ]
    assert f"more than {MAX_PATTERNS} names with .*" in list(rule_faults(listed(wild), {}))[-1]
    rules = read_rules(listed(wild), {})
    assert rules is not None
    assert len(rules.patterns) == MAX_PATTERNS
    assert not rules.selects("a" * 253, None)
    held = consumer(Case(True, True, {**listed(many), **excluded(many)}), ReloaderMode.RUNNING)
    of_faults = sum(map(len, held.faults)) // FAULT_UNIT
    assert held.size == 1 + 2 * MAX_NAMES + of_faults  # this size counts towards the limit of the namespace
    unnamed = consumer(Case(True, True, excluded("X" * 100_000)), ReloaderMode.RUNNING)
    assert unnamed.size < 5  # a text that is no name takes no memory, and its fault takes little
    assert time.process_time() - started < 0.5


def test_restart_that_reloader_may_make_as_well_is_told() -> None:
    record = Record(version_ids={"arn#AWSCURRENT": "v2"})
    for mode in ReloaderMode:
        made = consumer(Case(True, True, AUTO), mode)
        told = event_messages.restarted(record, "1 key", made)
        assert (event_messages.RELOADER_ADVICE in told) is (mode is ReloaderMode.ABSENT)
    assert not consumer(Case(None, None), ReloaderMode.ABSENT).may_restart_twice


def test_rules_that_change_change_the_consumer() -> None:
    one, other = (consumer(Case(True, None, each), ReloaderMode.REPLACED) for each in (AUTO, {}))
    assert one.reloader != other.reloader
