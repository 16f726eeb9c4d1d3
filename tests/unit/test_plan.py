"""Planning: which data is written to a Secret, and which keys count as changed."""

from dataclasses import replace

import pytest

from keyturn_receiver.core.binding import Binding, Entry, Source, Target
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.plan import LiveSecret, Plan, plan
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import (
    UNKNOWN,
    Record,
    data_hash,
    digest,
    next_revision,
    read_record,
    unkeyed_data_hash,
    write_record,
)
from keyturn_receiver.errors import ClusterRefused, InvalidValue
from support.bindings import KEYED

SOURCE = Source("prod/db")
TARGET = Target("team", "db")
BINDING = Binding(TARGET, SOURCE, (), "Secret")


def live(data: dict[str, bytes], record: Record | None = None, immutable: bool = False) -> LiveSecret:
    return LiveSecret(TARGET, "uid", "1", "Opaque", immutable, record or Record(), data)


def planned(before: LiveSecret, data: dict[str, bytes], version: str, former: dict[str, str] | None = None) -> Plan:
    versions = {SOURCE: SecretVersion("arn", "prod/db", version, "")}
    # The simplest possible fingerprint of a value is the value itself.
    return plan(BINDING, "binding", before, data, versions, data, KEYED, former=former)


def after(made: Plan) -> LiveSecret:
    """Return the Secret as it is after the plan has been applied."""
    return live(dict(made.data), made.record)


def test_first_write_gives_every_key_the_version_id_as_its_revision() -> None:
    made = planned(live({}), {"a": b"1"}, "v1")
    assert made.write
    assert made.record.revisions == {"a": "v1"}
    assert made.before == {"a": UNKNOWN}


def test_data_that_exists_before_the_first_write_is_unchanged() -> None:
    made = planned(live({"a": b"1"}), {"a": b"1"}, "v1")
    assert made.write  # the Secret has no record yet
    assert made.changed_keys == ()
    assert made.before == made.record.revisions == {"a": "v1"}


def test_equal_data_and_version_are_not_written() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    assert not planned(after(first), {"a": b"1"}, "v1").write


def test_value_that_returns_with_a_new_secret_keeps_its_revision() -> None:
    made = planned(live({}), {"a": b"1", "b": b"2"}, "v2", {"a": "v1"})
    assert made.record.revisions == {"a": "v1", "b": "v2"}
    assert planned(live({"a": b"1"}), {"a": b"1"}, "v2", {"a": "v1"}).record.revisions == {"a": "v1"}


def test_value_that_returns_in_place_of_another_one_gets_a_new_revision() -> None:
    """Pods may have started with the placeholder that the new Secret came with."""
    made = planned(live({"a": b"placeholder"}), {"a": b"1"}, "v2", {"a": "v1"})
    assert made.record.revisions == {"a": "v2"}


def test_only_keys_with_a_new_value_get_the_new_revision() -> None:
    first = planned(live({}), {"a": b"1", "b": b"1"}, "v1")
    second = planned(after(first), {"a": b"2", "b": b"1"}, "v2")
    assert second.record.revisions == {"a": "v2", "b": "v1"}
    assert second.before == {"a": "v1", "b": "v1"}
    assert second.changed_keys == ("a",)


def test_new_version_with_the_same_value_is_recorded_without_a_new_revision() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    second = planned(after(first), {"a": b"1"}, "v2")
    assert second.write
    assert second.record.revisions == second.before == {"a": "v1"}


def test_rollback_restores_the_old_revision() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    second = planned(after(first), {"a": b"2"}, "v2")
    third = planned(after(second), {"a": b"1"}, "v1")
    assert third.record.revisions == {"a": "v1"}


def test_record_knows_the_keys_of_other_writers_and_forgets_a_key_that_goes() -> None:
    first = planned(live({"theirs": b"1"}), {"a": b"1", "b": b"1"}, "v1")
    assert (first.record.revisions.keys(), first.record.other_keys) == ({"a", "b"}, {"theirs"})
    second = planned(live({"theirs": b"1", **first.data}, first.record), {"a": b"1"}, "v2")
    assert (second.record.revisions.keys(), second.record.other_keys) == ({"a"}, {"theirs"})
    assert [second.record.has_key(key) for key in ("a", "b", "theirs")] == [True, False, True]
    assert read_record({}).has_key("b")  # the annotations do not tell which keys the Secret has


def test_edited_value_is_restored_under_the_same_revision() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    made = planned(live({"a": b"edited"}, first.record), {"a": b"1"}, "v1")
    assert made.changed_keys == ("a",)
    assert made.record.revisions == made.before == {"a": "v1"}


def test_revision_contains_the_expression_unless_it_is_the_key() -> None:
    def made(expression: str, key: str = "a") -> str:
        binding = Binding(TARGET, None, (Entry(key, SOURCE, expression),), "Secret")
        versions = {SOURCE: SecretVersion("arn", "prod/db", "v1", "")}
        return plan(binding, "binding", live({}), {key: b"1"}, versions, {key: b"1"}, KEYED).record.revisions[key]

    assert made("a") == made(" a ") == "v1"
    assert made("b").startswith("v1.")
    assert made("b") == made("b", "c") != made("d")


def test_new_value_of_the_same_version_gets_a_counted_revision() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    second = planned(after(first), {"a": b"other"}, "v1")
    assert second.record.revisions == {"a": "v1+1"}
    third = planned(after(second), {"a": b"1"}, "v1")
    assert third.record.revisions == {"a": "v1+2"}


def test_removed_key_is_a_change() -> None:
    first = planned(live({}), {"a": b"1", "b": b"1"}, "v1")
    second = planned(after(first), {"a": b"1"}, "v2")
    assert second.changed_keys == ("b",)
    assert second.record.revisions == {"a": "v1"}
    assert second.before == {"a": "v1", "b": "v1"}


def test_keys_of_other_owners_are_ignored() -> None:
    first = planned(live({"theirs": b"x"}), {"a": b"1"}, "v1")
    assert first.record.revisions.keys() == first.data.keys() == {"a"}


def test_immutable_secret_is_refused_only_if_its_data_changes() -> None:
    with pytest.raises(ClusterRefused):
        planned(live({}, immutable=True), {"a": b"1"}, "v1")
    assert planned(live({"a": b"1"}, immutable=True), {"a": b"1"}, "v1").changed_keys == ()


def test_record_of_ten_thousand_keys_is_refused_as_too_long() -> None:
    with pytest.raises(InvalidValue, match="name those you need"):
        planned(live({}), {f"key-{number}": b"" for number in range(10_000)}, "v" * 32)


def test_error_status_is_overwritten_although_the_data_is_equal() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    failed = replace(first.record, status="SourceRefused: ...")
    made = planned(live({"a": b"1"}, failed), {"a": b"1"}, "v1")
    assert made.write
    assert made.record.status == "ok"
    assert made.changed_keys == ()


def test_record_read_from_its_annotations_is_equal() -> None:
    record = Record({"arn#AWSCURRENT": "v1"}, {"a": "v1"}, data_hash(KEYED, "uid", {"a": b"1"}), "hash", "ok")
    annotations = write_record(record, "2026-11-24T00:00:00Z")
    assert read_record(annotations) == record


@pytest.mark.parametrize("malformed", ["", "{", "[]", "null", '{"a": 1}', "[" * 9999])
def test_malformed_annotations_count_as_missing(malformed: str) -> None:
    annotations = {"keyturn.dev/revisions": malformed, "keyturn.dev/version-ids": malformed}
    assert not read_record(annotations).was_written


def test_hashes_separate_keys_from_values_and_ignore_order() -> None:
    assert data_hash(KEYED, "uid", {"a": b"bc"}) != data_hash(KEYED, "uid", {"ab": b"c"})
    assert data_hash(KEYED, "uid", {"a": b"1", "b": b"2"}) == data_hash(KEYED, "uid", {"b": b"2", "a": b"1"})
    assert digest({"a": "v1", "b": "v2"}, ["b", "a"]) == digest({"b": "v2", "a": "v1"}, ["a", "b", "a"])


def test_value_without_any_recorded_key_is_refused() -> None:
    """JSON without any of the known properties may be that of another secret."""
    first = planned(live({}), {"user": b"u", "password": b"p"}, "v1")
    with pytest.raises(InvalidValue, match="none of the keys"):
        planned(after(first), {"token": b"t"}, "v2")
    assert planned(after(first), {"user": b"u"}, "v2").write  # a value with fewer keys is a valid change in AWS


def test_text_becomes_json_and_json_becomes_text() -> None:
    text = planned(live({}), {"value": b"t"}, "v1")
    as_json = planned(after(text), {"token": b"t", "user": b"u"}, "v2")
    assert as_json.changed_keys == ("token", "user", "value")
    assert as_json.record.revisions == {"token": "v2", "user": "v2"}
    back = planned(after(as_json), {"value": b"t"}, "v3")
    assert back.changed_keys == ("token", "user", "value")
    assert back.record.revisions == {"value": "v3"}


@pytest.mark.parametrize("blank", [b"", b" ", b"\r\n", b"\xef\xbb\xbf", b"null\n", b'""', b"[]", b"[ ]"])
def test_blank_text_does_not_replace_json(blank: bytes) -> None:
    first = planned(live({}), {"user": b"u"}, "v1")
    with pytest.raises(InvalidValue, match="it is blank, and the Secret holds keys"):
        planned(after(first), {"value": blank}, "v2")
    assert planned(after(planned(live({}), {"value": b"x"}, "v1")), {"value": blank}, "v2").write


def test_malformed_parts_of_annotations_are_dropped() -> None:
    malformed = {
        "keyturn.dev/revisions": '{"a": "\\ud800", "b": "v1", "c": 1}',
        "keyturn.dev/version-ids": "[" * 50_000,
    }
    record = read_record(malformed)
    assert (record.revisions, record.version_ids) == ({"b": "v1"}, {})
    assert next_revision("v1+" + "9" * 5000, "v1") == "v1+1"


def holding(before: LiveSecret, **holders: str) -> LiveSecret:
    """Return the Secret with keys that other writers hold. ``holders`` maps each key to its writer."""
    return replace(before, fingerprints={**before.fingerprints, **dict.fromkeys(holders, b"x")}, holders=holders)


def test_key_of_another_writer_that_aws_begins_to_name_is_not_taken_over() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    with pytest.raises(InvalidValue, match=r"prod/db now names keys .*: ca.crt \(held by kubectl-edit\): remove"):
        planned(holding(after(first), **{"ca.crt": "kubectl-edit"}), {"a": b"2", "ca.crt": b"y"}, "v2")
    with pytest.raises(InvalidValue, match="held by an unknown field manager"):
        planned(holding(after(first), **{"ca.crt": ""}), {"a": b"2", "ca.crt": b"x"}, "v2")


def test_many_keys_of_other_writers_are_counted() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    theirs = {f"k{number}": "helm" for number in range(9)}
    with pytest.raises(InvalidValue, match=r"k4 \(held by helm\) and 4 more: remove"):
        planned(holding(after(first), **theirs), {"a": b"1", **dict.fromkeys(theirs, b"")}, "v2")


def test_first_fill_takes_over_placeholders() -> None:
    made = planned(holding(live({}), a="helm"), {"a": b"1"}, "v1")
    assert made.record.revisions == {"a": "v1"}


def test_recorded_key_is_restored_whoever_holds_it_now() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    made = planned(holding(after(first), a="argocd-controller"), {"a": b"1"}, "v1")
    assert made.changed_keys == ("a",)


def test_named_key_is_taken_over() -> None:
    binding = Binding(TARGET, None, (Entry("a", SOURCE, "a"), Entry("b", SOURCE, "b")), "Secret")
    versions = {SOURCE: SecretVersion("arn", "prod/db", "v1", "")}
    first = after(planned(live({}), {"a": b"1"}, "v1"))
    data = {"a": b"1", "b": b"2"}
    made = plan(binding, "binding", holding(first, b="helm"), data, versions, data, KEYED)
    assert made.changed_keys == ("b",)


def test_secret_that_is_not_intact_is_written_although_nothing_differs() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    for integrity in (Integrity.UNKEYED, Integrity.BROKEN):
        made = planned(replace(after(first), integrity=integrity), {"a": b"1"}, "v1")
        assert (made.write, made.changed_keys, made.record) == (True, (), first.record)


def test_record_with_the_hash_of_release_0_2_is_rewritten_under_the_same_revision() -> None:
    first = planned(live({}), {"a": b"1"}, "v1")
    old = replace(first.record, data_hash=unkeyed_data_hash({"a": b"1"}))
    made = planned(live({"a": b"1"}, old), {"a": b"1"}, "v1")
    assert (made.write, made.changed_keys, made.record) == (True, (), first.record)
    edited = planned(live({"a": b"edited"}, old), {"a": b"1"}, "v1")
    assert (edited.changed_keys, edited.record) == (("a",), first.record)
