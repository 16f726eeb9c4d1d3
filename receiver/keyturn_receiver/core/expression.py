"""JMESPath expressions of untrusted authors. An expression is validated with its binding, and its cost is bounded
before it is evaluated.

A short expression can have a huge result: the result of ``[@,@]|[@,@]|...`` doubles with each bar. So an upper bound of
the cost is computed first, from the parsed expression and the length of the document. A costly expression is refused.
The length of an expression and the number of its nodes are limited, too. So the parser and the computation of the bound
also end soon.
https://jmespath.org/specification.html
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jmespath.exceptions import JMESPathError, JMESPathTypeError, ParseError
from jmespath.lexer import Lexer
from jmespath.parser import ParsedResult, Parser

from keyturn_receiver.core.expression_advice import call_fault, syntax_advice, type_error
from keyturn_receiver.core.functions import EvaluationError
from keyturn_receiver.core.interpreter import Interpreter
from keyturn_receiver.core.json_text import UnusableValue, parse_literal, write

MAX_EXPRESSION = 4096  # characters; a longer one is a program, not a selector
MAX_NODES = 512  # of the syntax tree
MAX_DEPTH = 100  # levels of the syntax tree; the library visits the tree by recursion
MAX_NESTING = 6  # nested projections; each level multiplies the cost by the length of the document
MAX_COST = 5_000_000  # units of 0.1 microseconds, as measured on a slow core; this is half a second

# Each visit of a node costs VISIT units, and each call of a function costs CALL more units. Each byte of an
# intermediate result costs one unit. A test counts the visits of real evaluations.
VISIT = 10
CALL = 30

_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # an expression that needs neither a parser nor a bound
_MAX_CACHED = 128  # characters; a syntax tree takes up to a hundred times the memory of its text

# Functions whose output can be larger than all their arguments together. Each number is the most bytes of output for
# one byte of the arguments. Output and arguments are measured as JSON text. The reasons:
# - url_encode: "/" becomes "%2F".
# - to_string, to_json: if a string holds JSON, each quote and each backslash in it gets a backslash.
# - upper, lower: one letter can become three letters.
# - split: each element of the list needs two quotes and a comma.
# - url_decode, base64_decode: a decoded byte can take six bytes, such as "\u0000".
_GROWTH = {"url_encode": 3, "to_string": 2, "to_json": 2, "upper": 3, "lower": 3, "split": 4, "url_decode": 6,
           "base64_decode": 6}  # fmt: skip
# Kinds of nodes. In a chain, the input of each child is the output of the child before it. In other nodes, all children
# have the same input.
_PROJECTIONS = frozenset({"projection", "value_projection", "filter_projection"})
_CHAINS = frozenset({"subexpression", "index_expression", "pipe", "key_val_pair", "flatten"})
_BOOLEANS = frozenset({"comparator", "not_expression"})
_SORTING = ("sort", "max", "min")  # names of functions that make at most n log n comparisons begin with these
_COMBINATIONS = frozenset({"or_expression", "and_expression", "multi_select_list", "multi_select_dict"})


def validate_expression(expression: str, key: str = "KEY", aliases: Sequence[str] = ()) -> str | None:
    """Return what is wrong with the expression for a key, or None. ``aliases`` are the aliases of the AWS secrets, if
    the binding names several."""
    if not expression.strip():
        return "the expression is empty: name a property of the secret's JSON, or @ for the whole value"
    if len(expression) > MAX_EXPRESSION:
        return f"the expression is longer than {MAX_EXPRESSION} characters: shorten it"
    if is_property(expression):
        return None
    try:
        tree = _parsed(expression).parsed
    except (JMESPathError, RecursionError) as error:
        return f"{expression!r:.120} is not a JMESPath expression{syntax_advice(expression, key, aliases, error)}"
    nodes = nesting = 0
    for node, depth, inner in _walk(tree):
        nodes, nesting = nodes + 1, max(nesting, inner)
        if node["type"] == "function_expression" and (fault := call_fault(node["value"], len(node["children"]))):
            return fault
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            return (
                f"the expression has more than {MAX_NODES} parts, or {MAX_DEPTH} of them inside each other: simplify it"
            )
    if nesting > MAX_NESTING:
        return f"the expression has more than {MAX_NESTING} projections inside each other: simplify it"
    return None


def is_property(expression: str) -> bool:
    """Return whether the expression is only the name of a property. Such an expression costs next to nothing."""
    return _PROPERTY.fullmatch(expression) is not None


def syntax_tree(expression: str) -> Mapping[str, Any]:
    """Return the syntax tree of a valid expression, as the JMESPath library represents it."""
    tree: Mapping[str, Any] = _parsed(expression).parsed
    return tree


@dataclass(frozen=True, slots=True)
class Extent:
    """Upper bounds of a JSON value: the bytes of its text in UTF-8, and the number of values that it consists of."""

    size: int
    values: int

    def __add__(self, other: "Extent") -> "Extent":
        return Extent(self.size + other.size, self.values + other.values)

    def times(self, factor: int) -> "Extent":
        """Return the extent of ``factor`` values of this extent together."""
        return Extent(self.size * factor, self.values * factor)

    def at_most(self, limit: int) -> "Extent":
        """Return the extent, with ``limit`` in place of any larger number."""
        return Extent(min(self.size, limit), min(self.values, limit))


_LEAST = Extent(1, 1)


def extent_of(text: str) -> Extent:
    """Return the extent of a JSON text. The number of values is an upper bound: a comma, bracket or brace inside a
    string counts as a value too."""
    return Extent(max(1, len(text.encode(errors="surrogatepass"))), 1 + sum(map(text.count, ",[{")))


def cost(expression: str, document: Extent) -> int:
    """Return an upper bound, in units, of the cost of a valid expression over a document.

    MAX_COST + 1 stands for any cost above MAX_COST.
    """
    if is_property(expression):
        return min(document.size + VISIT, MAX_COST + 1)
    return _cost_and_keep(expression, document) if len(expression) <= _MAX_CACHED else _cost(expression, document)


@lru_cache(maxsize=1024)
def _cost_and_keep(expression: str, document: Extent) -> int:
    return _cost(expression, document)


def _cost(expression: str, document: Extent) -> int:
    try:
        return _Bounds().of(_parsed(expression).parsed, document)[1]
    except RecursionError:  # a deep literal in a deep tree; each of them is within its own limit
        return MAX_COST + 1


def evaluate(expression: str, document: object, spent: int) -> object:
    """Evaluate a valid expression over a JSON document.

    ``spent`` is the estimate that ``cost`` returned for this expression and this document. Raises EvaluationError. If
    ``spent`` is above MAX_COST, the expression is not evaluated.
    """
    if spent > MAX_COST:
        raise EvaluationError("its result could be far larger than a Secret can hold: simplify the expression")
    try:
        return Interpreter().evaluate(_parsed(expression).parsed, document)
    except UnusableValue as error:
        raise EvaluationError(str(error)) from None
    except JMESPathTypeError as error:
        raise type_error(error) from None
    except (JMESPathError, RecursionError, ArithmeticError, TypeError, ValueError, AttributeError):
        # The text of the caught exception is dropped, because it may quote the secret value. Built-in exceptions are
        # caught, too, because some functions of the JMESPath library raise them instead of JMESPathError.
        raise EvaluationError(
            "a function got a value of the wrong type: convert it with to_string() or to_number()"
        ) from None


def _parsed(expression: str) -> ParsedResult:
    return _parsed_and_kept(expression) if len(expression) <= _MAX_CACHED else _parse(expression)


@lru_cache(maxsize=512)
def _parsed_and_kept(expression: str) -> ParsedResult:
    return _parse(expression)


class _Lexer(Lexer):
    """Lexer that keeps the digits of numbers in backquotes. Numbers from AWS also keep their digits (``json_text``).

    The library's type stubs lack its private methods.
    """

    _text = ""  # the text of the latest literal, without its quotes

    def _consume_until(self, delimiter: str) -> str:
        self._text = super()._consume_until(delimiter)  # type: ignore[misc]
        return self._text

    def _consume_literal(self) -> dict[str, Any]:
        token: dict[str, Any] = super()._consume_literal()  # type: ignore[misc]
        with suppress(ValueError):  # the library reads a text that is not JSON as a string
            token["value"] = parse_literal(self._text.replace("\\`", "`"))
        return token


class _Parser(Parser):
    """Parser that uses ``_Lexer``. The library's parser has no parameter for a lexer."""

    def _parse(self, expression: str) -> ParsedResult:
        self._tokens = list(_Lexer().tokenize(expression))
        self._index = 0
        tree = self._expression(binding_power=0)  # type: ignore[attr-defined]
        if self._current_token() != "eof":  # type: ignore[attr-defined]
            token = self._lookahead_token(0)  # type: ignore[attr-defined]
            raise ParseError(token["start"], token["value"], token["type"], f"Unexpected token: {token['value']}")
        return ParsedResult(expression, tree)


def _parse(expression: str) -> ParsedResult:
    try:
        return _Parser().parse(expression)
    finally:
        Parser.purge()  # the library's own cache keeps 512 syntax trees of any size


def _walk(tree: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], int, int]]:
    """Yield each node, its depth in the tree, and its number of nested projections. A projection counts itself. An
    expression with & (expref) counts as a projection."""
    pending = [(tree, 1, 0)]
    while pending:
        node, depth, outer = pending.pop()
        nesting = outer + (node["type"] in _PROJECTIONS or node["type"] == "expref")
        yield node, depth, nesting
        pending.extend((child, depth + 1, nesting) for child in _children(node))


def _children(node: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [child for child in node["children"] if isinstance(child, dict)]  # the children of a slice are numbers


def _literal_length(value: object) -> int:
    try:
        return max(len(json.dumps(value)), len(write(value)))
    except UnusableValue:  # NaN and Infinity, which the library accepts as numbers
        return len(json.dumps(value))


class _Bounds:
    """Upper bounds of the outputs and costs of nodes. A cache keeps the bounds of a node for each extent of its input.

    A projection bounds its inner expression for two extents. If the bounds were not kept, each level of nested
    projections would double the work.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, Extent], tuple[Extent, int]] = {}

    def of(self, node: Mapping[str, Any], value: Extent) -> tuple[Extent, int]:
        """Return bounds of the output's extent and of the cost. A part that occurs twice in the output counts twice."""
        key = (id(node), value)
        if key not in self._known:
            output, spent = self._of(node, value)
            spent = min(spent + output.size + VISIT, MAX_COST + 1)
            self._known[key] = output.at_most(MAX_COST + 1), spent
        return self._known[key]

    def _of(self, node: Mapping[str, Any], value: Extent) -> tuple[Extent, int]:
        kind, children = node["type"], _children(node)
        if kind in _PROJECTIONS:
            return self._of_each(children[1:], *self.of(children[0], value))
        if kind in _CHAINS:
            spent = 0
            for child in children:
                value, child_cost = self.of(child, value)
                spent += child_cost
            return value, spent
        if kind in _COMBINATIONS or kind in _BOOLEANS:
            bounds = [self.of(child, value) for child in children]
            output = Extent(sum(len(str(child.get("value"))) + 4 for child in children), 1)
            output = sum((part for part, _ in bounds), output)
            spent = sum(child_cost for _, child_cost in bounds) + output.size
            return (Extent(5, 1) if kind in _BOOLEANS else output), spent
        if kind == "function_expression":
            return self._of_function(node["value"], children, value)
        if kind == "literal":
            length = _literal_length(node["value"])
            return Extent(length, length), 0
        return value, 0  # field, index, slice, current, identity: the output is a part of the input

    def _of_each(self, expressions: Sequence[Mapping[str, Any]], value: Extent, spent: int) -> tuple[Extent, int]:
        # The sizes of the elements are not known. In one extreme, a single element takes up the whole value. In the
        # other extreme, the value has as many minimal elements as possible. The output grows at least in proportion to
        # the input, so the sum of the bounds for both extremes covers all other cases.
        output, elements = Extent(2, 1), value.values
        for expression in expressions:
            (whole, whole_cost), (least, least_cost) = self.of(expression, value), self.of(expression, _LEAST)
            output += whole + (least + Extent(1, 0)).times(elements)
            spent += whole_cost + elements * least_cost
        return output, spent

    def _of_function(self, name: str, arguments: Sequence[Mapping[str, Any]], value: Extent) -> tuple[Extent, int]:
        bounds = [self.of(argument, value) for argument in arguments if argument["type"] != "expref"]
        total = sum((part for part, _ in bounds), _LEAST)
        expressions = [child for argument in arguments if argument["type"] == "expref" for child in _children(argument)]
        mapped, spent = self._of_each(expressions, total, sum(argument_cost for _, argument_cost in bounds))
        output = total + mapped + Extent(32, 1)  # 32 bytes hold the longest number
        if name in _GROWTH:
            # The size of the text limits how many elements a split makes: each element has at least one byte, or is
            # empty between two separators.
            output = Extent(_GROWTH[name] * total.size + 8, total.size + 2 if name == "split" else 1)
        elif name == "base64_encode":
            output = Extent(total.size * 4 // 3 + 8, 1)
        elif name == "from_json":
            output = Extent(total.size, total.size)
        elif name == "join" and len(bounds) == 2:
            (separator, _), (parts, _) = bounds
            output = Extent((separator.size + 1) * (parts.values + 1) + parts.size, 1)
        elif name == "replace" and len(bounds) == 3:
            (text, _), _, (new, _) = bounds
            output = Extent((new.size + 1) * (text.size + 1), 1)
        if name.startswith(_SORTING):
            spent += total.size * total.values.bit_length()
        return output, spent + CALL + total.size + output.size
