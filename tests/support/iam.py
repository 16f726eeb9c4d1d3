"""A small evaluator of IAM policies. It considers identity policies only.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Statement = Mapping[str, Any]


def allows(
    statements: Iterable[Statement],
    action: str,
    resource: str,
    context: Mapping[str, str | Sequence[str]] | None = None,
) -> bool:
    """Return whether the statements allow ``action`` on ``resource``. The default is to deny, and an explicit deny
    wins.

    ``context`` maps condition keys to values. A condition whose key is missing there is generally not met.
    """
    effects = {each["Effect"] for each in statements if _applies(each, action, resource, context or {})}
    return effects == {"Allow"}


def actions(statements: Iterable[Statement]) -> list[str]:
    """Return all actions that the statements name."""
    return [
        each for one in statements for each in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    ]


def _applies(statement: Statement, action: str, resource: str, context: Mapping[str, str | Sequence[str]]) -> bool:
    return (
        any(_like(pattern.lower(), action.lower()) for pattern in _list(statement["Action"]))
        and any(_like(pattern, resource) for pattern in _list(statement.get("Resource", "*")))
        and all(
            _meets(operator, _list(wanted), context.get(key))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _meets(operator: str, wanted: list[str], value: str | Sequence[str] | None) -> bool:
    if operator == "Null":
        return wanted == ["true" if value is None else "false"]
    if operator.startswith("ForAllValues:"):  # this operator is also true if the key is missing
        each_operator = operator.removeprefix("ForAllValues:")
        return all(_meets(each_operator, wanted, each) for each in _list(value or ()))
    if operator == "ArnNotEquals":  # a negated operator is true if the key is missing
        return value is None or not _meets("ArnEquals", wanted, value)
    if value is None:
        return False
    assert isinstance(value, str), "a key with several values needs ForAllValues or ForAnyValue"
    if operator in ("StringEquals", "Bool"):
        return value in wanted
    if operator in ("StringLike", "ArnEquals", "ArnLike"):  # ArnEquals accepts wildcards, like ArnLike
        return any(_like(pattern, value) for pattern in wanted)
    raise NotImplementedError(operator)


def _like(pattern: str, value: str) -> bool:
    regex = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(regex, value, re.DOTALL) is not None


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
