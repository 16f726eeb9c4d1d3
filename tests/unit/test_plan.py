"""What is written to a Secret, and which keys count as changed."""

from dataclasses import replace

import pytest

from keyturn_receiver.core.binding import Binding, Entry, Source, Target
from keyturn_receiver.core.plan import LiveSecret, Plan, plan
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import (
    UNKNOWN,
    Record,
    data_hash,
    digest,
    next_revision,
    read_record,
    write_record,
)
from keyturn_receiver.errors import ClusterRefused, InvalidValue

SOURCE = Source("prod/db")
TARGET = Target("team", "db")
BINDING = Binding(TARGET, SOURCE, (), "Secret")


def live(data: dict[str, bytes], record: Record | None = None, immutable: bool = False) -> LiveSecret:
    return LiveSecret(TARGET, "uid", "1", "Opaque", immutable, record or Record(), data)


def itself(value: bytes) -> bytes:
    """The plainest of fingerprints."""
    return value


def planned(before: LiveSecret, data: dict[str, bytes], version: str) -> Plan:
    versions = {SOURCE: SecretVersion("arn", "prod/db", version, "")}
    return plan(BINDING, "binding", before, data, versions, itself)


def after(made: Plan) -> LiveSecret:
    """The Secret once the plan is applied."""
    return live(dict(made.data), made.record)


def test_the_first_write_gives_every_key_the_version_as_its_revision() -> None:
    made = planned(live({}), {"a": b"1"}, "v1")
    assert made.write
    assert made.record.revisions == {"a": "v1"}
    assert made.before == {"a": UNKNOWN}


def test_data_that_was_there_already_has_not_changed() -> None:
    made = planned(live({"a": b"1"}), {"a": b"1"}, "v1")
    assert made.write  # it says from now on where it is from
    assert made.changed_keys == ()
    assert made.before == made.record.revisions == {"a": "v1"}


def test_nothing_is_written_when_nothing_differs() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    assert not planned(after(first), {"a": b"1"}, "v1").write


def test_only_the_keys_whose_value_changes_get_the_new_revision() -> None:
    first = planned(live({}), {"a": b"1", "b": b"1"}, "v1")
    second = planned(after(first), {"a": b"2", "b": b"1"}, "v2")
    assert second.record.revisions == {"a": "v2", "b": "v1"}
    assert second.before == {"a": "v1", "b": "v1"}
    assert second.changed_keys == ("a",)


def test_a_new_version_with_the_same_value_is_noted_and_restarts_nobody() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    second = planned(after(first), {"a": b"1"}, "v2")
    assert second.write
    assert second.record.revisions == second.before == {"a": "v1"}


def test_a_roll_back_takes_the_revision_back_too() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    second = planned(after(first), {"a": b"2"}, "v2")
    third = planned(after(second), {"a": b"1"}, "v1")
    assert third.record.revisions == {"a": "v1"}


def test_what_a_hand_has_edited_is_restored_under_the_same_revision() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    made = planned(live({"a": b"edited"}, first.record), {"a": b"1"}, "v1")
    assert made.changed_keys == ("a",)
    assert made.record.revisions == made.before == {"a": "v1"}


def test_an_expression_is_a_part_of_the_revision() -> None:
    def made(expression: str, key: str = "a") -> str:
        binding = Binding(TARGET, None, (Entry(key, SOURCE, expression),), "Secret")
        versions = {SOURCE: SecretVersion("arn", "prod/db", "v1", "")}
        return plan(binding, "binding", live({}), {key: b"1"}, versions, itself).record.revisions[key]

    assert made("a") == made(" a ") == "v1"
    assert made("b").startswith("v1.")
    assert made("b") == made("b", "c") != made("d")


def test_another_value_of_the_same_revision_is_a_change_all_the_same() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    second = planned(after(first), {"a": b"other"}, "v1")
    assert second.record.revisions == {"a": "v1+1"}
    third = planned(after(second), {"a": b"1"}, "v1")
    assert third.record.revisions == {"a": "v1+2"}


def test_a_key_that_is_gone_is_a_change() -> None:
    first = planned(live({}), {"a": b"1", "b": b"1"}, "v1")
    second = planned(after(first), {"a": b"1"}, "v2")
    assert second.changed_keys == ("b",)
    assert second.record.revisions == {"a": "v1"}
    assert second.before == {"a": "v1", "b": "v1"}


def test_keys_of_others_are_none_of_our_business() -> None:
    first = planned(live({"theirs": b"x"}), {"a": b"1"}, "v1")
    assert first.record.revisions.keys() == first.data.keys() == {"a"}


def test_an_immutable_secret_is_refused_only_if_it_would_have_to_change() -> None:
    with pytest.raises(ClusterRefused):
        planned(live({}, immutable=True), {"a": b"1"}, "v1")
    assert planned(live({"a": b"1"}, immutable=True), {"a": b"1"}, "v1").changed_keys == ()


def test_what_is_noted_of_ten_thousand_keys_fits_into_no_annotation() -> None:
    with pytest.raises(InvalidValue, match="name those you need"):
        planned(live({}), {f"key-{number}": b"" for number in range(10_000)}, "v" * 32)


def test_a_status_that_told_of_an_error_is_written_over_though_the_data_is_right() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    failed = replace(first.record, status="SourceRefused: ...")
    made = planned(live({"a": b"1"}, failed), {"a": b"1"}, "v1")
    assert made.write
    assert made.record.status == "ok"
    assert made.changed_keys == ()


def test_the_record_survives_the_annotations() -> None:
    record = Record({"arn#AWSCURRENT": "v1"}, {"a": "v1"}, data_hash({"a": b"1"}), "hash", "ok")
    annotations = write_record(record, "2026-11-24T00:00:00Z")
    assert read_record(annotations) == record


@pytest.mark.parametrize("garbled", ["", "{", "[]", "null", '{"a": 1}', "[" * 9999])
def test_garbled_annotations_count_as_none(garbled: str) -> None:
    annotations = {"keyturn.dev/revisions": garbled, "keyturn.dev/version-ids": garbled}
    assert not read_record(annotations).filled


def test_hashes_do_not_confuse_keys_with_values() -> None:
    assert data_hash({"a": b"bc"}) != data_hash({"ab": b"c"})
    assert digest({"a": "v1", "b": "v2"}, ["b", "a"]) == digest({"b": "v2", "a": "v1"}, ["a", "b", "a"])


def test_a_value_that_has_none_of_the_keys_takes_nothing_away() -> None:
    """JSON that was cut off is text, and text goes under one key."""
    first = planned(live({}), {"user": b"u", "password": b"p"}, "v1")
    with pytest.raises(InvalidValue, match="none of the keys"):
        planned(after(first), {"value": b'{"user": "u", "passw'}, "v2")
    assert planned(after(first), {"user": b"u"}, "v2").write  # fewer keys are what AWS says


def test_what_a_hand_has_garbled_counts_as_not_there() -> None:
    garbled = {"keyturn.dev/revisions": '{"a": "\\ud800", "b": "v1", "c": 1}', "keyturn.dev/version-ids": "[" * 50_000}
    record = read_record(garbled)
    assert (record.revisions, record.version_ids) == ({"b": "v1"}, {})
    assert next_revision("v1+" + "9" * 5000, "v1") == "v1+1"
