"""Rendering: values from AWS become the data of a Secret."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.binding import Binding, Entry, Source, Target
from keyturn_receiver.core.render import SecretVersion, render
from keyturn_receiver.errors import InvalidValue

SOURCE = Source("prod/db")
SECRET_VALUE = "hunter2-canary"


def rendered(value: str | bytes, **expressions: str) -> dict[str, bytes]:
    entries = tuple(Entry(key, SOURCE, expression) for key, expression in expressions.items())
    binding = Binding(Target("team", "db"), None if entries else SOURCE, entries, "Secret")
    return render(binding, {SOURCE: SecretVersion("arn", "prod/db", "v1", value)})


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", b"a"), ("", b""), ("ü", "ü".encode()), (1, b"1"), (1.5, b"1.5"), (False, b"false"), ({"b": [1, "ü"]}, None)],
)
def test_text_is_rendered_as_it_is_and_other_values_as_compact_json(value: object, text: bytes | None) -> None:
    expected = '{"b":[1,"ü"]}'.encode() if text is None else text
    assert rendered(json.dumps({"k": value}), K="k") == {"K": expected}
    assert rendered(json.dumps({"k": value})) == {"k": expected}


def test_expression_at_renders_any_whole_value() -> None:
    assert rendered("plain", K="@") == {"K": b"plain"}
    assert rendered(b"\xff\x00", K="@") == {"K": b"\xff\x00"}
    assert rendered("12345678901234567890.10", K="@") == {"K": b"12345678901234567890.10"}
    assert rendered('{"a": 1}', K="@") == {"K": b'{"a": 1}'}


@pytest.mark.parametrize("digits", [1, 309, 310, 617, 4300, 4301, 9000])
def test_integer_of_any_length_keeps_its_digits(digits: int) -> None:
    number = "7" * digits
    value = f'{{"n": {number}, "l": [{number}]}}'
    assert rendered(value, K="n", L="l[0]", M="l") == {
        "K": number.encode(),
        "L": number.encode(),
        "M": f"[{number}]".encode(),
    }
    assert rendered(f'{{"n": {number}}}') == {"n": number.encode()}


@pytest.mark.parametrize(
    ("value", "expressions", "advice"),
    [
        ("{}", {"K": "a"}, "no such property"),
        ('{"a": null}', {"K": "a"}, "or it is null"),
        ('{"a": null}', {}, "properties are all null"),
        ("plain", {"K": "a"}, "not JSON"),
        (b"\x00", {"K": "a"}, "not JSON"),
        ('{"a b": 1}', {}, "cannot be a key of a Secret"),
        ('{"a": "\\ud800"}', {}, "surrogate"),
        ("\ud800", {}, "surrogate"),
        ('{"a": [1e999]}', {"K": "sum(a)"}, "too large"),
        (f'{{"a": [{"9" * 4300}, {"9" * 4300}]}}', {"K": "sum(a)"}, "too large"),
        (json.dumps({"a": SECRET_VALUE}), {"K": "join('', a)"}, "wrong type"),
        (json.dumps({"a": SECRET_VALUE}), {"K": "abs(a)"}, "wrong type"),
        (json.dumps({"a": "x" * 2**20}), {"K": "a", "L": "a"}, "take fewer of them"),
        ("{}", {}, "has no properties"),
        ('{"..": 1}', {}, "cannot be a key of a Secret"),
        (
            json.dumps({"a": "x" * 60_000}),
            {f"K{number}": "length(to_string(@))" for number in range(50)},
            "simplify them",
        ),
    ],
)
def test_value_that_cannot_be_rendered_raises_an_error_with_advice(
    value: str | bytes, expressions: dict[str, str], advice: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        rendered(value, **expressions)
    assert advice in str(caught.value)
    assert SECRET_VALUE not in str(caught.value)


def test_error_names_every_bad_key() -> None:
    with pytest.raises(InvalidValue) as caught:
        rendered('{"a": "1"}', A="a", B="b", C="c")
    assert "key B" in str(caught.value)
    assert "key C" in str(caught.value)


def test_error_names_the_first_faults_and_counts_the_rest() -> None:
    with pytest.raises(InvalidValue) as caught:
        rendered(json.dumps({f" {number}": number for number in range(4000)}))
    assert "and 3990 more" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_repr_of_a_version_omits_its_value() -> None:
    assert SECRET_VALUE not in repr(SecretVersion("arn", "name", "v1", SECRET_VALUE))


def test_deeply_nested_json_raises_invalid_value() -> None:
    with pytest.raises(InvalidValue):
        rendered("[" * 100_000, K="a")


TEXT = st.text(max_size=20)
LEAVES = st.none() | st.booleans() | st.floats() | st.integers() | TEXT
JSON = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3), max_leaves=5)


@given(st.one_of(st.text(), st.binary(), st.dictionaries(TEXT, JSON, max_size=5).map(json.dumps)))
def test_any_value_renders_or_raises_invalid_value(value: str | bytes) -> None:
    with suppress(InvalidValue):
        assert all(isinstance(content, bytes) for content in rendered(value).values())
