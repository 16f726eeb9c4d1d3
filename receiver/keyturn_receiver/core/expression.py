"""JMESPath expressions of untrusted authors. Each is validated with its binding, and its cost is bounded before use.

A short expression can have a result of any size: that of ``[@,@]|[@,@]|...`` doubles with each bar. So an upper bound
of the cost is computed first, from the parsed expression and the length of the document. A costly expression is
refused.
https://jmespath.org/specification.html
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

MAX_EXPRESSION = 4096  # characters; a longer one is a program, not a selector
MAX_NESTING = 6  # nested projections; each level doubles the time to compute the cost
MAX_COST = 30_000_000  # units; one takes at most 0.1 microseconds

# In to_string(), json.dumps can turn one character into two escapes of six characters, and adds quotes.
_ESCAPED = 12
# Kinds of nodes. In a chain, each child evaluates the output of the child before it. In other nodes, all children
# evaluate the same input.
_PROJECTIONS = frozenset({"projection", "value_projection", "filter_projection"})
_CHAINS = frozenset({"subexpression", "index_expression", "pipe", "key_val_pair", "flatten"})
_BOOLEANS = frozenset({"comparator", "not_expression"})
_COMBINATIONS = frozenset({"or_expression", "and_expression", "multi_select_list", "multi_select_dict"})


class EvaluationError(Exception):
    """An expression has no usable result. The text says why, and quotes no value."""


def validate_expression(expression: str) -> str | None:
    """Return what is wrong with an expression, or None."""
    if not expression.strip():
        return "the expression is empty: name a property of the secret's JSON, or @ for the whole value"
    if len(expression) > MAX_EXPRESSION:
        return f"the expression is longer than {MAX_EXPRESSION} characters: shorten it"
    try:
        nesting = _nesting(_parsed(expression).parsed)
    except (JMESPathError, RecursionError):
        return (
            f"{expression!r:.120} is not a JMESPath expression: a property with '-' or other special characters"
            ' needs double quotes, as in "my-key"'
        )
    if nesting > MAX_NESTING:
        return f"the expression has more than {MAX_NESTING} projections inside each other: simplify it"
    return None


def cost(expression: str, size: int) -> int:
    """Return an upper bound, in units, of the cost of an expression over a JSON text of ``size`` characters.

    MAX_COST + 1 stands for any cost above MAX_COST.
    """
    return _bound(_parsed(expression).parsed, max(1, size))[1]


def evaluate(expression: str, document: object, size: int) -> object:
    """Evaluate an expression over a JSON document whose text has ``size`` characters. Raises EvaluationError."""
    if cost(expression, size) > MAX_COST:
        raise EvaluationError("its result could be far larger than a Secret can hold: simplify the expression")
    try:
        result = _parsed(expression).search(document)
    except (JMESPathError, RecursionError, ArithmeticError, TypeError, ValueError, AttributeError):
        # The library's own text may quote the value. Some of its functions raise built-in exceptions instead of its
        # own.
        raise EvaluationError(
            "a function got a value of the wrong type: convert it with to_string() or to_number()"
        ) from None
    if result is None:
        raise EvaluationError(
            "there is no such property, or it is null: correct the expression, or add the property in AWS"
        )
    return result


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> ParsedResult:
    return jmespath.compile(expression)


def _nesting(node: Mapping[str, Any]) -> int:
    inner = max((_nesting(child) for child in _children(node)), default=0)
    return inner + (node["type"] in _PROJECTIONS or node["type"] == "expref")


def _children(node: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [child for child in node["children"] if isinstance(child, Mapping)]  # the children of a slice are numbers


def _bound(node: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Return upper bounds of the output's size and of the cost. A shared value counts each time it appears."""
    kind, children = node["type"], _children(node)
    if kind in _PROJECTIONS:
        output, spent = _bound_each(children[1:], *_bound(children[0], size))
    elif kind in _CHAINS:
        output, spent = size, 0
        for child in children:
            output, child_cost = _bound(child, output)
            spent += child_cost
    elif kind in _COMBINATIONS or kind in _BOOLEANS:
        bounds = [_bound(child, size) for child in children]
        output = sum(part for part, _ in bounds) + sum(len(str(child.get("value"))) + 4 for child in children)
        spent = sum(child_cost for _, child_cost in bounds) + output
        output = 5 if kind in _BOOLEANS else output
    elif kind == "function_expression":
        output, spent = _bound_function(node["value"], children, size)
    elif kind == "literal":
        output, spent = len(str(node["value"])) + 2, 0
    else:  # field, index, slice, current, identity: the output is a part of the input
        output, spent = size, 0
    return min(output, MAX_COST + 1), min(spent + output + 1, MAX_COST + 1)


def _bound_each(expressions: Sequence[Mapping[str, Any]], size: int, spent: int) -> tuple[int, int]:
    # It is unknown how the elements share ``size``. The output grows at least in proportion to the input, so the
    # extremes are one element that takes up all of ``size``, and as many minimal elements as fit. Their bounds are
    # added up.
    output = 0
    for expression in expressions:
        (whole, whole_cost), (least, least_cost) = _bound(expression, size), _bound(expression, 1)
        output += whole + size * least
        spent += whole_cost + size * least_cost
    return output, spent


def _bound_function(name: str, arguments: Sequence[Mapping[str, Any]], size: int) -> tuple[int, int]:
    bounds = [_bound(argument, size) for argument in arguments if argument["type"] != "expref"]
    total = sum(part for part, _ in bounds) + 1
    expressions = [child for argument in arguments if argument["type"] == "expref" for child in _children(argument)]
    mapped, spent = _bound_each(expressions, total, sum(argument_cost for _, argument_cost in bounds))
    output = total + mapped + 32  # 32 characters hold the longest number
    if name == "to_string":
        output = _ESCAPED * total + 2
    elif name == "join" and len(bounds) == 2:
        output = (bounds[0][0] + 1) * (bounds[1][0] + 1)
    return output, spent + output + total * size.bit_length()  # sorting takes n log n
