"""What the notifier makes of AWS's events: the corpus in tests/events, one expectation beside each file."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_notifier.event import API_CALL, SERVICE_EVENT, Ignored, Malformed, read

EVENTS = Path(__file__).parents[1] / "events"
CORPUS = sorted(file for file in EVENTS.glob("*.json") if not file.name.endswith(".expect.json"))


def envelope(file: Path) -> dict:
    """The EventBridge event; bare CloudTrail records are put under `detail`, as EventBridge does."""
    content = json.loads(file.read_text())
    if "detail-type" in content:
        return content
    kind = SERVICE_EVENT if content["eventType"] == "AwsServiceEvent" else API_CALL
    return {
        "version": "0",
        "id": content["eventID"],
        "detail-type": kind,
        "source": "aws.secretsmanager",
        "account": content["recipientAccountId"],
        "time": content["eventTime"],
        "region": content["awsRegion"],
        "resources": [],
        "detail": content,
    }


def outcome(event: object) -> dict:
    try:
        result = read(event)
    except Malformed as error:
        return {"malformed": str(error)}
    return {"ignored": result.reason} if isinstance(result, Ignored) else json.loads(json.dumps(asdict(result)))


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_the_corpus_is_understood(file: Path) -> None:
    assert outcome(envelope(file)) == json.loads(file.with_suffix(".expect.json").read_text())


NATIVE = json.loads((EVENTS / "native-secret-label-updated.json").read_text())
WRITE = envelope(EVENTS / "api-put-secret-value.2024-10.eventbridge.json")


@pytest.mark.parametrize("label", ["AWSPENDING", "AWSPREVIOUS"])
def test_labels_that_nobody_reads_by_are_ignored(label: str) -> None:
    assert "ignored" in outcome({**NATIVE, "detail": {**NATIVE["detail"], "labelUpdated": label}})


def test_a_custom_label_is_told() -> None:
    told = outcome({**NATIVE, "detail": {**NATIVE["detail"], "labelUpdated": "blue"}})
    assert told["data"]["label"] == "blue"


def test_a_failed_call_is_ignored() -> None:
    assert "ignored" in outcome({**WRITE, "detail": {**WRITE["detail"], "errorCode": "AccessDenied"}})


@pytest.mark.parametrize(
    "event",
    [None, [], {}, {"source": "aws.s3"}, {**NATIVE, "detail": None}, {**NATIVE, "detail-type": "Other"}]
    + [{key: value for key, value in NATIVE.items() if key != missing} for missing in ("id", "resources", "account")],
)
def test_what_secrets_manager_never_sends_is_malformed(event: object) -> None:
    assert "malformed" in outcome(event)


ANYTHING = st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(st.sampled_from([NATIVE, WRITE]), st.sampled_from(["detail", "resources", "id", "time"]), ANYTHING)
def test_whatever_stands_in_a_field_the_answer_is_one_of_three(event: dict, field: str, content: object) -> None:
    changed = copy.deepcopy(event)
    changed[field] = content
    assert outcome(changed)
