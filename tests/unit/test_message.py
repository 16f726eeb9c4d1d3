"""The wire format of deliveries and replies."""

import importlib.util
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_contract.message import (
    CONTENT_TYPE,
    CONTENT_TYPE_BATCH,
    EventType,
    MalformedMessage,
    Notification,
    NotificationData,
    Outcome,
    Result,
    State,
    UnsupportedMediaType,
    VersionState,
    decode,
    decode_reply,
    encode,
    encode_reply,
    validate,
)

DATA = NotificationData("SecretLabelUpdated", "123456789012", "eu-west-1", "prod/db", "v1", "AWSCURRENT")
ONE = Notification("id-1", "aws.secretsmanager", EventType.CHANGED, "arn", "2026-11-24T09:00:00Z", DATA)


def test_batch_round_trips_through_encode_and_decode() -> None:
    batch = (ONE, replace(ONE, id="id-2", type=EventType.HEARTBEAT, data=replace(DATA, name=None, label=None)))
    assert decode(CONTENT_TYPE_BATCH, encode(batch)) == batch


def test_single_event_is_decoded_and_content_type_parameters_are_ignored() -> None:
    (event,) = json.loads(encode([ONE]))
    assert decode("Application/CloudEvents+JSON; charset=utf-8", json.dumps(event).encode()) == (ONE,)


def test_unknown_attributes_are_ignored() -> None:
    (event,) = json.loads(encode([ONE]))
    event["traceparent"] = {"any": "thing"}
    event["data"]["later"] = 1
    assert decode(CONTENT_TYPE, json.dumps(event).encode()) == (ONE,)


def test_unknown_content_type_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        decode("application/json", encode([ONE]))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "2.0"}, "specversion"),
        ({"type": "dev.keyturn.unknown"}, "type"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"subject": "a\nb"}, "subject"),
        ({"source": "x" * 3000}, "source"),
        ({"time": "yesterday"}, "time"),
        ({"data": None}, "data"),
        ({"data": {"account": "1", "region": "r"}}, "eventName"),
    ],
)
def test_malformed_field_is_named_in_the_error(change: dict[str, object], field: str) -> None:
    (event,) = json.loads(encode([ONE]))
    with pytest.raises(MalformedMessage, match=field):
        decode(CONTENT_TYPE, json.dumps({**event, **change}).encode())


@pytest.mark.parametrize(
    "malformed",
    [
        replace(ONE, id=""),
        replace(ONE, source="x" * 2049),
        replace(ONE, subject="\ud800"),
        replace(ONE, time="yesterday"),
        replace(ONE, data=replace(DATA, event_name="")),
        replace(ONE, data=replace(DATA, name="a\nb")),
    ],
)
def test_validate_refuses_a_notification_that_decode_refuses(malformed: Notification) -> None:
    validate(ONE)
    with pytest.raises(MalformedMessage):
        validate(malformed)
    with pytest.raises((MalformedMessage, UnicodeEncodeError)):
        decode(CONTENT_TYPE_BATCH, encode([malformed]))


@given(
    st.builds(
        replace,
        st.just(ONE),
        id=st.text(max_size=3),
        subject=st.text(max_size=3),
        time=st.sampled_from([ONE.time, "now"]),
    )
)
def test_validate_accepts_exactly_what_decode_accepts(notification: Notification) -> None:
    def accepted(check: Callable[[], object]) -> bool:
        try:
            check()
        except (MalformedMessage, UnicodeEncodeError):
            return False
        return True

    by_decode = accepted(lambda: decode(CONTENT_TYPE_BATCH, encode([notification])))
    assert accepted(lambda: validate(notification)) == by_decode


def test_batch_that_is_empty_or_too_long_or_has_duplicate_ids_is_malformed() -> None:
    for batch in ([], [replace(ONE, id=str(number)) for number in range(11)], [ONE, ONE]):
        with pytest.raises(MalformedMessage):
            decode(CONTENT_TYPE_BATCH, encode(batch))


@given(st.sampled_from([CONTENT_TYPE, CONTENT_TYPE_BATCH]), st.binary())
def test_arbitrary_bytes_are_malformed_and_raise_nothing_else(content_type: str, body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(content_type, body)


def test_deeply_nested_json_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        decode(CONTENT_TYPE, b"[" * 16000)


def test_reply_round_trips_through_encode_and_decode() -> None:
    results = (
        Result("1", Outcome.APPLIED, ("team/db",), ("Deployment/team/web",)),
        Result("2", Outcome.FAILED, reason="not done within the deadline"),
        Result("3", Outcome.RETRYING, reason="team/db: it keeps changing", retrying=("team/db",)),
        Result("4", Outcome.APPLIED, ("shop/db",), reason="team/db: it keeps changing", retrying=("team/db",)),
    )
    assert decode_reply(encode_reply(results)) == results


def test_reply_has_no_outcome_that_an_older_notifier_does_not_know() -> None:
    # The outcomes of release 0.2.0: https://github.com/keyturn/keyturn, keyturn_contract/message.py
    known = {"applied", "unchanged", "ignored", "superseded", "failed"}
    reply = json.loads(encode_reply([Result("1", outcome, retrying=("team/db",)) for outcome in Outcome]))
    assert {result["outcome"] for result in reply["results"]} == known


@given(st.binary())
def test_arbitrary_reply_is_malformed_and_raises_nothing_else(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_reply(body)


@pytest.mark.parametrize("reply", ['{"results": [1]}', '{"results": [{"id": "1", "outcome": "great"}]}', "{}"])
def test_reply_of_another_form_is_malformed(reply: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_reply(reply.encode())


@pytest.mark.parametrize("field", ["secrets", "consumers", "retrying", "reason"])
def test_reply_with_half_a_surrogate_pair_is_malformed_like_any_other_text_that_nobody_can_encode(field: str) -> None:
    odd = "team/\ud800"
    reply = {"results": [{"id": "1", "outcome": "applied", field: odd if field == "reason" else [odd]}]}
    with pytest.raises(MalformedMessage, match=f"{field} has half a surrogate pair"):
        decode_reply(json.dumps(reply).encode())
    whole = json.dumps(reply).replace("\\ud800", "\\ud83d\\ude00")  # a whole pair, as JSON escapes it
    assert len(decode_reply(whole.encode())) == 1


def test_state_with_half_a_surrogate_pair_is_left_out() -> None:
    state = {"arn": "arn:a", "versionId": "v1", "state": "stuck", "since": 1, "consumers": ["Deployment/shop/\ud800"]}
    reply = {"results": [{"id": "1", "outcome": "ignored", "versions": [state, {**state, "consumers": []}]}]}
    (result,) = decode_reply(json.dumps(reply).encode())
    assert result.versions == (VersionState("arn:a", "v1", State.STUCK, 1),)


STATES = (
    VersionState("arn:a", "v1", State.LIVE, 1_800_000_000, 9, changed=1_799_999_990),
    VersionState("arn:b", "v2", State.STUCK, 1_800_000_000, consumers=("Deployment/shop/web",)),
)


def released() -> ModuleType:
    """Return the contract's module of release 0.2."""
    archive = Path(__file__).parents[1] / "released" / "keyturn-0.2.0.zip"
    with zipfile.ZipFile(archive) as opened:
        (name,) = (each for each in opened.namelist() if each.endswith("keyturn_contract/message.py"))
        source = opened.read(name).decode()
    spec = importlib.util.spec_from_loader("released_message", loader=None)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 - our own released code
    return module


def test_states_of_versions_round_trip() -> None:
    result = Result("beat", Outcome.IGNORED, reason="heartbeat", versions=STATES)
    assert decode_reply(encode_reply([result])) == (result,)


def test_release_0_2_reads_a_reply_with_states_and_its_own_reply_has_none() -> None:
    old = released()
    reply = encode_reply([Result("beat", Outcome.IGNORED, reason="heartbeat", versions=STATES)])
    (read,) = old.decode_reply(reply)
    assert (read.id, read.outcome.value, read.reason) == ("beat", "ignored", "heartbeat")
    (ours,) = decode_reply(old.encode_reply([old.Result("beat", old.Outcome.IGNORED, reason="heartbeat")]))
    assert (ours.id, ours.versions) == ("beat", ())


@pytest.mark.parametrize(
    "broken",
    [
        {"state": "resting"},
        {"since": "now"},
        {"since": -1},
        {"since": 10**15},
        {"since": 1.5},
        {"seconds": "9"},
        {"arn": ""},
        {"arn": "a\u0007b"},
        {"versionId": None},
        {"versionId": "v" * 3000},
        {"consumers": "web"},
    ],
)
def test_state_that_is_not_understood_is_left_out_and_the_others_are_read(broken: dict[str, object]) -> None:
    (result,) = json.loads(encode_reply([Result("beat", Outcome.IGNORED, versions=STATES)]))["results"]
    result["versions"].insert(0, {**result["versions"][0], **broken})
    (read,) = decode_reply(json.dumps({"results": [result]}).encode())
    assert read.versions == STATES


@pytest.mark.parametrize("versions", [None, "x", 7, {}, [None], [[]], ["x"], [{}]])
def test_states_of_another_shape_are_none(versions: object) -> None:
    result = {"id": "beat", "outcome": "ignored", "secrets": [], "consumers": [], "versions": versions}
    (read,) = decode_reply(json.dumps({"results": [result]}).encode())
    assert read.versions == ()
