"""Parsing of AWS's events. Each event file of the corpus in tests/events has a file with the expected result."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_notifier.aws_event_types import API_CALL, MEANINGS, SERVICE_EVENT
from keyturn_notifier.aws_event_types import NATIVE as NATIVE_KIND
from keyturn_notifier.event_parser import Ignored, MalformedEvent, parse_event

SIGNING_KEY = "arn:aws:secretsmanager:us-west-2:012345678901:secret:SigningKey-keyturn-q1w2e3"
EVENTS = Path(__file__).parents[1] / "events"
CORPUS = sorted(file for file in EVENTS.glob("*.json") if not file.name.endswith(".expect.json"))


def envelope(file: Path) -> dict:
    """Return the content of a file as an EventBridge event. A bare CloudTrail record is put under `detail`, as
    EventBridge would do."""
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
def test_event_of_the_corpus_is_parsed_as_expected(file: Path) -> None:
    assert outcome(envelope(file)) == json.loads(file.with_suffix(".expect.json").read_text())


NATIVE = json.loads((EVENTS / "native-secret-label-updated.json").read_text())
WRITE = envelope(EVENTS / "api-put-secret-value.2024-10.eventbridge.json")


DELETION = envelope(EVENTS / "api-delete-secret.cloudtrail-record.json")
FAILURE = envelope(EVENTS / "service-rotation-failed.cloudtrail-record.json")


def is_ignored_by_name(event: dict, *prefixes: str) -> bool:
    result = parse_event(event, SIGNING_KEY, prefixes)
    return isinstance(result, Ignored) and "NamePrefixes" in result.reason


@pytest.mark.parametrize("file", [file for file in CORPUS if "type" in outcome(envelope(file))], ids=lambda f: f.stem)
def test_event_of_another_name_is_ignored_if_there_are_prefixes(file: Path) -> None:
    event, is_heartbeat = envelope(file), file.stem == "heartbeat"
    assert is_ignored_by_name(event, "no-such/", "nor-this/") is not is_heartbeat
    assert not is_ignored_by_name(event)


def with_secret(event: dict, secret_id: str) -> dict:
    """Return the event with the secret id in a single place: where CloudTrail puts it for service events."""
    detail = {**event["detail"], "additionalEventData": {"SecretId": secret_id}}
    return {**event, "detail": {**detail, "requestParameters": None, "responseElements": None}}


@pytest.mark.parametrize("event", [DELETION, FAILURE], ids=["deletion", "failed rotation"])
@pytest.mark.parametrize(
    ("secret_id", "prefix", "ignored"),
    [
        ("arn:aws:secretsmanager:us-west-2:012345678901:secret:shop/db-a1b2c3", "shop/", False),
        ("arn:aws:secretsmanager:us-west-2:012345678901:secret:shop/db-a1b2c3", "shop/db", False),
        # This prefix reaches into the suffix that AWS adds to the name.
        ("arn:aws:secretsmanager:us-west-2:012345678901:secret:shop/db-a1b2c3", "shop/db-", True),
        ("arn:aws:secretsmanager:us-west-2:012345678901:secret:shop/db-a1b2c3", "arn:", True),
        ("arn:aws:secretsmanager:us-west-2:012345678901:secret:other/db-a1b2c3", "shop/", True),
        ("shop/db", "shop/", False),
        ("other/shop/", "shop/", True),
    ],
)
def test_name_is_compared_also_where_the_event_has_only_an_arn(
    event: dict, secret_id: str, prefix: str, ignored: bool
) -> None:
    assert is_ignored_by_name(with_secret(event, secret_id), prefix) is ignored
    assert not is_ignored_by_name(with_secret(event, secret_id), prefix, "shop/", "other/")


def test_every_event_file_has_an_expectation_file_and_vice_versa() -> None:
    expected = {file.name.replace(".expect.json", ".json") for file in EVENTS.glob("*.expect.json")}
    assert expected == {file.name for file in CORPUS}


def test_corpus_holds_the_samples_of_aws_unchanged() -> None:
    # This folder exists only in some checkouts.
    for file in (EVENTS.parents[2] / "shared" / "aws-events").glob("*.json"):
        assert json.loads((EVENTS / file.name).read_text()) == json.loads(file.read_text())


def test_catalogue_lists_every_operation_of_secrets_manager() -> None:
    operations = set(boto3.client("secretsmanager", "us-east-1").meta.service_model.operation_names)
    assert {name for kind, name in MEANINGS if kind == API_CALL} == operations


@pytest.mark.parametrize(("kind", "name"), [each for each in MEANINGS if each[0] != NATIVE_KIND])
def test_catalogued_event_is_parsed_as_the_catalogue_says(kind: str, name: str) -> None:
    detail = {**WRITE["detail"], "eventName": name}
    parsed = outcome({**WRITE, "detail-type": kind, "detail": detail})
    meaning = MEANINGS[kind, name]
    if meaning.becomes is None:
        assert parsed == {"ignored": f"{name}: {meaning.reason}"}
    else:
        assert parsed["type"] == meaning.becomes


@pytest.mark.parametrize("name", [each[1] for each in MEANINGS if each[0] == API_CALL])
def test_failed_call_is_ignored_for_every_operation(name: str) -> None:
    failed = {**WRITE["detail"], "eventName": name, "errorCode": "AccessDenied"}
    assert "ignored" in outcome({**WRITE, "detail": failed})


@pytest.mark.parametrize("secret_id", [SIGNING_KEY, SIGNING_KEY[:-7], "SigningKey-keyturn"])
def test_event_about_the_signing_key_is_ignored_under_every_id(secret_id: str) -> None:
    changed = {**WRITE["detail"], "requestParameters": {"secretId": secret_id}, "responseElements": None}
    assert "signing key" in outcome({**WRITE, "detail": changed})["ignored"]
    changed["requestParameters"] = {"secretId": secret_id + "x"}
    assert outcome({**WRITE, "detail": changed})["subject"] == secret_id + "x"


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
def test_event_of_another_form_is_malformed(event: object) -> None:
    assert "malformed" in outcome(event)


@pytest.mark.parametrize("event", [NATIVE, WRITE, {**NATIVE, "detail": {}}, {**NATIVE, "detail-type": "Other"}])
def test_event_that_has_keyturns_source_and_is_no_heartbeat_is_ignored(event: dict[str, object]) -> None:
    """Whoever may put events may put such an event. A dead letter would ring an alarm for two weeks."""
    assert outcome({**event, "source": "dev.keyturn"}) == {"ignored": "source dev.keyturn: only heartbeats have it"}


FIELDS = st.sampled_from(["eventName", "errorCode", "labelUpdated", "requestParameters", "responseElements", "arn"])
ANYTHING = st.recursive(
    st.none() | st.text(max_size=20) | st.integers(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=5), x, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([NATIVE, WRITE]), st.sampled_from(["detail", "resources", "id", "time"]), ANYTHING)
def test_arbitrary_field_content_gives_notification_or_ignored_or_malformed(
    event: dict, field: str, content: object
) -> None:
    changed = copy.deepcopy(event)
    changed[field] = content
    assert outcome(changed)
