"""Interpreter: evaluates the syntax trees of expressions by the rules of JMESPath. It raises an error where JMESPath
would hide a null.

In JMESPath, a missing property is null, and an expression can put that null into a list, an object or a text. The
credential would be wrong, and nobody would notice: `postgres://db:null/app`.
"""

from collections.abc import Mapping
from typing import Any

from jmespath.visitor import TreeInterpreter

from keyturn_receiver.core.functions import EvaluationError, KeyturnFunctions, NothingSelected
from keyturn_receiver.core.json_text import Unusable, UnusableValue

_FUNCTIONS = KeyturnFunctions()

# Functions that would turn a null into another value.
_MAKING = frozenset({"to_string", "to_json", "to_array"})
# Kinds of nodes that only pass a null on. The null comes from the part that was evaluated last, or from the function.
_PASSING = frozenset({"or_expression", "and_expression", "pipe", "key_val_pair", "function_expression"})

_NO_NUMBER = "to_number() gets a value that is not a number: correct it in AWS, or leave the function out"


class Interpreter(TreeInterpreter):
    """Interpreter that lets no null into a value that an expression builds. Instead, it raises NothingSelected, or
    another EvaluationError if to_number() has returned the null. A null that the author wrote in backquotes may be a
    part of the value. For a value that cannot be used, the interpreter raises UnusableValue."""

    def __init__(self) -> None:
        super().__init__()
        self._null_is_written = False  # whether the author wrote the latest null in the expression
        self._null_error: EvaluationError = NothingSelected()  # the error to raise for the latest null

    def evaluate(self, tree: Mapping[str, Any], document: object) -> object:
        """Return what an expression selects from a document. Raises EvaluationError, UnusableValue, or the errors of
        the library."""
        result = self.visit(tree, document)
        if result is None:
            raise self._null_error
        return result

    def visit(self, node: Mapping[str, Any], *args: object, **kwargs: object) -> object:
        """Evaluate a node with its input, and return the result."""
        result: object = super().visit(node, *args, **kwargs)  # type: ignore[arg-type]  # the stubs' type of a node is not public
        if result is None:
            self._note_null(node)
        elif isinstance(result, Unusable):
            raise UnusableValue(result.why)
        return result

    def visit_part(self, node: Mapping[str, Any], value: object) -> object:
        """Evaluate a node whose result becomes a part of a new value, and return the result. Raises an error for a
        null, unless the author wrote the null."""
        result = self.visit(node, value)
        if result is None and not self._null_is_written:
            raise self._null_error
        return result

    def visit_multi_select_list(self, node: Mapping[str, Any], value: object) -> list[Any] | None:
        """Return the list that the expression makes."""
        return None if value is None else [self.visit_part(child, value) for child in node["children"]]

    def visit_multi_select_dict(self, node: Mapping[str, Any], value: object) -> object:
        """Return the object that the expression makes."""
        if value is None:
            return None
        return {child["value"]: self.visit_part(child, value) for child in node["children"]}

    def visit_function_expression(self, node: Mapping[str, Any], value: object) -> object:
        """Call the function, and return its result."""
        name: str = node["value"]
        visit = self.visit_part if name in _MAKING else self.visit
        arguments = [visit(child, value) for child in node["children"]]
        result: object = _FUNCTIONS.call_function(name, arguments)
        if result is None and name != "not_null":
            is_no_number = name == "to_number" and arguments[0] is not None
            self._null_is_written = False
            self._null_error = EvaluationError(_NO_NUMBER) if is_no_number else NothingSelected()
        return result

    def _note_null(self, node: Mapping[str, Any]) -> None:
        if node["type"] not in _PASSING:
            self._null_is_written = node["type"] == "literal"
            self._null_error = NothingSelected()
