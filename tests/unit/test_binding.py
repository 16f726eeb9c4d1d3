"""Reading a labelled Secret's annotations."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.binding import DATA, SECRET_ID, VERSION_STAGE, Entry, Source, Target, read_binding
from keyturn_receiver.core.identity import aliases, possible_names
from keyturn_receiver.errors import InvalidBinding

TARGET = Target("team", "db")
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-a1B2c3"


def read(**annotations: str):
    names = {"secret_id": SECRET_ID, "data": DATA, "stage": VERSION_STAGE}
    return read_binding(TARGET, {names[name]: value for name, value in annotations.items()})


def test_without_data_everything_is_taken() -> None:
    binding = read(secret_id="prod/db")
    assert binding.everything_of == Source("prod/db", "AWSCURRENT")
    assert binding.entries == ()


def test_each_line_of_data_is_one_key() -> None:
    binding = read(secret_id=ARN, data="A: a.b\nURL: join('', ['x://', host, ':', port])\nNO: '\"my-key\"'\n")
    source = Source(ARN)
    assert binding.everything_of is None
    assert binding.entries == (
        Entry("A", source, "a.b"),
        Entry("URL", source, "join('', ['x://', host, ':', port])"),
        Entry("NO", source, '"my-key"'),  # YAML 1.1 would make it `false`
    )


def test_a_binding_may_name_another_staging_label() -> None:
    assert read(secret_id="prod/db", stage="blue").sources == {Source("prod/db", "blue")}


@pytest.mark.parametrize(
    ("annotations", "advice"),
    [
        ({}, "set it to the name or ARN"),
        ({"secret_id": "no spaces"}, "copy it from the console"),
        ({"secret_id": "arn:aws:s3:::bucket"}, "copy it from the console"),
        ({"secret_id": "a", "stage": ""}, "name a staging label"),
        ({"secret_id": "a", "data": ""}, "at least one line"),
        ({"secret_id": "a", "data": "- a"}, "at least one line"),
        ({"secret_id": "a", "data": "A: {b: c}"}, "quote the expression"),
        ({"secret_id": "a", "data": "A: *alias"}, "is not YAML (line 1"),
        ({"secret_id": "a", "data": "A: a\nA: b"}, "is there twice"),
        ({"secret_id": "a", "data": "A/B: a"}, "is no key for a Secret"),
        ({"secret_id": "a", "data": "A:"}, "expression is empty"),
        ({"secret_id": "a", "data": "A: my-key"}, "needs double quotes"),
        ({"secret_id": "a", "data": "A: " + "a" * 5000}, "shorten it"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(annotations: dict[str, str], advice: str) -> None:
    with pytest.raises(InvalidBinding) as caught:
        read(**annotations)
    assert advice in str(caught.value)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InvalidBinding) as caught:
        read(data="A: a b\nB: c d\n")
    assert str(caught.value).count(";") == 2


@given(st.text(), st.text())
def test_whatever_is_written_the_answer_is_a_binding_or_a_clear_error(secret_id: str, data: str) -> None:
    with suppress(InvalidBinding):
        assert read(secret_id=secret_id, data=data).entries


def test_a_bare_name_is_never_shortened() -> None:
    assert possible_names("prod/db-abcdef") == ("prod/db-abcdef",)


def test_an_arn_stands_for_the_name_with_and_without_its_end() -> None:
    assert possible_names(ARN) == ("prod/db-a1B2c3", "prod/db")
    assert aliases(ARN, "prod/db") == {ARN, ARN[:-7], "prod/db-a1B2c3", "prod/db"}
