"""What the notifier makes of AWS's events: the corpus in tests/events, one expectation beside each file."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_notifier.catalogue import API_CALL, MEANINGS, SERVICE_EVENT
from keyturn_notifier.catalogue import NATIVE as NATIVE_KIND
from keyturn_notifier.event import Ignored, MalformedEvent, parse_event

SIGNING_KEY = "arn:aws:secretsmanager:us-west-2:012345678901:secret:SigningKey-keyturn-q1w2e3"
EVENTS = Path(__file__).parents[1] / "events"
CORPUS = sorted(file for file in EVENTS.glob("*.json") if not file.name.endswith(".expect.json"))


def envelope(file: Path) -> dict:
    """The EventBridge event; bare CloudTrail records are put under `detail`, as EventBridge does."""
    content = json.loads(file.read_text())
    if "eventName" not in content:
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
        result = parse_event(event, SIGNING_KEY)
    except MalformedEvent as error:
        return {"malformed": str(error)}
    return {"ignored": result.reason} if isinstance(result, Ignored) else json.loads(json.dumps(asdict(result)))


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_the_corpus_is_understood(file: Path) -> None:
    assert outcome(envelope(file)) == json.loads(file.with_suffix(".expect.json").read_text())


NATIVE = json.loads((EVENTS / "native-secret-label-updated.json").read_text())
WRITE = envelope(EVENTS / "api-put-secret-value.2024-10.eventbridge.json")


def test_every_file_has_its_expectation_and_every_expectation_its_file() -> None:
    expected = {file.name.replace(".expect.json", ".json") for file in EVENTS.glob("*.expect.json")}
    assert expected == {file.name for file in CORPUS}


def test_the_samples_of_aws_are_in_the_corpus_to_the_letter() -> None:
    for file in (EVENTS.parents[2] / "shared" / "aws-events").glob("*.json"):  # where they are given to us
        assert json.loads((EVENTS / file.name).read_text()) == json.loads(file.read_text())


def test_the_catalogue_knows_every_operation_of_secrets_manager() -> None:
    operations = set(boto3.client("secretsmanager", "us-east-1").meta.service_model.operation_names)
    assert {name for kind, name in MEANINGS if kind == API_CALL} == operations


@pytest.mark.parametrize(("kind", "name"), [each for each in MEANINGS if each[0] != NATIVE_KIND])
def test_the_catalogue_is_what_is_done(kind: str, name: str) -> None:
    detail = {**WRITE["detail"], "eventName": name}
    told = outcome({**WRITE, "detail-type": kind, "detail": detail})
    meaning = MEANINGS[kind, name]
    assert (
        told == {"ignored": f"{name}: {meaning.reason}"} if meaning.becomes is None else told["type"] == meaning.becomes
    )


@pytest.mark.parametrize("name", [each[1] for each in MEANINGS if each[0] == API_CALL])
def test_a_failed_call_is_ignored_whatever_it_is(name: str) -> None:
    failed = {**WRITE["detail"], "eventName": name, "errorCode": "AccessDenied"}
    assert "ignored" in outcome({**WRITE, "detail": failed})


@pytest.mark.parametrize("named", [SIGNING_KEY, SIGNING_KEY[:-7], "SigningKey-keyturn"])
def test_the_signing_key_is_known_by_every_name(named: str) -> None:
    changed = {**WRITE["detail"], "requestParameters": {"secretId": named}, "responseElements": None}
    assert "signing key" in outcome({**WRITE, "detail": changed})["ignored"]
    changed["requestParameters"] = {"secretId": named + "x"}
    assert outcome({**WRITE, "detail": changed})["subject"] == named + "x"


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {},
        {"source": "aws.s3"},
        {**NATIVE, "detail": None},
        {**NATIVE, "detail-type": "Other"},
        {**NATIVE, "time": "2026-13-41T25:61:61Z"},
        {**NATIVE, "id": "\ud800"},
        *(
            {key: value for key, value in NATIVE.items() if key != missing}
            for missing in ("id", "resources", "account")
        ),
    ],
)
def test_what_secrets_manager_never_sends_is_malformed(event: object) -> None:
    assert "malformed" in outcome(event)


ANYTHING = st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(st.sampled_from([NATIVE, WRITE]), st.sampled_from(["detail", "resources", "id", "time"]), ANYTHING)
def test_whatever_stands_in_a_field_the_answer_is_one_of_three(event: dict, field: str, content: object) -> None:
    changed = copy.deepcopy(event)
    changed[field] = content
    assert outcome(changed)
