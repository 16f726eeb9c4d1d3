"""docs/receipts.md, checked against the code and against infra/aws/receipts.yaml."""

import re
from pathlib import Path

from keyturn_cli import receipts as cli_receipts
from keyturn_contract.message import Outcome
from keyturn_local.aws import template
from keyturn_receiver.reconcile import version_states

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "receipts.md").read_text()
TEXT = " ".join(PAGE.split())
PARAMETERS = template.read(ROOT / "infra" / "aws" / "receipts.yaml")["Parameters"]


def test_page_has_every_outcome() -> None:
    shown = set(re.findall(r"`([a-z ]+)`", PAGE.partition("- `outcome` is")[2].partition("\n- ")[0]))
    assert {each.value for each in Outcome} | {"taken", "not taken", "refused"} <= shown


def test_page_has_the_limits_of_the_code() -> None:
    assert f"more than {version_states.MAX_SECRETS} Secrets" in TEXT
    assert f"not live within {version_states.MAX_AGE // 3600} hours" in TEXT
    assert f"within the last {version_states.WINDOW // 60} minutes" in TEXT
    assert version_states.MAX_CONSUMERS == 3
    assert "the first three workloads that are stuck" in TEXT
    assert f"receipts are older than {cli_receipts.LOOK_BACK // 86400} days" in TEXT


def test_command_gives_parameters_that_exist_and_values_that_are_allowed() -> None:
    (command,) = re.findall(r"^aws cloudformation deploy .*?^```$", PAGE, re.DOTALL | re.MULTILINE)
    given = dict(re.findall(r"\b([A-Z]\w+)=(\S+)", command.partition("--parameter-overrides")[2]))
    assert given["Tell"] == "all"  # otherwise no message comes for a version that is live
    for name, value in given.items():
        assert value in PARAMETERS[name].get("AllowedValues", [value]), name


def test_table_has_parameters_that_exist_and_values_that_are_allowed() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)=(\w+)`(?: \(default\))?(?:, `(\w+)`)? \|", PAGE, re.MULTILINE)
    assert {name for name, _, _ in rows} == {"Tell", "Webhook", "Topic"}
    for name, *values in rows:
        assert set(filter(None, values)) <= set(PARAMETERS[name]["AllowedValues"]), name
    assert PARAMETERS["Tell"]["Default"] == "problems"
    assert {"Email", "WebhookUrl", "RoutingKey"} <= PARAMETERS.keys()


def test_bus_is_an_output_of_the_stack() -> None:
    (name,) = re.findall(r"OutputKey=='(\w+)'", PAGE)
    assert name in template.read()["Outputs"]
