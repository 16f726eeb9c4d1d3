"""Bindings: the annotations of a labelled Secret are parsed and checked."""

import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.arn import account_scope, candidate_names, region
from keyturn_receiver.core.binding import (
    DATA,
    ON_DELETE,
    SECRET_ID,
    SERVICE_ACCOUNT,
    VERSION_STAGE,
    Entry,
    OnDelete,
    Source,
    Target,
    binding_hash,
    read_binding,
    read_spec,
)
from keyturn_receiver.errors import InvalidBinding

TARGET = Target("team", "db")
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-a1B2c3"


def read(**annotations: str):
    names = {
        "secret_id": SECRET_ID,
        "data": DATA,
        "stage": VERSION_STAGE,
        "service_account": SERVICE_ACCOUNT,
        "on_delete": ON_DELETE,
    }
    return read_binding(TARGET, read_spec({names[name]: value for name, value in annotations.items()}))


def test_binding_without_data_takes_every_key() -> None:
    binding = read(secret_id="prod/db")
    assert binding.everything_of == Source("prod/db", "AWSCURRENT")
    assert binding.entries == ()


def test_each_line_of_data_is_one_key_with_its_expression() -> None:
    binding = read(secret_id=ARN, data="A: a.b\nURL: join('', ['x://', host, ':', port])\nNO: '\"my-key\"'\n")
    source = Source(ARN)
    assert binding.everything_of is None
    assert binding.entries == (
        Entry("A", source, "a.b"),
        Entry("URL", source, "join('', ['x://', host, ':', port])"),
        Entry("NO", source, '"my-key"'),  # YAML 1.1 would read the key NO as false
    )


def test_binding_reads_the_staging_label_that_it_names() -> None:
    assert read(secret_id="prod/db", stage="blue").sources == {Source("prod/db", "blue")}


def test_binding_sets_deletion_and_service_account() -> None:
    binding = read(secret_id="prod/db")
    assert (binding.on_delete, binding.service_account) == (OnDelete.RETAIN, "")
    binding = read(secret_id="prod/db", on_delete="delete", service_account="app")
    assert (binding.on_delete, binding.service_account) == (OnDelete.DELETE, "app")


def test_binding_hash_changes_only_with_annotations_that_decide_on_data() -> None:
    annotations = {SECRET_ID: "prod/db", DATA: "A: a"}
    same = binding_hash({**annotations, ON_DELETE: "delete", "other": "x"})
    assert binding_hash(annotations) == same
    for edited in ({DATA: "A: b"}, {SECRET_ID: "prod/dc"}, {VERSION_STAGE: "blue"}, {SERVICE_ACCOUNT: "app"}):
        assert binding_hash({**annotations, **edited}) != same


@pytest.mark.parametrize(
    ("annotations", "advice"),
    [
        ({}, "set it to the name or ARN"),
        ({"secret_id": "no spaces"}, "copy it from the console"),
        ({"secret_id": "arn:aws:s3:::bucket"}, "copy it from the console"),
        ({"secret_id": "arn:secret:a/b"}, "copy it from the console"),
        ({"secret_id": "arn:aws:secretsmanager:-:123456789012:secret:a"}, "copy it from the console"),
        ({"secret_id": "a", "data": '"..": a'}, "is not a valid key for a Secret"),
        ({"secret_id": "a", "stage": ""}, "name a staging label"),
        ({"secret_id": "a", "data": ""}, "at least one line"),
        ({"secret_id": "a", "data": "- a"}, "at least one line"),
        ({"secret_id": "a", "data": "A: {b: c}"}, 'with the expression in quotes, as in A: "{b: c}"'),
        ({"secret_id": "a", "data": "A: *alias"}, "is not YAML (line 1"),
        ({"secret_id": "a", "data": "A: a\nA: b"}, "appears twice"),
        ({"secret_id": "a", "data": "A/B: a"}, "is not a valid key for a Secret"),
        ({"secret_id": "a", "data": "A:"}, "expression is empty"),
        ({"secret_id": "a", "data": "A: my-key"}, "needs double quotes"),
        ({"secret_id": "a", "data": "A: my-key"}, "A: '\"my-key\"'"),
        ({"secret_id": "a", "data": "A: " + "a" * 5000}, "shorten it"),
        ({"secret_id": "a", "data": "A: a" + "[*]" * 100}, "simplify it"),
        ({"secret_id": "a", "data": "A: a\n" * 20000}, "bind several Secrets"),
        ({"secret_id": "a", "service_account": "../other"}, "name one of this namespace"),
        ({"secret_id": "a", "on_delete": "yes"}, "must be retain or delete"),
    ],
)
def test_invalid_annotation_raises_an_error_with_advice(annotations: dict[str, str], advice: str) -> None:
    with pytest.raises(InvalidBinding) as caught:
        read(**annotations)
    assert advice in str(caught.value)


def test_error_names_every_fault_at_once() -> None:
    with pytest.raises(InvalidBinding) as caught:
        read(data="A: a b\nB: c d\n")
    assert str(caught.value).count(";") == 2


@given(st.text(), st.text())
def test_any_annotations_parse_or_raise_invalid_binding(secret_id: str, data: str) -> None:
    with suppress(InvalidBinding):
        assert read(secret_id=secret_id, data=data).entries


def test_bare_name_is_never_shortened() -> None:
    assert candidate_names("prod/db-abcdef") == ("prod/db-abcdef",)


def test_arn_means_the_name_with_and_without_its_last_seven_characters() -> None:
    assert candidate_names(ARN) == ("prod/db-a1B2c3", "prod/db")
    assert candidate_names(ARN[:-7]) == ("prod/db",)


def test_arn_has_an_account_and_a_region_and_a_bare_name_has_none() -> None:
    assert (account_scope(ARN), region(ARN)) == ("arn:aws:secretsmanager:eu-west-1:123456789012", "eu-west-1")
    assert (account_scope("prod/db"), region("prod/db")) == ("", "")
    assert region("arn:secret:team/db") == ""


@pytest.mark.parametrize(
    "line",
    [
        "URL: join(': ', [user, host])",
        "KEY: @",
        "KEY: `1`",
        'KEY: join(": ", [a])',
        "KEY: 'a' || 'b': c",
        "KEY: [a, b]",
        "KEY: {a: b}",
        "KEY: *",
        "KEY: join('\\n', [a, 'x: y'])",
    ],
)
def test_line_in_the_advice_for_bad_yaml_is_yaml_and_keeps_the_expression(line: str) -> None:
    with pytest.raises(InvalidBinding) as told:
        read(secret_id="prod/db", data=f"FIRST: first\n{line}\nLAST: last")
    message = str(told.value)
    key, _, expression = line.partition(": ")
    if "as in " not in message and "quote the expression: " not in message:
        assert expression.startswith(("'", '"'))  # an expression that begins with a quote is quoted already
        return
    advice = message.rpartition("as in ")[2] if "as in " in message else message.rpartition("the expression: ")[2]
    assert yaml.safe_load(advice) == {key: expression}


@pytest.mark.parametrize(
    ("line", "is_expression"),
    [
        ("KEY: !x y", False),
        ("KEY: !a", True),
        ("KEY: &a", True),
        ("KEY: &a b", False),
        ("KEY: !!int port", False),
        ("KEY: ! y", True),
        ('KEY: !x "y"', False),
    ],
)
def test_tag_or_anchor_of_yaml_is_told_with_what_to_write(line: str, is_expression: bool) -> None:
    with pytest.raises(InvalidBinding) as told:
        read(secret_id="prod/db", data=f"FIRST: first\n{line}\nLAST: last")
    key, _, expression = line.partition(": ")
    message = str(told.value)
    assert message.startswith("annotation keyturn.dev/data, line 2: YAML takes !, & and * before a text as a mark")
    assert ": remove it, or " in message
    _, found, advised = message.partition(", or, for a constant")[0].partition(", as in ")
    assert found or message.endswith("use quotes")
    if found:
        read(secret_id="prod/db", data=advised)
    meant = expression if is_expression else f"'{expression}'"
    assert not found or yaml.safe_load(advised) == {key: meant}


def test_list_with_a_tag_is_told_to_be_no_text() -> None:
    with pytest.raises(InvalidBinding, match=r"line 1: key and expression must be plain text"):
        read(secret_id="prod/db", data="A: !!python/object/apply:os.abort []")


def test_alias_of_yaml_is_refused_with_its_anchor() -> None:
    with pytest.raises(InvalidBinding) as told:
        read(secret_id="prod/db", data="FIRST: &a first\nSECOND: *a\n")
    assert [f"line {number}: YAML takes" in str(told.value) for number in (1, 2)] == [True, True]


@pytest.mark.parametrize("expression", ["a != 'x' && b || c", "hosts[*].name", '"!a"', '"*.b"', "length(@) && a"])
def test_marks_inside_an_expression_are_parts_of_it(expression: str) -> None:
    (entry,) = read(secret_id="prod/db", data=f"KEY: {expression}").entries
    assert entry.expression in expression


def test_very_many_faults_of_yaml_are_told_quickly() -> None:
    for line in ("A: &a b\n", "A: [b]\n"):
        started = time.process_time()
        with pytest.raises(InvalidBinding):
            read(secret_id="prod/db", data=line * 7000)
        assert time.process_time() - started < 2
