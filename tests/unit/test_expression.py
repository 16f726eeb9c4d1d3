"""JMESPath expressions: the cost bound holds for every expression, even a hostile one."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.expression import MAX_COST, EvaluationError, cost, evaluate, validate_expression

BOMBS = {
    "doubled with each bar": "|".join(["[@,@]"] * 60),
    "flattened, which copies": "|".join(["[@,@][]"] * 40),
    "shared until to_string() copies it": "|".join(["[@,@]"] * 30) + "|to_string(@)",
    "joined with itself": "join(@, [@,@])|join(@, [@,@])|join(@, [@,@])|join(@, [@,@])",
    "escaped again and again": "to_string([" * 40 + "@" + "])" * 40,
    "a map inside a map": "map(&[@,@,@,@], [@,@,@,@]|[@,@,@,@]|[@,@,@,@]|[@,@,@,@]|[@,@,@,@]|[@,@,@,@])",
    "compared part by part": " == ".join(["|".join(["[@,@]"] * 40)] * 2),
    "as an object": "|".join(["{a:@,b:@}"] * 60),
    "projections inside projections": "[*].[*].[*].[*]",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize(
    "document", ["x" * 60_000, [1] * 30_000, {"a": {"b": "c" * 60_000}}], ids=["text", "list", "object"]
)
def test_expression_over_the_cost_limit_is_refused_before_evaluation(bomb: str, document: object) -> None:
    assert validate_expression(bomb) is None
    size = len(json.dumps(document))
    if cost(bomb, size) > MAX_COST:
        with pytest.raises(EvaluationError, match="simplify the expression"):
            evaluate(bomb, document, size)
    else:
        with suppress(EvaluationError):  # the expression may have no result for this document
            assert len(json.dumps(evaluate(bomb, document, size))) < MAX_COST


def test_deeply_nested_projections_are_refused_by_validation() -> None:
    assert "simplify it" in str(validate_expression("a" + "[*]" * 50))


@pytest.mark.parametrize(
    "expression",
    [
        "password",
        "join('', ['postgres://', username, ':', password, '@', host, '/app'])",
        "to_string(@)",
        "[*].name|join(',', @)",
        "keys(@)|sort(@)|join(',', @)",
        "hosts[?port > `80`].{name: name, port: to_string(port)}",
    ],
)
def test_common_expression_costs_a_small_part_of_the_limit(expression: str) -> None:
    assert cost(expression, 4096) < MAX_COST / 20


def test_largest_secret_passes_to_string() -> None:
    document = {"key": "x" * 65_000}
    assert evaluate("to_string(@)", document, 65_536) == json.dumps(document, separators=(",", ":"))


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab"\\é\U0001f600', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=20,
)
leaves = st.sampled_from(["@", "a", "b", "'x'", "`[1,2]`", "[0]", "[*]", "[]", "*", "[::2]", "values(@)", "keys(@)"])
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"[{pair[0]}, {pair[1]}]"),
        st.tuples(inner, inner).map(lambda pair: f"{{a: {pair[0]}, b: {pair[1]}}}"),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) || ({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"join(to_string({pair[0]}), [to_string({pair[1]}), 'y'])"),
        st.tuples(inner, inner).map(lambda pair: f"map(&({pair[0]}), [{pair[1]}])"),
        inner.map(lambda each: f"({each})[*].[@, @]"),
        inner.map(lambda each: f"({each})[]"),
        inner.map(lambda each: f"to_string({each})"),
        inner.map(lambda each: f"to_array({each})"),
    ),
    max_leaves=8,
)


@given(documents, expressions)
def test_size_of_any_result_is_within_the_cost_bound(document: object, expression: str) -> None:
    if validate_expression(expression):
        return
    size = len(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
    try:
        result = evaluate(expression, document, size)
    except EvaluationError:
        return
    assert len(json.dumps(result, ensure_ascii=False, separators=(",", ":"))) <= cost(expression, size)
