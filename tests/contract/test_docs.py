"""The documentation pages, checked against the code."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from keyturn_contract.message import EventType, Notification
from keyturn_contract.signature import parse_key
from keyturn_local.aws import template
from keyturn_local.demo import scenarios
from keyturn_local.docs import tables
from keyturn_notifier.event_parser import parse_event
from keyturn_receiver import errors
from keyturn_receiver.core import (
    binding,
    consumer,
    history,
    policy,
    restart_way,
    revision,
    rollout_order,
    rollout_pace,
    rollout_switch,
    rollout_window,
    unsettled,
    watched,
    write_times,
)

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BINDINGS = (ROOT / "docs" / "bindings.md").read_text()
AWS_ACCESS = (ROOT / "docs" / "aws-access.md").read_text()


@pytest.mark.parametrize("page", tables.PAGES)
def test_generated_page_equals_the_output_of_its_generator(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == tables.PAGES[page](), "run `make docs`"


def test_readme_has_make_demo_and_make_test_on_its_first_screen() -> None:
    first_screen = README.splitlines()[:40]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)
    targets = re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= {target for line in targets for target in line.split()}


def test_readme_shows_every_step_that_the_demo_prints() -> None:
    shown = set(re.findall(r"^ +\d+ ms  ([^:\n]+?)(?:  \(.*\)|: \w+)?$", README, re.MULTILINE))
    assert shown == {"label moved", scenarios.APPLIED, *scenarios.ON_THE_WAY, "pods replaced"}


def test_aws_page_has_a_row_for_every_alarm_and_no_other() -> None:
    page = (ROOT / "docs" / "aws.md").read_text().partition("| alarm |")[2].partition("##")[0]
    alarms = {
        name
        for line in re.findall(r"^\| ([A-Z]\w+(?:, [A-Z]\w+)*) \|", page, re.MULTILINE)
        for name in line.split(", ")
    }
    resources = template.read()["Resources"]
    assert alarms == {name.removesuffix("Alarm") for name in resources if name.endswith("Alarm")}


def test_templates_of_the_access_page_exist_and_have_the_parameters() -> None:
    commands = re.findall(
        r"--template-file (\S+).*?--parameter-overrides ((?:\S+=\S+[ \\\n]*)+)", AWS_ACCESS, re.DOTALL
    )
    assert len(commands) == 3
    for file, given in commands:
        parameters = template.read(ROOT / file)["Parameters"]
        assert {each.split("=")[0] for each in given.split() if "=" in each} <= parameters.keys(), file


def test_readme_claims_name_existing_tests_and_every_tier() -> None:
    table = README.partition("## What has been shown, and on what")[2]
    rows = {on: by for on, _, by in re.findall(r"^\| (\w.*?) \| (.*?) \| (.*?) \|$", table, re.MULTILINE)[1:]}
    shown = {on: {ROOT / link for link in re.findall(r"\]\((tests/[^)]+)\)", by)} for on, by in rows.items()}
    without_tests = {on for on, tests in shown.items() if not tests}
    assert without_tests == {"documentation alone"}
    for tests in shown.values():
        assert all(any("def test_" in file.read_text() for file in _modules(each)) for each in tests)
    # Each tier that needs more than Python has a row. In the tier with real pods, the control plane must be started
    # with a host, because it then runs without kwok.
    tiers = {each.name for each in (ROOT / "tests").iterdir() if any(each.glob("test_*.py"))}
    assert tiers - {"unit"} == {each.name for tests in shown.values() for each in tests if each.is_dir()}
    assert "host=network.HOST" in (ROOT / "tests" / "node" / "conftest.py").read_text()


def _modules(place: Path) -> list[Path]:
    return sorted(place.glob("test_*.py")) if place.is_dir() else [place]


def test_readme_folders_exist() -> None:
    for folder in re.findall(r"^\| `([a-z/]+)/` \|", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_bindings_page_has_every_annotation_and_no_other() -> None:
    annotations = {binding.BIND_LABEL, *binding.FILLING, binding.ON_DELETE, policy.ALLOW_SECRETS}
    annotations |= {rollout_switch.ROLLOUT, restart_way.RESTART, consumer.READS, binding.RESUME}
    annotations |= {rollout_order.ORDER, rollout_pace.PACE, rollout_window.WINDOW}
    annotations |= {*revision.RECORD, revision.STATUS, write_times.CHANGED_AT, revision.MOVED_AT, binding.RECONCILE}
    annotations |= {revision.RECORD_HASH, revision.RECONCILED, revision.STATE, watched.WATCHED, history.HISTORY}
    annotations.add(unsettled.UNSETTLED)
    assert set(re.findall(r"`(keyturn\.dev/[a-z-]+)", BINDINGS)) == annotations
    assert consumer.MARK_PREFIX in BINDINGS


def test_bindings_page_has_every_reason_of_a_warning() -> None:
    documented = set(re.findall(r"`([A-Z]\w+)`", BINDINGS.partition("| reason |")[2].partition("\n## ")[0]))
    # These never reach an Event.
    internal = {"Conflict", "DisruptionNotAllowed", "Expired", "NotFound", "Failed", "Refused", "TryingAgain"}
    assert documented == reasons(errors.KeyturnError) - internal


def reasons(error: type[errors.KeyturnError]) -> set[str]:
    return {error.reason}.union(*(reasons(each) for each in error.__subclasses__()))


def test_docstring_of_errors_draws_the_class_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"KeyturnError"}
    assert drawn == {each.__name__ for each in family(errors.KeyturnError)}


def family(error: type[errors.KeyturnError]) -> set[type[errors.KeyturnError]]:
    return {error}.union(*(family(each) for each in error.__subclasses__()))


def test_aws_page_has_a_command_that_makes_a_message_of_an_event() -> None:
    (command,) = re.findall(r"^jq .*(?= \|$)", (ROOT / "docs" / "aws.md").read_text(), re.MULTILINE)
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    (record,) = json.loads(made.stdout)["Records"]
    notification = parse_event(json.loads(record["body"]))
    assert isinstance(notification, Notification)
    assert notification.type is EventType.CHANGED


def test_runbook_has_a_command_that_writes_a_valid_signing_key() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    (command,) = re.findall(r"printf whsec_.*\\\n.*", runbook)
    assert "put-secret-value" in command
    # The fake ``aws`` prints the value that the command would write.
    script = "aws() { cat; }\n" + command.replace("<SigningKeySecretId>", "x")
    value = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout  # noqa: S607
    assert len(parse_key(value)) == 32


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "proxy.golang" + ".org", "crates" + ".io"]
    hosts += ["repo.maven" + ".apache.org", "deb.debian" + ".org"]
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607
    for file in files.split():
        text = (ROOT / file).read_text(errors="replace")
        assert not [host for host in hosts if host in text], file


def test_requirements_of_the_lambda_equal_the_resolved_ones() -> None:
    assert (ROOT / "lambda" / "requirements.txt").read_text() == (ROOT / "requirements" / "notifier.txt").read_text()
