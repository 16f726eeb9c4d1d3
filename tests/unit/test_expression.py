"""JMESPath expressions: the cost bound holds for every expression, even a hostile one."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError

from keyturn_receiver.core.document import extent
from keyturn_receiver.core.expression import (
    CALL,
    MAX_COST,
    MAX_DEPTH,
    MAX_NODES,
    VISIT,
    EvaluationError,
    Extent,
    _Bounds,
    cost,
    evaluate,
    extent_of,
    validate_expression,
)
from keyturn_receiver.core.interpreter import Interpreter
from keyturn_receiver.core.json_text import UnusableValue, write

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
    "encoded for a URL again and again": "url_encode(" * 12 + "to_string(@)" + ")" * 12,
    "encoded in base64 again and again": "base64_encode(" * 30 + "to_string(@)" + ")" * 30,
    "quoted again and again": "to_json(" * 30 + "@" + ")" * 30,
    "replaced by itself": "replace(to_string(@), ',', to_string(@))|replace(@, ',', @)|replace(@, ',', @)",
    "split and joined": "join(to_string(@), split(to_string(@), ','))|join(@, split(@, '1'))",
    "parsed and doubled": "from_json(to_string(@))|[@,@]|to_string(@)|from_json(@)|[@,@,@,@]",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize(
    "document", ["x" * 60_000, [1] * 30_000, {"a": {"b": "c" * 60_000}}], ids=["text", "list", "object"]
)
def test_expression_over_the_cost_limit_is_refused_before_evaluation(bomb: str, document: object) -> None:
    assert validate_expression(bomb) is None
    spent = cost(bomb, extent_of(json.dumps(document)))
    if spent > MAX_COST:
        with pytest.raises(EvaluationError, match="simplify the expression"):
            evaluate(bomb, document, spent)
    else:
        with suppress(EvaluationError):  # the expression may have no result for this document
            assert len(json.dumps(evaluate(bomb, document, spent))) < MAX_COST


def test_deep_literal_at_the_end_of_a_long_chain_is_refused_and_not_raised() -> None:
    deep = "`" + "[" * 900 + "]" * 900 + "`" + "|@" * (MAX_DEPTH - 2)
    assert validate_expression(deep) is None
    assert cost(deep, extent_of("{}")) == MAX_COST + 1


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
    host = {"name": "db-0.example.com", "port": 5432, "role": "primary", "zone": "eu-west-1a", "weight": 100}
    document = json.dumps({"username": "app", "password": "x" * 40, "host": "db", "hosts": [host] * 40})
    assert 4000 < len(document) < 4200
    assert cost(expression, extent_of(document)) < MAX_COST / 10


def test_largest_secret_passes_to_string() -> None:
    document = {"key": "x" * 65_000}
    text = json.dumps(document, separators=(",", ":"))
    assert evaluate("to_string(@)", document, cost("to_string(@)", extent_of(text))) == text


def nested(depth: int, inner: str) -> str:
    return "[?" * depth + inner + "]" * depth


@pytest.mark.parametrize(
    "expression",
    [
        nested(6, "[" + ",".join("@" * 1900) + "]"),
        "|".join("@" * 2000),
        ".".join("a" * 300),
        "(" * 1000 + "@" + ")" * 1000,
        "[" + ",".join(f"a{number}" for number in range(800)) + "]",
        "!" * 500 + "a",
    ],
    ids=["projections", "pipes", "properties", "brackets", "list", "negations"],
)
def test_expression_that_is_dear_to_weigh_is_refused_by_validation(expression: str) -> None:
    fault = validate_expression(expression)
    assert fault is None or "simplify it" in fault or "not a JMESPath expression" in fault
    if fault is None:  # such as for the brackets, which leave no trace in the syntax tree
        assert computed_bounds(expression) <= 8 * MAX_NODES


@pytest.mark.parametrize("depth", range(1, 7))
def test_number_of_computed_bounds_grows_with_the_nodes_and_not_with_two_to_the_nesting(depth: int) -> None:
    expression = nested(depth, "[" + ",".join("@" * 400) + "]")
    assert validate_expression(expression) is None
    assert computed_bounds(expression) <= (depth + 2) * MAX_NODES


def computed_bounds(expression: str) -> int:
    """Return how many bounds of nodes are computed to find the cost of the expression."""
    bounds = _Bounds()
    bounds.of(jmespath.compile(expression).parsed, Extent(64_000, 32_000))
    return len(bounds._known)


def test_limits_of_nodes_and_depth_refuse_no_more_than_they_say() -> None:
    assert validate_expression("[" + ",".join("@" * (MAX_NODES - 1)) + "]") is None
    assert validate_expression("|".join("@" * MAX_DEPTH)) is None
    assert "simplify it" in str(validate_expression("|".join("@" * (MAX_DEPTH + 1))))


class CountingInterpreter(Interpreter):
    """An interpreter that also adds up the units of cost of its visits and of its calls of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.units = 0

    def visit(self, node: Mapping[str, Any], *args: object, **kwargs: object) -> object:
        self.units += VISIT + (CALL if node["type"] == "function_expression" else 0)
        return super().visit(node, *args, **kwargs)


DEAR = [
    "[?@==@]", "[*].a", "[?a==b].{a:a,b:b}", "[*].to_string(@)", "map(&to_string(@), @)", "[][]", "sort(@)",
    "sort_by(@,&to_string(@))", "[*].[@,@,@]|[]|[*].[@]", "max_by(@,&length(to_string(@)))", "[?@ > `0`]", "[?[?@==@]]",
    "[?contains(to_string(@),'a')]", "join(',',[*].to_string(@))", "*.*", "[*].[*].[*]", "[*]|[*]|[*]|[*]",
    "from_json(to_string(@))[*].[@,@]", "split(to_string(@),',')[*].url_encode(@)", "[*].from_json(to_json(@))",
    "map(&base64_decode(base64_encode(to_string(@))), @)", "[*].replace(to_string(@),'1','22')[]",
]  # fmt: skip
DOCUMENTS = {
    "numbers": [1] * 3000,
    "objects": [{"a": 1, "b": "x"}] * 400,
    "lists": [[1] * 3] * 800,
    "texts": ["ab"] * 1200,
    "object": {str(number): {"a": number} for number in range(500)},
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("expression", DEAR)
def test_cost_bound_is_at_least_the_visits_and_calls_of_the_evaluation(expression: str, name: str) -> None:
    document = DOCUMENTS[name]
    interpreter = CountingInterpreter()
    with suppress(JMESPathError, TypeError, EvaluationError):  # an evaluation that fails half-way has cost its visits
        interpreter.visit(jmespath.compile(expression).parsed, document)
    bound = cost(expression, extent_of(json.dumps(document, separators=(",", ":"))))
    assert bound > MAX_COST or interpreter.units <= bound


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab"\\é\U0001f600', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=20,
)
leaves = st.sampled_from(["@", "a", "b", "'x'", "`[1,2]`", "[0]", "[*]", "[]", "*", "[::2]", "values(@)", "keys(@)"])
GROWING = [
    "url_encode({})", "url_decode(url_encode({}))", "base64_encode({})", "base64_decode(base64_encode({}))",
    "upper({})", "lower({})", "trim({})", "replace({}, 'a', 'éé')", "split({}, 'a')", "split({}, ',')|[@, @]",
]  # fmt: skip
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
        inner.map(lambda each: f"from_json(to_json({each}))"),
        st.tuples(st.sampled_from(GROWING), inner).map(lambda pair: pair[0].format(f"to_string({pair[1]})")),
    ),
    max_leaves=8,
)


@given(documents, expressions)
def test_size_of_any_result_is_within_the_cost_bound(document: object, expression: str) -> None:
    if validate_expression(expression):
        return
    spent = cost(expression, extent_of(json.dumps(document, ensure_ascii=False, separators=(",", ":"))))
    try:
        result = evaluate(expression, document, spent)
    except EvaluationError:
        return
    assert len(write(result).encode()) <= spent
    interpreter = CountingInterpreter()
    interpreter.visit(jmespath.compile(expression).parsed, document)
    assert interpreter.units <= spent


@given(st.text(max_size=30), st.lists(st.sampled_from(GROWING), min_size=1, max_size=3))
def test_size_of_each_output_of_a_function_is_within_its_bound(text: str, functions: list[str]) -> None:
    """The value is any text. Control characters and quotes make its JSON longer than the text."""
    expression = "@"
    for function in functions:
        expression = function.format(expression)
        expression = f"to_json({expression})" if "split" in function else expression
    bound = _Bounds().of(jmespath.compile(expression).parsed, extent(text))[0]
    with suppress(EvaluationError):
        result = evaluate(expression, text, 0)
        with suppress(UnusableValue):  # bytes that are no text
            assert len(write(result).encode(errors="surrogatepass")) <= bound.size


@pytest.mark.parametrize("growing", ["url_encode({})", "base64_encode({})", "to_json({})", "replace({}, '%', '%%')"])
def test_cost_grows_with_each_function_around_a_value(growing: str) -> None:
    document, expression, costs = extent_of('{"p":"' + "%" * 100 + '"}'), "p", []
    for _ in range(8):
        costs.append(cost(expression, document))
        expression = growing.format(expression)
    assert costs == sorted(set(costs))
    assert costs[-1] > 8 * costs[0]
