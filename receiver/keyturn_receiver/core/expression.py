"""JMESPath expressions that strangers wrote: checked when the binding is read, and weighed before they are evaluated.

A few characters can ask for an answer of any size: ``[@,@]|[@,@]|...`` doubles at each bar. So the cost is computed
first, from the parsed expression and the length of the document, and what costs too much is refused.
https://jmespath.org/specification.html
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

MAX_EXPRESSION = 4096  # characters; a longer one is a program, not a selector
MAX_NESTING = 6  # projections inside each other; weighing doubles with each
MAX_COST = 30_000_000  # units, each at most a tenth of a microsecond

# One character can become two escapes of six, and the whole of it is quoted: json.dumps, as to_string() calls it.
_ESCAPED = 12
_PROJECTIONS = frozenset({"projection", "value_projection", "filter_projection"})
_CHAINS = frozenset({"subexpression", "index_expression", "pipe", "key_val_pair", "flatten"})
_ANSWERS = frozenset({"comparator", "not_expression"})
_ALTERNATIVES = frozenset({"or_expression", "and_expression", "multi_select_list", "multi_select_dict"})


class EvaluationError(Exception):
    """The expression gives nothing that could be used; the text says why, free of values."""


def validate_expression(expression: str) -> str | None:
    """Say what is wrong with an expression, or None."""
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
    """Bound what it takes to evaluate an expression over a JSON text of ``size`` characters, in units; MAX_COST + 1
    stands for anything above MAX_COST."""
    return _bound(_parsed(expression).parsed, max(1, size))[1]


def evaluate(expression: str, document: object, size: int) -> object:
    """Select from a JSON document whose text has ``size`` characters. Raises NoAnswer."""
    if cost(expression, size) > MAX_COST:
        raise EvaluationError("it would make far more of the value than a Secret can hold: simplify the expression")
    try:
        found = _parsed(expression).search(document)
    except (JMESPathError, RecursionError, ArithmeticError, TypeError, ValueError, AttributeError):
        # The library's own text quotes the value it stumbled over, and some of its functions let Python's errors out.
        raise EvaluationError(
            "a function got a value of the wrong type: convert it with to_string() or to_number()"
        ) from None
    if found is None:
        raise EvaluationError(
            "there is no such property, or it is null: correct the expression, or add the property in AWS"
        )
    return found


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> ParsedResult:
    return jmespath.compile(expression)


def _nesting(node: Mapping[str, Any]) -> int:
    inner = max((_nesting(child) for child in _children(node)), default=0)
    return inner + (node["type"] in _PROJECTIONS or node["type"] == "expref")


def _children(node: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [child for child in node["children"] if isinstance(child, Mapping)]  # a slice's are numbers


def _bound(node: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Bound (size of the answer, cost) over an input of ``size``, both with what is shared counted each time."""
    kind, children = node["type"], _children(node)
    if kind in _PROJECTIONS:
        answer, spent = _each(children[1:], *_bound(children[0], size))
    elif kind in _CHAINS:
        answer, spent = size, 0
        for child in children:
            answer, more = _bound(child, answer)
            spent += more
    elif kind in _ALTERNATIVES or kind in _ANSWERS:
        parts = [_bound(child, size) for child in children]
        answer = sum(part for part, _ in parts) + sum(len(str(child.get("value"))) + 4 for child in children)
        spent = sum(more for _, more in parts) + answer
        answer = 5 if kind in _ANSWERS else answer
    elif kind == "function_expression":
        answer, spent = _function(node["value"], children, size)
    elif kind == "literal":
        answer, spent = len(str(node["value"])) + 2, 0
    else:  # field, index, slice, current, identity: no more than what there is
        answer, spent = size, 0
    return min(answer, MAX_COST + 1), min(spent + answer + 1, MAX_COST + 1)


def _each(expressions: Sequence[Mapping[str, Any]], size: int, spent: int) -> tuple[int, int]:
    # However the elements share ``size`` among them: the answer grows at least as fast as its input, so the extremes
    # are one element that has it all, and as many as can be that have nothing.
    answer = 0
    for expression in expressions:
        (whole, whole_cost), (least, least_cost) = _bound(expression, size), _bound(expression, 1)
        answer += whole + size * least
        spent += whole_cost + size * least_cost
    return answer, spent


def _function(name: str, arguments: Sequence[Mapping[str, Any]], size: int) -> tuple[int, int]:
    parts = [_bound(each, size) for each in arguments if each["type"] != "expref"]
    given = sum(part for part, _ in parts) + 1
    expressions = [child for each in arguments if each["type"] == "expref" for child in _children(each)]
    mapped, spent = _each(expressions, given, sum(more for _, more in parts))
    answer = given + mapped + 32  # what a number may take
    if name == "to_string":
        answer = _ESCAPED * given + 2
    elif name == "join" and len(parts) == 2:
        answer = (parts[0][0] + 1) * (parts[1][0] + 1)
    return answer, spent + answer + given * size.bit_length()  # sorting takes its logarithm
