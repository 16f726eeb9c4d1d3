"""docs/upgrading.md: the code uses each new name, and each old name is gone or is kept as an alias."""

import re
from pathlib import Path

import pytest

from keyturn_receiver import errors
from support.promql import series

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "upgrading.md").read_text().partition("## From 0.2")[2].partition("\n## ")[0]
RECEIVER = "\n".join(file.read_text() for file in (ROOT / "receiver").rglob("*.py"))
NOTIFIER = "\n".join(file.read_text() for file in (ROOT / "lambda").rglob("*.py"))
SECTIONS = {
    title: re.findall(r"^\|[^`\n]*`([^`]+)` \|[^`\n]*`([^`]+)`[^|\n]* \|", text, re.MULTILINE)
    for title, text in re.findall(r"^\*\*([\w' ]+?)\.?\*\*(.*?)(?=^\*\*|\Z)", PAGE, re.MULTILINE | re.DOTALL)
}


def is_written(message: str, code: str) -> bool:
    """Return whether the code contains this message as a string literal. ``...`` in the message matches any text."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    return re.search('"[^"]*' + '[^"]*'.join(parts), code) is not None


@pytest.mark.parametrize(("old", "new"), SECTIONS["Log messages of the receiver"])
def test_renamed_message_of_the_receiver_is_the_one_it_logs(old: str, new: str) -> None:
    assert is_written(new, RECEIVER)
    assert f'"{old}"' not in RECEIVER


@pytest.mark.parametrize(("old", "new"), SECTIONS["Fields of the receiver's log"])
def test_renamed_field_of_the_log_is_the_one_that_is_logged(old: str, new: str) -> None:
    assert f'"{new}": ' in RECEIVER
    assert f'"{old}": ' not in RECEIVER


@pytest.mark.parametrize(("old", "new"), SECTIONS["Log messages of the notifier"])
def test_renamed_message_of_the_notifier_is_the_one_it_logs(old: str, new: str) -> None:
    assert is_written(new, NOTIFIER)
    assert f'logger.info("{old}"' not in NOTIFIER


@pytest.mark.parametrize(("old", "new"), SECTIONS["Reasons"])
def test_renamed_reason_is_one_of_the_errors(old: str, new: str) -> None:
    reasons = {each.reason for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "reason")}
    assert new in reasons
    assert old not in reasons


@pytest.mark.parametrize(("old", "new"), SECTIONS["Metrics"])
def test_renamed_metric_is_served_under_both_names(old: str, new: str) -> None:
    known = series()
    for name in (old, new):
        metric, _, value = name.partition("{")
        assert metric in known
        assert not value or value.partition("=")[0] in known[metric]
    label = new.partition('="')[2].rstrip('"}')
    assert not label or f'labels("{label}")' in RECEIVER
